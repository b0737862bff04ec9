"""The authors' DreamerV2 (TensorFlow 2) at our sizes: updates and policy calls on request.

The benchmarks start it in its own virtual environment, in the root of this repository, and use
`benchmarks/peers/protocol.py`. It imports `dreamerv2` 2.2.0 without changes; README.md describes
the configuration.

    benchmarks/.venv-authors/bin/python -m benchmarks.peers.authors_update --size full
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.protocol import Answer, own_output, peak_memory, serve
from benchmarks.peers.sizes import SIZES, Size

POLICY_CALLS = 20  # per `act`


def overrides(size: Size) -> dict[str, Any]:
    """Return the changes to the authors' presets `defaults` and `atari`."""
    heads = ("reward_head", "discount_head", "actor", "critic")
    return {
        "precision": 32,
        "dataset.batch": size.batch_size,
        "dataset.length": size.batch_length,
        "imag_horizon": size.horizon,
        "rssm.deter": size.deter,
        "rssm.hidden": size.hidden,
        "rssm.stoch": size.variables,
        "rssm.discrete": size.classes,
        "encoder.cnn_depth": size.depth,
        "decoder.cnn_depth": size.depth,
        **{f"{head}.units": size.units for head in heads},
        **{f"{head}.layers": size.layers for head in heads},
    }


def import_program() -> tuple[Any, Any, Path]:
    """Import the authors' modules `agent` and `common`; also returns their folder.

    Two of their imports no longer exist and are replaced: an old name of a module, and a package
    that only their environments use.
    """
    import tensorflow as tf  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    precision = tf.keras.mixed_precision
    precision.experimental = precision
    sys.modules["tensorflow.keras.mixed_precision.experimental"] = precision
    if importlib.util.find_spec("gym") is None:
        sys.modules["gym"] = types.ModuleType("gym")
    (folder,) = importlib.util.find_spec("dreamerv2").submodule_search_locations  # pyright: ignore
    sys.path.append(folder)
    import agent  # pyright: ignore[reportMissingImports]
    import common  # pyright: ignore[reportMissingImports]

    return agent, common, Path(folder)


class Authors:
    """Their agent, and random experience of the right shapes."""

    def __init__(self, size: Size):
        """Build the agent as their train.py does, without environments and files."""
        from ruamel.yaml import YAML  # pyright: ignore[reportMissingImports]

        agent, common, folder = import_program()
        presets = YAML(typ="safe").load(folder / "configs.yaml")
        config = common.Config(presets["defaults"]).update(presets["atari"])
        config = config.update(overrides(size))
        obs_space = {
            "image": types.SimpleNamespace(shape=(64, 64, size.channels)),
            **{key: types.SimpleNamespace(shape=()) for key in ("reward", *FLAGS)},
        }
        act_space = {"action": types.SimpleNamespace(shape=(size.actions,), n=size.actions)}
        self._size = size
        self.agent = agent.Agent(config, obs_space, act_space, common.Counter())
        self._train = common.CarryOverState(self.agent.train)
        self._batch = random_batch(size)
        self._states: dict[int, Any] = {}
        for _ in range(2):  # the first creates the variables, the second is traced with a state
            self.update()

    def update(self) -> None:
        """Call their train function once, on a batch like those of their data set."""
        metrics = self._train(self._batch)
        metrics["critic_loss"].numpy()  # waits for the device

    def act(self, environments: int) -> np.ndarray:
        """Make one policy call as in their collection: one-hot actions (E, A) in NumPy."""
        flags = {key: np.zeros(environments, bool) for key in FLAGS}
        image = np.zeros((environments, 64, 64, self._size.channels), np.uint8)
        obs = {"image": image, "reward": np.zeros(environments, np.float32), **flags}
        state = self._states.get(environments)
        outputs, self._states[environments] = self.agent.policy(obs, state, mode="train")
        return np.array(outputs["action"])

    def parameters(self) -> dict[str, int]:
        """Count the trained parameters of each network."""
        model, behavior = self.agent.wm, self.agent._task_behavior
        networks = {
            "world_model": [model.encoder, model.rssm, *model.heads.values()],
            "actor": [behavior.actor],
            "critic": [behavior.critic],
        }
        return {
            name: sum(int(np.prod(v.shape)) for part in parts for v in part.trainable_variables)
            for name, parts in networks.items()
        }


FLAGS = ("is_first", "is_last", "is_terminal")


def random_batch(size: Size) -> dict[str, Any]:
    """Make sequences (B, T, ...) of one episode, batch first as in their code, uint8 images."""
    import tensorflow as tf  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    generator = np.random.default_rng(0)
    steps = (size.batch_size, size.batch_length)
    choice = generator.integers(size.actions, size=steps)
    batch = {
        "image": generator.integers(256, size=(*steps, 64, 64, size.channels), dtype=np.uint8),
        "action": np.eye(size.actions, dtype=np.float32)[choice],
        "reward": generator.random(steps, np.float32),
        **{key: np.zeros(steps, bool) for key in FLAGS},
    }
    return {key: tf.constant(value) for key, value in batch.items()}


def main() -> None:
    """Build the peer and answer requests."""
    parser = argparse.ArgumentParser(description="The authors' update, on request.")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with own_output() as answers:
        import tensorflow as tf  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
        peer = Authors(SIZES[arguments.size])
        serve(answers, describe(peer, arguments), commands(peer))


def describe(peer: Authors, arguments: argparse.Namespace) -> Answer:
    """Return versions, sizes, configuration and parameter counts."""
    versions = {
        name: importlib.metadata.version(name) for name in ("dreamerv2", "tensorflow-cpu", "keras")
    }
    return {
        "peer": "authors",
        "versions": {**versions, "python": platform.python_version()},
        **vars(arguments),
        "precision": "32-true",
        "compile": True,  # tf.function
        "device": "cpu",
        "sizes": SIZES[arguments.size].as_dict(),
        "overrides": overrides(SIZES[arguments.size]),
        "parameters": peer.parameters(),
    }


def commands(peer: Authors) -> dict[str, Any]:
    """Return the supported requests; its operations are not counted."""

    def update() -> Answer:
        start = time.perf_counter()
        peer.update()
        return {"seconds": time.perf_counter() - start}

    def act(environments: int = 1) -> Answer:
        start = time.perf_counter()
        for _ in range(POLICY_CALLS):
            peer.act(environments)
        return {"seconds": (time.perf_counter() - start) / POLICY_CALLS}

    return {"update": update, "act": act, "memory": peak_memory}


if __name__ == "__main__":
    main()
