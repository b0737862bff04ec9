"""How this process uses the machine: its threads and its memory.

The doors call `prepare` before anything imports torch. It knows nothing of what will run.
"""

import ctypes
import os
import platform

VARIABLES = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",  # a thread that waits spins for some 30 microseconds, then sleeps
    "THP_MEM_ALLOC_ENABLE": "1",  # huge pages for torch's large tensors, where the system has them
}

# Of glibc's <malloc.h>.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4


def prepare() -> None:
    """Set what torch and OpenMP read when they are loaded; what the user has set stays.

    Threads that spin while they wait make a run ten times slower beside any other busy process;
    threads that never do make policy calls and small updates wait for the system at every step.
    benchmarks/LOG.md has the figures between which this is a compromise.

    glibc gives every large tensor back to the system when it is freed and gets it again, page by
    page, a moment later: a sixth of an update on the CPU. Here it keeps what it has, at most the
    peak of one update.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 64 * 2**20)
