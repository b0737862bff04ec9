"""Does a world model remember a cue over several sequences? With and without carried states.

`python -m benchmarks.memory build/memory` trains the world model of experiment=carried_state on a
fixed replay: one cue at the start of an episode, and a reward of 1 or -1 at its end that depends on
it, because the action is always the same. An episode has 7 steps and a sequence 4, so that none has
both. It writes the squared errors of the predicted rewards, 1 for a model without memory, and draws
them. Files that exist are not computed again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from dreamer.carried_state import CarriedState, NoCarriedState
from dreamer.collector import Collector
from dreamer.optim import EpsilonHatAdam, clip_gradients
from dreamer.replay.buffer import Replay
from dreamer.run.build import make_agent, make_envs, make_replay_config
from dreamer.run.paths import CONF

SEEDS, UPDATES, AVERAGED = 3, 800, 50
LABELS = {True: "carry_state=true", False: "carry_state=false"}


def errors(carry_state: bool, seed: int, updates: int) -> list[float]:
    """Train on 600 episodes; returns the mean squared error of rewards at the end, per update."""
    words = ["env=dummy", "task=vector_memory", "experiment=carried_state", f"seed={seed}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*words, f"replay.carry_state={carry_state}"])
    torch.manual_seed(seed)
    envs = make_envs(cfg, seed=seed)
    agent = make_agent(cfg, envs)
    model, config = agent.world_model, agent.config.world_model_optimizer
    parameters = list(model.parameters())
    optimizer = EpsilonHatAdam(parameters, config)
    carried = CarriedState() if carry_state else NoCarriedState()
    found = []
    with TemporaryDirectory() as folder:
        replay = Replay(
            Path(folder, "replay"),
            obs_shapes=envs.obs_shapes,
            action_size=envs.action_space.size,
            env_count=1,
            config=make_replay_config(cfg),
            seed=seed,
        )
        right = np.array([[0, 1]], np.float32)
        Collector(envs).collect(lambda step, state: (right, None), steps=3600, on_step=replay.add)
        for _ in range(updates):
            batch = replay.sample(cfg.batch.size, cfg.batch.length)
            output = model.loss(batch, carried.start(batch.reward.device))
            optimizer.zero_grad()
            output.loss.backward()
            clip_gradients(parameters, config.clip)
            optimizer.step()
            posterior = output.posterior.detach()
            carried.keep(posterior.at(-1))
            with torch.no_grad():
                error = model.heads["reward"](posterior.features).mean - batch.reward
            ends = batch.reward != 0
            found.append(error[ends].square().mean().item())
    return found


def draw(folder: Path) -> None:
    """Draw the errors, averaged over 50 updates, one line per seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for label, color in zip(LABELS.values(), ("tab:blue", "tab:orange"), strict=True):
        for seed in range(SEEDS):
            values = json.loads((folder / f"{label}-{seed}.json").read_text())
            means = np.array(values).reshape(-1, AVERAGED).mean(1)
            updates = AVERAGED * np.arange(1, len(means) + 1)
            axes.plot(updates, means, color=color, label=f"replay.{label}" * (seed == 0))
    axes.axhline(1, color="grey", linestyle=":", label="without memory")
    axes.set(xlabel="updates", ylabel="squared error of the last reward", ylim=(0, 1.3))
    axes.legend()
    figure.savefig(folder / "memory.png", dpi=150)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, or these words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--updates", type=int, default=UPDATES)
    return parser.parse_args(words)


def main() -> None:
    """Compute what is missing, print the errors at the end, and draw."""
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(SEEDS):
        for carry_state, label in LABELS.items():
            path = options.folder / f"{label}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(errors(carry_state, seed, options.updates)))
            last = np.mean(json.loads(path.read_text())[-4 * AVERAGED :])
            print(f"{label} seed {seed}: error {last:.2f} in the last {4 * AVERAGED} updates")
    draw(options.folder)


if __name__ == "__main__":
    main()
