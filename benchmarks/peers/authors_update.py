"""The authors' DreamerV2 (TensorFlow 2) at our sizes: one update, one policy call, on request.

Runs inside its own virtual environment, from the root of this repository, and speaks
`benchmarks/peers/protocol.py`; the benchmarks start it. It imports `dreamerv2` 2.2.0 as it is
installed and changes nothing in it; README.md says how it is configured.

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

POLICY_CALLS = 20  # of one `act`


def overrides(size: Size) -> dict[str, Any]:
    """What is set on top of the authors' own presets `defaults` and `atari`."""
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
    """The authors' modules `agent` and `common`, which must lie on the path, and their folder.

    Two imports of theirs no longer exist: an old name of a module, and a package that only their
    environments use.
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
    """Their agent, built by its first updates, and random experience of the right shapes."""

    def __init__(self, size: Size):
        """Build it as their train.py does, environments and files apart."""
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
        for _ in range(2):  # the first makes the variables, the second is traced with a state
            self.update()

    def update(self) -> None:
        """One call of their train function, on a batch as their data set gives it."""
        metrics = self._train(self._batch)
        metrics["critic_loss"].numpy()  # waits for the end

    def act(self, environments: int) -> np.ndarray:
        """One policy call of their collection, to the one-hot actions (E, A) in NumPy."""
        flags = {key: np.zeros(environments, bool) for key in FLAGS}
        image = np.zeros((environments, 64, 64, self._size.channels), np.uint8)
        obs = {"image": image, "reward": np.zeros(environments, np.float32), **flags}
        state = self._states.get(environments)
        outputs, self._states[environments] = self.agent.policy(obs, state, mode="train")
        return np.array(outputs["action"])

    def parameters(self) -> dict[str, int]:
        """Trained numbers of each network."""
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
    """Sequences (B, T, ...), batch first as theirs are: pixels uint8, one episode throughout."""
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
    """Who measures what: versions, sizes, configuration and parameter counts."""
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
    """What can be asked of it; nothing counts its operations."""

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
