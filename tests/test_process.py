"""What the doors set before torch is loaded."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from dreamer.process import prepare
if sys.argv[1] == "prepared":
    prepare()
import torch
torch.empty(16 * 2**20).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.empty(16 * 2**20).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc")
def test_memory_that_was_freed_is_used_again():
    """Each tensor of 64 MiB would take 16384 page faults of 4 KiB, or 32 of 2 MiB."""
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    faults = {
        mode: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, mode],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for mode in ("plain", "prepared")
    }
    assert faults["prepared"] < 20 < 100 < faults["plain"]


def test_what_the_user_has_set_stays(monkeypatch):
    from dreamer.process import prepare

    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
