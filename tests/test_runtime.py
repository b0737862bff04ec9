"""What the commands set before torch is loaded."""

import os
import platform
import subprocess
import sys

import pytest

MIB = 2**20
MEMORY = """
import sys
from dreamer.runtime import prepare
if sys.argv[1] == "prepared":
    prepare()
import torch

def memory():
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("RssAnon:"))

x = torch.empty(16 * 2**20).fill_(1.0)
full = memory()
del x
print(full - memory())
y = torch.empty(14 * 2**20).fill_(1.0)  # a little less: reading the file took of it, too
print(memory() - full)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc")
def test_memory_that_was_freed_is_kept_and_used_again():
    """A tensor of 64 MiB: how much is given back with it, and how much more the next one takes."""
    given_back, taken = {}, {}
    for mode in ("plain", "prepared"):
        command = [sys.executable, "-c", MEMORY, mode]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        given_back[mode], taken[mode] = map(int, printed.split())
    assert given_back["prepared"] < MIB < 60 * MIB < given_back["plain"]
    assert max(taken.values()) < 16 * MIB


def test_what_the_user_has_set_stays(monkeypatch):
    from dreamer.runtime import prepare

    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    for name in ("GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE"):
        monkeypatch.delenv(name, raising=False)
    prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
