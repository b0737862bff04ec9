"""The study of a search: Optuna proposes values, and its journal in the root keeps every trial.

`command.py` asks and tells, the report reads. Only these functions know Optuna. One process at a
time may write.
"""

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from os import getpid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import lock_descriptor

from experiments.search.settings import PrunerSettings, Search
from experiments.search.space import Value

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

JOURNAL = "study.journal"
LOCK = "search.lock"
NAME = "search"  # of the only study in the journal
DEFINITION, JOBS, REASON = "definition", "jobs", "reason"  # attributes of the study and of trials


def check_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        ImportError: It is not, or is too old; the message has the command.
    """
    if find_spec("optuna") is None or find_spec("sklearn") is None:
        raise ImportError("search= needs `pip install -r requirements-search.txt`")
    import optuna

    if int(optuna.__version__.partition(".")[0]) < 5:
        raise ImportError(
            "search= needs Optuna 5: `pip install -r requirements-search.txt`, got "
            f"{optuna.__version__}"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def read_study(root: Path) -> "Study | None":
    """Return the study in a folder, for reading; None if there is none."""
    if not (root / JOURNAL).is_file():
        return None
    check_optuna()
    import optuna

    try:
        return optuna.load_study(study_name=NAME, storage=_storage(root))
    except KeyError:  # stopped before the study was created
        return None


@contextmanager
def open_study(search: Search, root: Path) -> "Iterator[Study]":
    """Create the study of a search or continue it, and keep other processes away meanwhile.

    Raises:
        ValueError: Another process runs the search, or the folder has the study of another one.
    """
    import optuna

    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("a+") as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            file.seek(0)
            raise ValueError(
                f"{root} is in use by another process ({file.read() or 'unknown'}). Wait for it, "
                "or choose another root=."
            )
        file.truncate(0)
        file.write(f"{socket.gethostname()} {getpid()}")
        file.flush()
        _cut_torn_line(root / JOURNAL)
        check_same_search(search, root)
        study = optuna.create_study(
            study_name=NAME,
            storage=_storage(root),
            direction=search.objective.direction,
            load_if_exists=True,
        )
        study.set_user_attr(DEFINITION, search.definition())
        # Not the same random numbers again after a restart.
        stream = np.random.SeedSequence([search.seed, len(study.get_trials(deepcopy=False))])
        study.sampler = _sampler(search, int(stream.generate_state(1)[0]))
        study.pruner = _pruner(search.pruner)
        for point in search.points:
            study.enqueue_trial(point, skip_if_exists=True)
        yield study


def check_same_search(search: Search, root: Path) -> None:
    """Check that a folder has no study of another search.

    Raises:
        ValueError: It has; the message says what differs.
    """
    study = read_study(root)
    old = study.user_attrs.get(DEFINITION) if study else None
    if old is None:
        return
    new = json.loads(json.dumps(search.definition()))
    different = [key for key in new if old.get(key) != new[key]]
    if different:
        raise ValueError(
            f"{root} holds a search that differs in {', '.join(different)}. Choose another root=, "
            "or delete the folder."
        )


def ask(study: "Study", search: Search) -> "Trial":
    """Begin a trial; its `params` are the proposed values."""
    return study.ask({key: one.distribution() for key, one in search.space.items()})


def begun(study: "Study") -> "list[FrozenTrial]":
    """Return the trials that have begun, in order; others only wait, in a grid."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state != TrialState.WAITING]


def unfinished(study: "Study") -> "list[Trial]":
    """Return the trials that an earlier process has begun and not finished."""
    import optuna
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    return [optuna.Trial(study, trial._trial_id) for trial in running]


def tell_value(study: "Study", trial: "Trial", value: float) -> None:
    """End a trial with its value."""
    study.tell(trial, value)


def tell_pruned(study: "Study", trial: "Trial") -> None:
    """End a trial that was stopped early; its value is the latest that was reported."""
    from optuna.trial import TrialState

    study.tell(trial, state=TrialState.PRUNED)


def tell_failed(study: "Study", trial: "Trial", reason: str) -> None:
    """End a trial that has no value."""
    from optuna.trial import TrialState

    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.FAIL)


def best(study: "Study") -> "FrozenTrial | None":
    """Return the best of the trials that ran to their end; None if there is none."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return study.best_trial if done else None


def phase(trial: "FrozenTrial") -> str:
    """Return the state of a trial in a word: running, finished, pruned or failed."""
    words = {"COMPLETE": "finished", "FAIL": "failed"}
    return words.get(trial.state.name, trial.state.name.lower())


def values_of(trial: "Trial | FrozenTrial") -> dict[str, Value]:
    """Return the proposed values by key."""
    params: dict[str, Any] = trial.params
    return params


def importances(study: "Study") -> dict[str, float]:
    """Return the shares of the keys in the variance of the values (fANOVA), the largest first.

    Empty if fewer than four trials ran to their end or all of them have the same value.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    done: Sequence[FrozenTrial] = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(done) < 4 or len({trial.value for trial in done}) == 1:
        return {}
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {key: float(share) for key, share in sorted(found.items(), key=lambda one: -one[1])}


def _storage(root: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(root / JOURNAL)))


def _sampler(search: Search, seed: int) -> "BaseSampler":
    from optuna.samplers import RandomSampler, TPESampler

    if search.sampler == "tpe":
        # All keys at once, as they interact. A running trial counts as a bad one, so that workers
        # try different values.
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return RandomSampler(seed=seed)  # a grid's trials are enqueued


def _pruner(settings: PrunerSettings) -> "BasePruner":
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if settings.name == "median":
        return MedianPruner(settings.startup_trials, n_warmup_steps=settings.warmup)
    return HyperbandPruner() if settings.name == "hyperband" else NopPruner()


def _cut_torn_line(journal: Path) -> None:
    """Remove the end of a journal that a process was writing when it died."""
    if not journal.is_file():
        return
    with journal.open("rb+") as file:
        text = file.read()
        if text and not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)
