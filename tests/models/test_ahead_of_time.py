"""Functions compiled ahead of time, and how long they are kept."""

import os

import pytest
import torch

from dreamer.models.ahead_of_time import UNUSED, load, make


def double(x: torch.Tensor) -> None:
    x.mul_(2)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_what_nobody_reads_any_more_is_deleted_when_another_is_made(tmp_path):
    read, unread, others = tmp_path / "read.pt2", tmp_path / "unread.pt2", tmp_path / "notes.txt"
    make(read, double, [torch.zeros(3)], [None])
    for path in (unread, others):
        path.touch()
    for path in (read, unread, others):
        os.utime(path, (0, path.stat().st_mtime - UNUSED - 60))
    x = torch.ones(3)
    load(read)([x])
    assert x.tolist() == [2, 2, 2]
    make(tmp_path / "new.pt2", double, [torch.zeros(4)], [None])
    assert {path.name for path in tmp_path.iterdir()} == {"read.pt2", "notes.txt", "new.pt2"}
