"""SheepRL's DreamerV2 (0.8.4) at our sizes: updates and policy calls on request.

The benchmarks start it in SheepRL's virtual environment, in the root of this repository, and use
`benchmarks/peers/protocol.py`. It imports SheepRL without changes: `overrides` configures it, and
README.md lists the differences from ours.

    benchmarks/.venv-sheeprl/bin/python -m benchmarks.peers.sheeprl_update --size full
"""

import argparse
import copy
import importlib.util
import platform
import sys
import time
import types
from typing import Any

import numpy as np
import torch

from benchmarks.peers.protocol import Answer, own_output, peak_memory, serve
from benchmarks.peers.sizes import SIZES, Size

POLICY_CALLS = 20  # per `act`


def overrides(size: Size, *, precision: str, compile_losses: bool, device: str) -> list[str]:
    """Return the Hydra overrides that make SheepRL's update the same work as ours.

    They are the authors' released Atari configuration, as in SheepRL's `dreamer_v2_ms_pacman`, with
    our network sizes; learning rates and loss scales are the same, too.
    """
    model = "algo.world_model"
    return [
        "exp=dreamer_v2_ms_pacman",
        "env.grayscale=true",
        f"fabric.precision={precision}",
        f"fabric.accelerator={device}",
        f"algo.compile.enabled={str(compile_losses).lower()}",
        f"algo.per_rank_batch_size={size.batch_size}",
        f"algo.per_rank_sequence_length={size.batch_length}",
        f"algo.horizon={size.horizon}",
        f"algo.dense_units={size.units}",
        f"algo.mlp_layers={size.layers}",
        f"{model}.stochastic_size={size.variables}",
        f"{model}.discrete_size={size.classes}",
        f"{model}.encoder.cnn_channels_multiplier={size.depth}",
        f"{model}.recurrent_model.recurrent_state_size={size.deter}",
        f"{model}.transition_model.hidden_size={size.hidden}",
        f"{model}.representation_model.hidden_size={size.hidden}",
    ]


def compose(settings: list[str]) -> Any:
    """Compose the configuration for SheepRL's `train`."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf
    from sheeprl.utils.utils import dotdict  # pyright: ignore[reportMissingImports]

    with initialize_config_module("sheeprl.configs", version_base="1.3"):
        return dotdict(OmegaConf.to_container(compose("config", settings), resolve=True))


class SheepRL:
    """SheepRL's agent and optimisers, and random experience of the right shapes."""

    def __init__(self, cfg: Any, size: Size):
        """Build everything as `main` of its `dreamer_v2.py` does, without envs and files."""
        import gymnasium as gym
        import hydra
        from sheeprl.algos.dreamer_v2 import (  # pyright: ignore[reportMissingImports]
            dreamer_v2,
            utils,
        )

        # The settings of its command line.
        torch.set_float32_matmul_precision(cfg.float32_matmul_precision)
        torch.backends.cudnn.benchmark = cfg.torch_backends_cudnn_benchmark
        torch.distributions.Distribution.set_default_validate_args(cfg.distribution.validate_args)
        self.cfg, self._size, self._program, self._utils = cfg, size, dreamer_v2, utils
        self._fabric = hydra.utils.instantiate(cfg.fabric, _convert_="all")
        self._fabric.launch()
        self._fabric.seed_everything(0)
        image = gym.spaces.Box(0, 255, (size.channels, 64, 64), np.uint8)
        self.world_model, self.actor, self.critic, self._target_critic, self._player = (
            dreamer_v2.build_agent(
                self._fabric, (size.actions,), False, cfg, gym.spaces.Dict({"rgb": image})
            )
        )
        networks = self.world_model, self.actor, self.critic
        configs = cfg.algo.world_model, cfg.algo.actor, cfg.algo.critic
        self._optimizers = self._fabric.setup_optimizers(
            *(
                utils.build_optimizer(config.optimizer, network.parameters())
                for config, network in zip(configs, networks, strict=True)
            )
        )
        self._batch = random_batch(size, self._fabric.device)
        self._players: dict[int, Any] = {}
        self._updates = 0

    def update(self) -> None:
        """Run one iteration of its training loop: the copy of the critic if due, and `train`."""
        algo = self.cfg.algo
        if self._updates % algo.critic.per_rank_target_network_update_freq == 0:
            pairs = zip(self.critic.parameters(), self._target_critic.parameters(), strict=True)
            for parameter, target in pairs:
                target.data.copy_(parameter.data)
        batch = {key: value.float() for key, value in self._batch.items()}  # its sample_batches
        self._program.train(
            self._fabric,
            self.world_model,
            self.actor,
            self.critic,
            self._target_critic,
            *self._optimizers,
            batch,
            None,  # no metrics: less work than ours
            self.cfg,
            (self._size.actions,),
        )
        self._updates += 1

    @torch.inference_mode()
    def act(self, environments: int) -> np.ndarray:
        """Make one policy call as in its collection, from pixels to indices of actions (E,)."""
        player = self._player_of(environments)
        obs = {"rgb": np.zeros((environments, self._size.channels, 64, 64), np.uint8)}
        keys = self.cfg.algo.cnn_keys.encoder
        prepared = self._utils.prepare_obs(self._fabric, obs, cnn_keys=keys, num_envs=environments)
        action = player.get_actions(prepared, mask=None)
        torch.cat(action, -1).view(environments, -1).cpu().numpy()  # for its buffer
        return torch.stack([a.argmax(dim=-1) for a in action], dim=-1).cpu().numpy()

    def _player_of(self, environments: int) -> Any:
        """Return a player for this count: a player compiles only for that of its first call."""
        from sheeprl.utils.compile import compiled_player  # pyright: ignore[reportMissingImports]

        if environments not in self._players:
            player = copy.copy(self._player)
            player.num_envs = environments
            player.init_states()
            player.get_actions = compiled_player(
                types.MethodType(type(player).get_actions, player),
                self._fabric,
                self.cfg,
                cuda_graphs=False,
            )
            self._players[environments] = player
        return self._players[environments]

    def flops(self) -> int:
        """Count the floating-point operations of one update, without compilation."""
        from torch.utils.flop_counter import FlopCounterMode

        compiling, self.cfg.algo.compile.enabled = self.cfg.algo.compile.enabled, False
        try:
            with FlopCounterMode(display=False) as counter:
                self.update()
        finally:
            self.cfg.algo.compile.enabled = compiling
        return counter.get_total_flops()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self._fabric.device.type == "cuda":
            torch.cuda.synchronize()


def random_batch(size: Size, device: torch.device) -> dict[str, torch.Tensor]:
    """Make sequences (T, B, ...) of one episode, like those of its buffer, uint8 images."""
    generator = torch.Generator().manual_seed(0)
    steps = (size.batch_length, size.batch_size)
    image = (*steps, size.channels, 64, 64)
    choice = torch.randint(size.actions, steps, generator=generator)
    batch = {
        "rgb": torch.randint(256, image, dtype=torch.uint8, generator=generator),
        "actions": torch.nn.functional.one_hot(choice, size.actions),
        "rewards": torch.rand((*steps, 1), generator=generator),
        "terminated": torch.zeros(*steps, 1),
        "is_first": torch.zeros(*steps, 1),
    }
    return {key: value.to(device) for key, value in batch.items()}


def parameter_count(network: torch.nn.Module) -> int:
    """Count the trained parameters of a network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def main() -> None:
    """Build the peer and answer requests."""
    parser = argparse.ArgumentParser(description="SheepRL's update, on request.")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--compile", choices=("true", "false"), default="false")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if importlib.util.find_spec("cv2") is None:
        # Only its environments use OpenCV; the update does not need it.
        sys.modules["cv2"] = types.ModuleType("cv2")

    with own_output() as answers:
        size = SIZES[arguments.size]
        settings = overrides(
            size,
            precision=arguments.precision,
            compile_losses=arguments.compile == "true",
            device=arguments.device,
        )
        peer = SheepRL(compose(settings), size)
        serve(answers, describe(peer, arguments, settings), commands(peer, arguments.device))


def describe(peer: SheepRL, arguments: argparse.Namespace, settings: list[str]) -> Answer:
    """Return versions, sizes, configuration and parameter counts."""
    import sheeprl  # pyright: ignore[reportMissingImports]

    return {
        "peer": "sheeprl",
        "versions": {
            "sheeprl": sheeprl.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **vars(arguments),
        "compile": arguments.compile == "true",
        "sizes": SIZES[arguments.size].as_dict(),
        "overrides": settings,
        "parameters": {
            "world_model": parameter_count(peer.world_model),
            "actor": parameter_count(peer.actor),
            "critic": parameter_count(peer.critic),
        },
    }


def commands(peer: SheepRL, device: str) -> dict[str, Any]:
    """Return the supported requests."""

    def update() -> Answer:
        peer.synchronize()
        start = time.perf_counter()
        peer.update()
        peer.synchronize()
        return {"seconds": time.perf_counter() - start}

    def act(environments: int = 1) -> Answer:
        start = time.perf_counter()
        for _ in range(POLICY_CALLS):
            peer.act(environments)  # ends with actions on the CPU: no need to wait
        return {"seconds": (time.perf_counter() - start) / POLICY_CALLS}

    def memory() -> Answer:
        on_device = {"device_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {}
        return {**peak_memory(), **on_device}

    return {
        "update": update,
        "act": act,
        "flops": lambda: {"flops": peer.flops()},
        "memory": memory,
    }


if __name__ == "__main__":
    main()
