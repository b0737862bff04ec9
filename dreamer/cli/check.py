"""Check an environment before training: `python -m dreamer.check env=gym task=CartPole-v1`.

It takes the arguments of train.py and `steps=1000`, plays random actions, and prints spaces, keys,
speed, statistics and warnings.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dreamer.cli.command import HELP, fail, loaded, start, stopped
from dreamer.schema.usage import Usage

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from dreamer.envs.base import VectorEnvs
    from dreamer.envs.diagnostics import Act, Diagnostics
    from dreamer.types import TimeStep

USAGE = Usage(
    "Check an environment before training: play random actions, and print spaces, keys, speed, "
    "statistics and warnings.",
    "python -m dreamer.check [steps=1000] [key=value ...], or dreamer-check",
    (
        ("python -m dreamer.check env=gym task=CartPole-v1", "Checks a registered environment."),
        (
            "python -m dreamer.check env=gym task=my_module:MyEnv-v0 steps=5000",
            "Checks your own, for longer.",
        ),
    ),
)
REPEATED_STEPS = 50  # policy steps that are played twice


def main(words: Sequence[str]) -> None:
    """Check the environment of a command line.

    Raises:
        HydraException: The arguments are not a valid configuration.
        ValueError: The configuration or the environment is not supported.
        ImportError: A package that the environment needs is missing.
        EnvironmentFault: The environment failed more often than `env.max_restarts` allows.
    """
    import hydra
    from omegaconf import OmegaConf

    from dreamer.run.compose import register_suites
    from dreamer.run.config import check_values, checked, reasons
    from dreamer.run.overrides import prepared
    from dreamer.run.paths import CONF
    from dreamer.run.settings import CheckSettings
    from dreamer.schema.validation import validate_words

    register_suites()
    own = [word for word in words if word.startswith("steps=")]
    steps = CheckSettings(**validate_words(own, CheckSettings)).steps
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        others = prepared([word for word in words if not word.startswith("steps=")])
        cfg = hydra.compose("train", overrides=others)
    if "processes" in cfg.env:  # to check its raw observations, which stay in its process
        OmegaConf.update(cfg, "env.processes", False)
    check_values(cfg)  # before slow imports
    with reasons():
        check(checked(cfg), steps)


def check(cfg: "DictConfig", policy_steps: int) -> None:
    """Play, and print statistics and warnings."""
    from dreamer.callbacks.interrupt import Interrupt, Interrupted
    from dreamer.policy import RandomPolicy
    from dreamer.run.build import make_envs

    loaded()
    interrupt = Interrupt()

    def make() -> "tuple[VectorEnvs, Act]":
        envs = make_envs(cfg, seed=cfg.seed)
        policy = RandomPolicy(envs.action_space, cfg.seed)

        def act(step: "TimeStep") -> "np.ndarray":
            interrupt.check()
            return policy(step, None)[0]

        return envs, act

    try:
        with interrupt.listening():  # a KeyboardInterrupt is now the environment's own
            _check(cfg, policy_steps, make)
    except Interrupted as stop:
        stopped(f"Stopped by {stop}.", stop.signal_number)


def _check(
    cfg: "DictConfig", policy_steps: int, make: "Callable[[], tuple[VectorEnvs, Act]]"
) -> None:
    from dreamer.envs.diagnostics import diagnose, find_warnings, repeats
    from dreamer.run.build import make_agent

    envs, act = make()
    try:
        encoder = make_agent(cfg, envs).world_model.encoder
        coders = dict.fromkeys(encoder.image_keys, "images") | dict.fromkeys(
            encoder.vector_keys, "vectors"
        )
        found = diagnose(envs, act, policy_steps)
    finally:
        envs.close()
    lines = _describe(envs, coders, found)
    print("\n".join(f"{name:>13}  {line}" for name, line in lines))
    warnings = find_warnings(
        found,
        repeatable=repeats(make, REPEATED_STEPS),
        sequence=cfg.batch.length,
        across_episodes=cfg.replay.across_episodes,
        tanh_rewards=cfg.model.world_model.reward_transform == "tanh",
    )
    print("\n" + ("Warnings:" if warnings else "No warnings."))
    for line in warnings:
        print(f"  - {line}")
    for fault in {fault.line: fault for fault in reversed(found.faults)}.values():
        print(f"\n{fault.traceback.rstrip()}")


def _describe(
    envs: "VectorEnvs", coders: dict[str, str], found: "Diagnostics"
) -> list[tuple[str, str]]:
    """Return the lines of a table, each with its name."""
    import numpy as np

    from dreamer.run.header import describe_actions
    from dreamer.types import HIDDEN

    lines = [("actions", describe_actions(envs.action_space))]
    spaces = getattr(envs, "user_spaces", None)
    if spaces is not None:
        lines[:0] = [("spaces", f"observations {spaces.observation}, actions {spaces.action}")]
    for key, seen in found.observations.items():
        coder = coders.get(key)
        role = f"encoded with the {coder}" if coder else "not used: see image_keys, vector_keys"
        role = "for probes only" if key.startswith(HIDDEN) else role
        numbers = f"from {seen.minimum:.4g} to {seen.maximum:.4g}, mean {seen.mean:.4g}"
        lines.append(("observation", f"{key} {envs.obs_shapes[key]}, {role}; {numbers}"))
    rewards, episodes = found.rewards, len(found.returns)
    lines += [
        (
            "speed",
            f"{found.steps_per_second:,.0f} policy steps per second, of "
            f"{envs.action_repeat} frames each",
        ),
        (
            "rewards",
            f"from {rewards.min():.4g} to {rewards.max():.4g}, mean {rewards.mean():.4g}; "
            f"{np.mean(rewards != 0):.1%} of {len(rewards)} policy steps have one",
        ),
        (
            "episodes",
            f"{episodes}, of which {found.terminal} in a terminal state and "
            f"{episodes - found.terminal} by a time limit",
        ),
    ]
    if episodes:
        lines += [
            ("lengths", f"{_spread(found.lengths)} policy steps"),
            ("returns", f"{_spread(found.returns)}, with random actions"),
        ]
    return lines


def _spread(values: "np.ndarray") -> str:
    return f"{values.mean():.4g} on average, from {values.min():.4g} to {values.max():.4g}"


def run() -> None:
    """Run the command with the arguments of this process, and end the process."""
    words = sys.argv[1:]
    start("a check:", words or sorted(HELP))
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from dreamer.run.compose import help_lines, known_keys
    from dreamer.run.overrides import explain
    from dreamer.run.settings import CheckSettings
    from dreamer.schema.help import keys, print_lines

    if not words or HELP & set(words):
        own = keys({}, CheckSettings, title="Keys of this command:")
        print_lines(help_lines(USAGE, words, own))
        sys.exit(0 if words else 2)
    try:
        main(words)
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    except (HydraException, OmegaConfBaseException) as error:
        known = lambda: ["steps", *known_keys(words)]  # noqa: E731
        fail(explain(error, known))
    except KeyboardInterrupt:
        stopped("Stopped by SIGINT.")
    except Exception as error:
        from dreamer.envs.faults import EnvironmentFault  # slow, but loaded by now

        if not isinstance(error, EnvironmentFault):
            raise
        fail(error)


if __name__ == "__main__":
    run()
