"""Golden data of the authors' program: cases that remember which of their arrays were compared.

A test decorated with `golden("06_rssm_*")` runs once for every case of every such file and fails
if it leaves one result or gradient of its case uncompared; if told so, once more in bfloat16.
Nothing here knows a network.
"""

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounding import UNIT_ROUNDOFF, Rounding, change, measure_rounding
from torch import Tensor, nn

from dreamer.convert import load_reference_weights, reference_parameters

FOLDER = Path(os.environ.get("DREAMER_GOLDEN", Path(__file__).parents[1] / "golden"))
RESULTS = ("out", "grad", "grad_norm", "gradnorm")
SHARED = ""  # the case of the results that all cases of a file have in common


class Golden:
    """One file."""

    def __init__(self, path: Path):
        with np.load(path) as file:
            self.arrays = {k: file[k] for k in file.files}
        self.meta = json.loads(str(self.arrays.pop("meta")))
        self.name = path.stem
        self.parameters: dict[str, dict] = self.meta["cases"]
        self.config: dict = self.meta.get("config", {})

    def cases(self) -> list["Case"]:
        """Everything that has results, listed in the meta or not."""
        scopes = {}  # ordered, unlike a set
        for key in self.arrays:
            first, second, *_ = key.split("/")
            if first in RESULTS:
                scopes[SHARED] = True
            elif second in RESULTS:
                scopes[first] = True
        return [Case(self, name) for name in scopes | self.parameters]


@functools.cache
def load(stem: str) -> Golden:
    """The file of that name, read once."""
    return Golden(FOLDER / f"{stem}.npz")


class Case:
    """One case of a file: its inputs as tensors, its results to compare with."""

    bf16 = False  # whether it is about results in bfloat16

    def __init__(self, golden: Golden, name: str):
        self.golden = golden
        self.name = name
        self.config = golden.config
        self.parameters = golden.parameters.get(name, {})
        prefix = f"{name}/" if name else ""
        self.expected = {
            key.removeprefix(prefix): array
            for key, array in golden.arrays.items()
            if f"{key}/".startswith(tuple(f"{prefix}{kind}/" for kind in RESULTS))
        }
        self.compared: set[str] = set()
        # Inputs are the case's own, or those of the case that it names, or shared by all.
        inputs = str(self.parameters.get("inputs", "")).split("/")[0]
        self._scopes = [prefix, f"{inputs}/", ""]

    def __str__(self) -> str:
        return f"{self.golden.name}-{self.name or 'shared'}"

    def array(self, key: str) -> np.ndarray:
        """An input, as it is in the file."""
        arrays = self.golden.arrays
        return next(arrays[scope + key] for scope in self._scopes if scope + key in arrays)

    def __getitem__(self, key: str) -> Tensor:
        return torch.tensor(self.array(key))

    def under(self, folder: str) -> dict[str, np.ndarray]:
        """All inputs below a folder, by the rest of their names."""
        for scope in self._scopes:
            start = f"{scope}{folder}/"
            found = {
                k.removeprefix(start): x
                for k, x in self.golden.arrays.items()
                if k.startswith(start)
            }
            if found:
                return found
        return {}

    def __contains__(self, key: str) -> bool:
        return any(scope + key in self.golden.arrays for scope in self._scopes)

    def load(self, module: nn.Module, folder: str = "w") -> None:
        """Set all weights of a network to those below a folder."""
        load_reference_weights(module, self.under(folder))

    def check(self, key: str, actual: Tensor, *, atol: float = 1e-5) -> None:
        """Compare one result or gradient at the tolerance of its kind."""
        expected = self.expected[key]
        result = actual.detach().cpu().numpy()
        assert result.shape == expected.shape, f"{self} {key}: {result.shape} {expected.shape}"
        self.compare(key, result, expected, tolerance(key, expected, atol))
        self.compared.add(key)

    def compare(
        self, key: str, result: np.ndarray, expected: np.ndarray, limit: np.ndarray
    ) -> None:
        """Fail where the result is further away than the limit; nan is what only nan equals."""
        error = np.abs(np.subtract(result, expected, dtype=float))  # of booleans, too
        same = (error <= limit) | (np.isnan(result) & np.isnan(expected))
        assert same.all(), f"{self} {key}: off by up to {error.max()}"

    def check_all(self, folder: str, actual: Mapping[str, Tensor], *, atol: float = 1e-5) -> None:
        """Compare all results below a folder with the values of the same names."""
        for key in self.expected:
            if key.startswith(f"{folder}/"):
                self.check(key, actual[key.removeprefix(f"{folder}/")], atol=atol)

    def check_gradients(self, module: nn.Module, folder: str = "grad/w") -> None:
        """Compare the gradients of a network's parameters, as far as they are in the file."""
        self.check_all(folder, {k: torch.tensor(x) for k, x in reference_gradients(module).items()})

    def assert_complete(self) -> None:
        """Fail if a result was never compared."""
        left = sorted(self.expected.keys() - self.compared)
        assert not left, f"{self}: {len(left)} of {len(self.expected)} were not compared: {left}"


class RecordedCase(Case):
    """Keeps the results instead of comparing them, to measure what rounding does to them."""

    bf16 = True

    def __init__(self, golden: Golden, name: str):
        super().__init__(golden, name)
        self.results: dict[str, np.ndarray] = {}  # by case and key

    def compare(
        self, key: str, result: np.ndarray, expected: np.ndarray, limit: np.ndarray
    ) -> None:
        """Keep the result."""
        self.results[f"{self.name}/{key}"] = result


class RoundedCase(Case):
    """Allows every result, as a whole, what rounding may do to it."""

    bf16 = True

    def __init__(self, golden: Golden, name: str, rounding: Rounding):
        super().__init__(golden, name)
        self.rounding = rounding
        self.loose: list[str] = []  # results that could be half wrong unnoticed

    def compare(
        self, key: str, result: np.ndarray, expected: np.ndarray, limit: np.ndarray
    ) -> None:
        """Fail if the norm of the error is more than float32 and rounding explain."""
        error, size = change(result, expected), np.linalg.norm(np.nan_to_num(expected))
        explained = self.rounding.limit(f"{self.name}/{key}")
        if explained > size / 2:
            self.loose.append(key)
        explained += np.linalg.norm(np.nan_to_num(limit))
        if key.startswith("grad/"):  # autocast also adds them up over steps in bfloat16
            explained += UNIT_ROUNDOFF * size
        assert error <= explained, f"{self} {key}: off by {error}, more than {explained}"

    def assert_complete(self) -> None:
        """Fail if results were never compared, or so generously that it says little."""
        super().assert_complete()
        assert len(self.loose) <= len(self.expected) / 2, f"{self} hardly checks {self.loose}"


def tolerance(key: str, expected: np.ndarray, atol: float) -> np.ndarray:
    """What float32 may be off, number by number."""
    size = np.abs(expected)
    if key.startswith("grad"):
        return 1e-3 * size + 2e-4 * size.max(initial=0)
    return 1e-4 * size + atol


def reference_gradients(module: nn.Module) -> dict[str, np.ndarray]:
    """Gradients by the authors' names and in their layout; zero where there is none."""
    return {
        name: weight.to_reference(
            torch.zeros_like(weight.parameter)
            if weight.parameter.grad is None
            else weight.parameter.grad
        )
        for name, weight in reference_parameters(module).items()
    }


def global_norm(module: nn.Module) -> Tensor:
    """Of all gradients of a network."""
    return torch.nn.utils.get_total_norm(
        [p.grad for p in module.parameters() if p.grad is not None]
    )


PATTERNS: set[str] = set()  # of all imported tests
PARAMETRISED: list[tuple[str, str]] = []  # file and case, of all imported tests


def every(case: Case) -> bool:
    """Whichever."""
    return True


def golden(
    pattern: str,
    where: Callable[[Case], bool] = every,
    *,
    bf16: bool = False,
):
    """Run the test once for each case of the files that match; see the module's docstring."""
    cases = [
        case
        for path in sorted(FOLDER.glob(f"{pattern}.npz"))
        for case in load(path.stem).cases()
        if where(case)
    ]
    PATTERNS.add(pattern)
    PARAMETRISED.extend((case.golden.name, case.name) for case in cases)
    runs = {str(case): (case.golden.name, case.name, False) for case in cases}
    if bf16:
        runs |= {f"{case}-bf16": (case.golden.name, case.name, True) for case in cases}

    def decorate(test: Callable[..., None]):
        if not runs:  # a set without such a case: no test, rather than a skipped one
            return None

        def run(stem: str, name: str, half: bool, **fixtures: Any):
            if half:
                rounding = rounding_of(stem, name)
                case = RoundedCase(load(stem), name, rounding)
                with torch.autocast("cpu", torch.bfloat16), rounding.choices():
                    test(case, **fixtures)
            else:
                case = Case(load(stem), name)
                test(case, **fixtures)
            assert case.expected, f"{case} has nothing to compare"
            case.assert_complete()

        def plain(stem: str, name: str, half: bool):
            run(stem, name, half)

        def with_kernels(stem: str, name: str, half: bool, optimized: Any):
            run(stem, name, half, optimized=optimized)

        takes_optimized = "optimized" in inspect.signature(test).parameters
        chosen = with_kernels if takes_optimized else plain

        @functools.cache
        def rounding_of(stem: str, name: str) -> Rounding:
            fixtures = {"optimized": lambda network: network} if takes_optimized else {}

            def record() -> dict[str, np.ndarray]:
                case = RecordedCase(load(stem), name)
                test(case, **fixtures)
                return case.results

            return measure_rounding(record)

        chosen.__name__ = chosen.__qualname__ = test.__name__
        chosen.__module__ = test.__module__
        return pytest.mark.parametrize(("stem", "name", "half"), runs.values(), ids=runs)(chosen)

    return decorate


def swap_time(x: Tensor) -> Tensor:
    """(B, T, ...) of the replay <-> (T, B, ...) of ours."""
    return x.transpose(0, 1)


def channels_first(x: Tensor) -> Tensor:
    """(..., h, w, C) -> (..., C, h, w)."""
    return x.movedim(-1, -3)


def channels_last(x: Tensor) -> Tensor:
    """(..., C, h, w) -> (..., h, w, C)."""
    return x.movedim(-3, -1)
