"""Saves the last and the best state of a run.

Lightning collects the state: weights, optimisers, counters, the replay's cursor, other callbacks.
This adds the random states and decides when and where to save; tensors and plain types only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import EveryUpdates, FrameCallback, during
from dreamer.callbacks.interrupt import Interrupted
from dreamer.callbacks.metrics import Metrics
from dreamer.callbacks.mirror import Mirror
from dreamer.checkpoint_file import PREVIOUS, install
from dreamer.envs.group import EnvironmentFault
from dreamer.files import move_aside, warn_once
from dreamer.schema.types import PositiveCount, doc
from dreamer.schema.validation import checked_call
from dreamer.types import Batch

SCORE = "eval/return_mean"  # what "best" means


class Checkpoint(FrameCallback):
    """Writes `last.ckpt` and `best.ckpt`, and keeps the one before the last.

    A file replaces an earlier one only after it has been read back.
    """

    @checked_call
    def __init__(
        self,
        directory: Path,
        metrics: Metrics,
        *,
        every_frames: Annotated[PositiveCount, doc("Interval between checkpoints.", unit="frames")],
        every_updates: EveryUpdates = None,
        mirror: Annotated[
            str | None,
            doc(
                "Address where copies are kept, and from which an empty folder resumes; null: none."
            ),
        ] = None,
    ):
        """Keep checkpoints in `directory`; the last one is saved at every interval."""
        super().__init__(every_frames, every_updates)
        self._directory = directory
        self._metrics = metrics
        self.address = mirror
        self.mirror: Mirror | None = None  # of `address`; copies the run folder
        self.saves_at_start = False  # although the run resumes
        self._best = float("-inf")
        self._judged_at: int | None = None  # count at the latest evaluation that was compared
        self._started = False
        self._random_states: dict[str, torch.Tensor] = {}

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Start the schedule, and save the state after the prefill."""
        super().on_start(trainer, agent)
        self._started = True
        # Here, because creating a data loader draws from torch's generator.
        if "torch" in self._random_states:
            torch.set_rng_state(self._random_states["torch"])
        if "cuda" in self._random_states and torch.cuda.is_available():
            torch.cuda.set_rng_state(self._random_states["cuda"])
        if agent.updates == 0 or self.saves_at_start:
            self._save(trainer, "last")

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Save the best state after a new best evaluation, and the last state when it is due."""
        self._save_best(trainer)
        super().on_update(trainer, agent, metrics, batch)

    def on_due(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        """Save the last state."""
        self._save(trainer, "last")

    def on_end(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Save the state at the end."""
        self._save_best(trainer)
        self._save(trainer, "last")

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save the state, whatever ended the run.

        A prefill is saved only if it was interrupted or the environment failed, to be resumed with
        the same configuration. Otherwise another configuration may start anew.
        """
        assert isinstance(pl_module, DreamerAgent)
        in_prefill = pl_module.updates == 0 and pl_module.policy_steps > 0
        resumable = Interrupted | EnvironmentFault
        if self._started or (in_prefill and isinstance(exception, resumable)):
            self._save(trainer, "last")

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and torch's random states."""
        state: dict[str, Any] = {"best": self._best, "torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._best = state_dict["best"]
        self._random_states = {k: state_dict[k].cpu() for k in ("torch", "cuda") if k in state_dict}

    def _save_best(self, trainer: pl.Trainer) -> None:
        """Save the best state after an evaluation; of equal scores, the later counts.

        So the best state of a run without rewards is that of its last evaluation.
        """
        evaluated_at = self._metrics.written_at.get(SCORE)
        if evaluated_at == self._judged_at:
            return
        self._judged_at = evaluated_at
        score = self._metrics.latest[SCORE]
        if score >= self._best:
            self._best = score
            self._save(trainer, "best")

    @during("saving")
    def _save(self, trainer: pl.Trainer, name: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{name}.ckpt"
        draft = self._directory / f".{name}.ckpt"
        if path.is_dir():
            warn_once(f"{path} is a folder; it is now {move_aside(path)}.")
        draft.unlink(missing_ok=True)  # a link is not followed
        try:
            trainer.save_checkpoint(draft, weights_only=False)
            install(draft, path, previous=self._directory / PREVIOUS if name == "last" else None)
        finally:
            draft.unlink(missing_ok=True)
        if self.mirror is not None:
            self.mirror.saved(path)
