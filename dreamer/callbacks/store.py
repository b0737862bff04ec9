"""Writes every episode of a run to an address while the run goes on: `replay.store`.

It hands over the numbers of steps only: a thread reads them from the replay, which is on disk. So
nothing waits in memory, and what a slow address misses can be written until it is overwritten.
"""

import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl

from dreamer.callbacks.frame import AgentCallback
from dreamer.callbacks.metrics import Metrics
from dreamer.data.address import Place
from dreamer.data.store import EpisodeWriter, Name, list_names, name_of
from dreamer.data.uploads import Counts, Uploads
from dreamer.replay.buffer import Replay

CAPACITY = 20_000  # episodes that may wait: their numbers only


class Job(NamedTuple):
    """An episode to write."""

    name: Name
    start: int  # number of its first step in the replay


class Store(AgentCallback):
    """Writes the episodes of a replay, those of before a resume included."""

    def __init__(
        self, place: Place, replay: Replay, directory: Path, metrics: Metrics, *, resumes: bool
    ):
        """Watch a replay.

        Args:
            place: Of this run's episodes; others may write there, too.
            replay: Tells which episodes end.
            directory: Where its files are.
            metrics: Gets the counts.
            resumes: Whether a checkpoint will be loaded.
        """
        self._place, self._replay, self._resumes = place, replay, resumes
        self._writer = EpisodeWriter(place, directory)
        self._uploads: Uploads[Job] = Uploads(
            place.address, "episodes", self._upload, capacity=CAPACITY
        )
        self._run = uuid.uuid4().hex[:8]  # in the names of its files
        # Steps per environment that the run has made before the first one of this replay: it is
        # filled anew on another machine.
        self._offset = 0
        self._refilled_at: int | None = None
        self._since = 0  # steps per environment before which everything came from the store
        self._past = Counts(0, 0, 0, 0)  # of earlier processes
        self._early: (
            list[tuple[int, int, int]] | None
        ) = []  # ended before the run's number is known
        self._known: set[tuple[int, int, int]] | None = None if resumes else set()
        replay.on_episode = self._ended
        metrics.add_source(self._metrics)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to write; a resumed run with what the last process has left."""
        early = self._early or []
        self._early = None
        if self._resumes:
            early = [x for x in self._replay.complete_episodes() if self._at(x[1]) >= self._since]
            early = sorted(early, key=lambda episode: episode[2])[-CAPACITY:]
        for episode in early:
            self._ended(*episode)

    def refilled(self, steps: int) -> None:
        """Note that the replay was filled from the store; its newest step has another number now.

        Args:
            steps: Per environment at the checkpoint. Its state is loaded after this call.
        """
        self._refilled_at = steps

    def close(self) -> None:
        """Write the unfinished episodes, too: a run that goes on begins others."""
        if self._early is None:
            for episode in self._replay.open_episodes():
                self._ended(*episode)
        self._uploads.close()

    def join(self, seconds: float) -> None:
        """Wait so long for what is left."""
        self._uploads.join(seconds)

    def state_dict(self) -> dict[str, Any]:
        """Return what names the files, and the counts."""
        counts = self._counts()._asdict()
        return {"run": self._run, "offset": self._offset, "since": self._since, "counts": counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue them."""
        self._run = state_dict["run"]
        self._offset, self._since = state_dict["offset"], state_dict["since"]
        if self._refilled_at is not None:
            self._since = self._at(self._refilled_at)
            self._offset += self._refilled_at - self._replay.steps
        self._past = Counts(**state_dict["counts"])

    def _at(self, step: int) -> int:
        """Return the number of a step of the replay in the whole run."""
        return step + self._offset

    def _ended(self, env: int, start: int, stop: int) -> None:
        if self._early is not None:
            self._early.append((env, start, stop))
        elif stop - start > 1:
            name = name_of(self._run, env, self._at(start), self._at(stop))
            self._uploads.put(name.key, Job(name, start))

    def _upload(self, job: Job) -> bool | None:
        """Write an episode in the background; None if an earlier process has."""
        if self._known is None:
            self._known = {name.key for name in list_names(self._place, self._run)}
        if job.name.key in self._known:
            return None
        return self._writer.write(job.name, job.start)

    def _counts(self) -> Counts:
        now, past = self._uploads.counts, self._past
        return Counts(
            past.written + now.written,
            now.waiting,
            past.dropped + now.dropped,
            past.failed + now.failed,
        )

    def _metrics(self) -> dict[str, float]:
        counts = self._counts()
        return {
            "store/written": counts.written,
            "store/waiting": counts.waiting,
            "store/dropped": counts.dropped,
            "store/failed": counts.failed,
        }
