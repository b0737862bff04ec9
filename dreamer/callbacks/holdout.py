"""Scores held-out episodes, which the agent never learns from, as often as it is evaluated.

It passes log-likelihoods, KL and errors of open-loop predictions to the metrics, and videos to the
loggers. It changes neither weights nor random states.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import FrameCallback, during
from dreamer.callbacks.metrics import Metrics
from dreamer.data.holdout import HeldOut
from dreamer.loggers import log_video
from dreamer.losses import mean_where
from dreamer.models.vision import preprocess
from dreamer.models.world_model import METRIC_NAMES, WorldModel
from dreamer.schema.types import Count, PositiveCount, doc
from dreamer.schema.validation import checked_call
from dreamer.types import Batch
from dreamer.video import open_loop_grid


class Holdout(FrameCallback):
    """Scores the world model on held-out sequences; a failure does not end the run."""

    @checked_call
    def __init__(
        self,
        held_out: HeldOut,
        metrics: Metrics,
        run_dir: Path,
        *,
        every_frames: Annotated[
            PositiveCount | None,
            doc("Interval between scores; null: that of the evaluation.", unit="frames"),
        ],
        every_updates: Annotated[
            PositiveCount | None,
            doc("The same with collect=none; null: that of the evaluation.", unit="updates"),
        ],
        episodes: Annotated[PositiveCount, doc("Held-out episodes to score, at most.")],
        context: Annotated[
            PositiveCount, doc("Steps with observations before predictions.", unit="policy steps")
        ],
        horizons: Annotated[
            Sequence[PositiveCount],
            doc("Steps after which open-loop predictions are scored.", unit="policy steps"),
        ],
        sequences: Annotated[Count, doc("Sequences of the video, side by side; 0: no video.")],
        fps: Annotated[PositiveCount, doc("Frames per second of the video.")],
    ):
        """Score `held_out` at every interval, and at the end.

        Args:
            held_out: From `episodes` episodes, each of `context` plus the longest horizon.
            metrics: writes the scores.
            run_dir: videos go to its folder `videos`.
            every_frames: interval between scores.
            every_updates: the interval in a run that collects nothing.
            episodes: number of episodes, at most.
            context: steps whose observations the model gets.
            horizons: steps of prediction after which errors are measured.
            sequences: of the video, side by side.
            fps: frames per second of the video.
        """
        super().__init__(every_frames or 1, every_updates)
        self._held_out, self._metrics, self._run_dir = held_out, metrics, run_dir
        self._context, self._horizons = context, horizons
        self._sequences, self._fps = sequences, fps
        self._scored_at = -1

    def on_due(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        """Score."""
        self._score(trainer, agent)

    def on_end(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Score, unless this was just done."""
        if self._scored_at != self.now(agent):
            self._score(trainer, agent)

    @during("scoring")
    def _score(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        self._scored_at = self.now(agent)
        devices = [agent.device] if agent.device.type == "cuda" else []
        with self._metrics.tolerating("the held-out score", "holdout/failures"):
            held_out = to_device(self._held_out, agent.device)
            with torch.random.fork_rng(devices):  # with all devices, torch warns
                scores = score(agent.world_model, held_out)
                scores |= open_loop_errors(
                    agent.world_model, held_out, self._context, self._horizons
                )
                videos = self._draw(agent.world_model, held_out)
            self._metrics.write(trainer, self.now(agent), scores)
            for name, images in videos.items():
                log_video(
                    trainer.loggers,
                    f"video/{name}",
                    np.ascontiguousarray(images),
                    self._run_dir / "videos" / f"{name}_{self.now(agent):010d}.mp4",
                    frames=self.now(agent),
                    fps=self._fps,
                )

    def _draw(self, model: WorldModel, held_out: HeldOut) -> dict[str, np.ndarray]:
        """Draw open-loop predictions of the longest sequences: (T, height, width, 3) by name."""
        lengths = held_out.mask.sum(0)
        chosen = lengths.argsort(descending=True, stable=True)[: self._sequences]
        if not len(chosen) or (shortest := int(lengths[chosen].min())) <= self._context:
            return {}
        part = Batch(
            {k: x[:shortest, chosen] for k, x in held_out.batch.obs.items()},
            *(x[:shortest, chosen] for x in held_out.batch[1:]),
        )
        videos = {}
        for key, prediction in model.open_loop(part, self._context).items():
            truth = (part.obs[key].float() / 255).cpu().numpy()
            images = open_loop_grid(truth, prediction.float().cpu().numpy(), self._context)
            only = len(model.decoder.image_keys) == 1
            videos["holdout_open_loop" if only else f"holdout_open_loop_{key}"] = images
        return videos


def to_device(held_out: HeldOut, device: torch.device) -> HeldOut:
    """Move sequences to a device."""
    batch = held_out.batch
    obs = {key: x.to(device) for key, x in batch.obs.items()}
    return HeldOut(Batch(obs, *(x.to(device) for x in batch[1:])), held_out.mask.to(device))


@torch.no_grad()
def score(model: WorldModel, held_out: HeldOut) -> dict[str, float]:
    """Average negative log-likelihoods and the KL over all steps, in nats, by metric."""
    output, mask = model.loss(held_out.batch), held_out.mask.float()
    terms = {"kl": output.kl}
    terms |= {f"{METRIC_NAMES.get(k, k)}_nll": -x for k, x in output.log_probs.items()}
    terms |= {f"observation_nll_{k}": -x for k, x in output.obs_log_probs.items()}
    means = {k: mean_where(model.per_sequence(x), mask) for k, x in terms.items()}
    return {f"holdout/{key}": x.item() for key, x in means.items()}


@torch.no_grad()
def open_loop_errors(
    model: WorldModel, held_out: HeldOut, context: int, horizons: Sequence[int]
) -> dict[str, float]:
    """Average squared errors of predictions from the actions alone, by metric.

    Of observations, they are averaged over all their numbers, images from 0 to 1; the reward is
    transformed. A horizon that no sequence reaches has no metric.
    """
    batch = held_out.batch
    if context >= len(batch.reward):
        return {}
    features = model.open_loop_features(batch, context)[context:]  # (T - context, B, F)
    reward = model.heads["reward"](features).mean - model.targets(batch)["reward"][context:]
    errors: dict[str, Tensor] = {"reward": reward.square()}
    for key, prediction in model.decoder(features).items():
        truth = batch.obs[key][context:]
        if truth.shape == prediction.mode.shape:  # not for class images
            squared = (prediction.mode - preprocess(truth)).float().square()
            errors[key] = squared.flatten(2).mean(-1)
    scores = {}
    for horizon in horizons:
        known = held_out.mask[context:][horizon - 1 : horizon]
        if known.any():
            for key, error in errors.items():
                name = "reward_error" if key == "reward" else f"observation_error_{key}"
                value = mean_where(error[horizon - 1 : horizon], known.float())
                scores[f"holdout/{name}_after_{horizon}"] = value.item()
    return scores
