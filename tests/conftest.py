"""What every test shares: quiet threads, and tiny sizes that are pairwise different."""

import os

# Before torch starts its threads: spinning ones slow a busy machine tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
