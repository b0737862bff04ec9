"""No golden file and no case of one is left out, whichever folder they come from."""

import importlib
from pathlib import Path

from golden import FOLDER, PARAMETRISED, PATTERNS, load


def test_every_case_of_every_file_is_tested():
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(path.stem)  # which registers its cases
    expected = {
        (path.stem, case.name)
        for path in FOLDER.glob("[0-9]*.npz")
        for case in load(path.stem).cases()
    }
    missing = [pattern for pattern in PATTERNS if not any(FOLDER.glob(f"{pattern}.npz"))]
    assert not missing
    assert sorted(PARAMETRISED) == sorted(expected)  # each once
