"""Settings of this process's threads and memory.

The entry points call `prepare` before anything imports torch.
"""

import ctypes
import os
import platform

VARIABLES = {
    "WANDB_ERROR_REPORTING": "false",  # this program sends nothing that nobody asked for
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",  # a waiting thread spins for about 30 microseconds, then sleeps
    "THP_MEM_ALLOC_ENABLE": "1",  # huge pages for torch's large tensors, if the system has them
}

# Of glibc's <malloc.h>.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4


def prepare() -> None:
    """Set variables that torch and OpenMP read on import, unless the user has set them.

    If waiting threads spin, a run becomes ten times slower beside any other busy process. If they
    never spin, policy calls and small updates wait for the system at every step. The values are a
    compromise; benchmarks/LOG.md has the measurements.

    By default, glibc returns every freed large tensor to the system and soon requests it again,
    which costs a sixth of an update on the CPU. Here it keeps freed memory, at most the peak of
    one update.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 64 * 2**20)
