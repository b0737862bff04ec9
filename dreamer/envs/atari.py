"""Atari games in ale-py's C++ vector environment, with the paper's protocol.

Runs build them from conf/env/atari.yaml. No other file imports ale_py, which is GPL-2.0.
"""

from typing import TYPE_CHECKING, Annotated

import numpy as np

from dreamer.envs.atari_scores import reference_returns
from dreamer.envs.base import ActionRepeat, EnvCount, Task, TimeLimit
from dreamer.envs.rendering import enlarge, shrink
from dreamer.envs.tasks import atari_game, find_task, print_once, require_at_least
from dreamer.schema.types import Count, Fraction, PositiveCount, doc
from dreamer.schema.validation import checked_call
from dreamer.types import ActionSpace, TimeStep

if TYPE_CHECKING:
    from ale_py.vector_env import AtariVectorEnv

IMAGE_SIZE = 64  # pixels, both edges
SCREEN_SIZE = (210, 160)  # pixels, height and width of an NTSC screen


@checked_call
def make_atari(
    task: Task,
    *,
    count: EnvCount,
    seed: int,
    action_repeat: ActionRepeat,
    sticky_action_prob: Annotated[
        Fraction,
        doc(
            "Probability per frame that the console repeats its previous action.",
            source="Machado et al. 2018",
        ),
    ],
    max_no_op_frames: Annotated[
        Count,
        doc("Maximum no-ops after a reset.", unit="frames", source="the authors' code"),
    ],
    time_limit_frames: TimeLimit,
    full_action_space: Annotated[
        bool, doc("Use all 18 actions, as in the paper; false: the game's minimal set.")
    ],
    grayscale: Annotated[bool, doc("Use one channel, as in the paper; false: RGB.")],
    resize_through: Annotated[
        PositiveCount | None,
        doc(
            "Edge of an intermediate image, 84 in the paper; null: resize the screen at once.",
            unit="pixels",
            source="the authors' code",
        ),
    ] = None,
    native_render: Annotated[
        bool,
        doc(
            "Emulate twice; `render` gives the colour screen at full size. Evaluations with a "
            "video always do."
        ),
    ],
) -> "AtariEnvs":
    """Build E emulators of one game.

    Args:
        task: Any game in ale-py, as "ms_pacman", "MsPacman" or "ALE/MsPacman-v5"; the version does
            not matter.
        count: E, emulators that step together, on one thread per core.
        seed: Of the no-ops and the sticky actions.
        action_repeat: Frames per policy step; the image is the maximum of the last two.
        sticky_action_prob: Probability per frame that the console repeats its previous action.
        max_no_op_frames: The number of no-ops after a reset is uniform in [0, this].
        time_limit_frames: The episode is truncated here: `is_last` without `is_terminal`.
        full_action_space: All actions of the console, or the game's minimal set.
        grayscale: One channel, else RGB.
        resize_through: The screen becomes a square of this edge, at least 64, and then 64 x 64.
        native_render: Emulate a second time, in colour at full size, for `render`.

    Raises:
        ImportError: ale-py is not installed.
        ValueError: The task is unknown, or a number is out of range.

    Source: Machado et al. 2018, https://arxiv.org/abs/1709.06009 ; DreamerV2, Section 3.
    """
    try:
        from ale_py import ALEInterface, roms
        from ale_py.vector_env import AtariVectorEnv
    except ImportError as error:
        raise ImportError("Atari games need `pip install 'ale-py>=0.11.2,<0.13'`") from error

    require_at_least(0, seed=seed)
    if resize_through is not None:
        require_at_least(IMAGE_SIZE, resize_through=resize_through)
    paths = {name: roms.get_rom_path(name) for name in roms.get_all_rom_ids()}
    playable = [name for name, path in paths.items() if path and ALEInterface.isSupportedROM(path)]
    game = find_task(atari_game(task), playable, "Atari")
    if atari_game(task) != task:
        print_once(
            f"{task} plays {game} with the settings of `env`: frame skip {action_repeat}, sticky "
            f"actions {sticky_action_prob:g}. env=gym task={task} plays it as Gymnasium does."
        )

    def emulate(height: int, width: int, grayscale: bool) -> "AtariVectorEnv":
        return AtariVectorEnv(
            game,
            count,
            img_height=height,
            img_width=width,
            grayscale=grayscale,
            stack_num=1,
            frameskip=action_repeat,
            maxpool=True,
            noop_max=max_no_op_frames + 1,  # ale-py's bound is exclusive
            max_num_frames_per_episode=time_limit_frames,
            repeat_action_probability=sticky_action_prob,
            full_action_space=full_action_space,
            reward_clipping=False,
            use_fire_reset=False,
            episodic_life=False,
            autoreset_mode="NextStep",
        )

    edge = resize_through or IMAGE_SIZE
    return AtariEnvs(
        emulate(edge, edge, grayscale),
        emulate(*SCREEN_SIZE, grayscale=False) if native_render else None,
        seed=seed,
        action_repeat=action_repeat,
        reference_returns=reference_returns(game),
    )


class AtariEnvs:
    """E emulators of one game behind the `VectorEnvs` protocol, built by `make_atari`.

    The image of an episode's last step does not show its last frame. It is the previous step's
    image, combined with the second-to-last frame if the action repeat reached it. The authors'
    wrapper does the same when the game ends.
    """

    def __init__(
        self,
        emulators: "AtariVectorEnv",
        screens: "AtariVectorEnv | None",
        *,
        seed: int,
        action_repeat: int,
        reference_returns: dict[str, float],
    ):
        self.count = emulators.num_envs
        self.obs_shapes = {"image": (1 if emulators.grayscale else 3, IMAGE_SIZE, IMAGE_SIZE)}
        # Skiing and Lost Luggage do not use the button: they have 9 actions instead of 18.
        self.action_space = ActionSpace(len(emulators.ale.get_action_set()), discrete=True)
        self.action_repeat = action_repeat
        self.reference_returns = reference_returns
        self._emulators: list[AtariVectorEnv] = [emulators, screens] if screens else [emulators]
        # With ale-py's consecutive seeds, runs with neighbouring seeds would share episodes.
        seeds = np.random.SeedSequence(seed).generate_state(self.count)
        self._seeds: np.ndarray | None = (seeds >> 1).astype(np.int64)  # (E,), in [0, 2**31)
        self._is_last = np.zeros(self.count, bool)
        self._screens = np.zeros(0, np.uint8)
        self._strength = np.ones(self.count, np.float32)  # (E,), full strength of the joystick

    def reset(self) -> TimeStep:
        """See `VectorEnvs`."""
        pixels = [emulator.reset(seed=self._seeds)[0] for emulator in self._emulators]
        self._seeds = None  # later resets continue the emulators' random streams
        self._is_last = np.zeros(self.count, bool)
        zeros = np.zeros(self.count, np.float32)
        return self._make_step(pixels, zeros, np.ones(self.count, bool), zeros.astype(bool))

    def step(self, action: np.ndarray) -> TimeStep:
        """See `VectorEnvs`."""
        self.start_step(action)
        return self.finish_step()

    def start_step(self, action: np.ndarray) -> None:
        """See `StepsInBackground`."""
        # ale-py hangs on an action index out of range.
        assert action.shape == (self.count, self.action_space.size), action.shape
        choice = action.argmax(1)  # (E,)
        for emulator in self._emulators:
            emulator.ale.send(choice, self._strength)  # `emulator.send` would check it again

    def finish_step(self) -> TimeStep:
        """See `StepsInBackground`."""
        steps = [emulator.recv() for emulator in self._emulators]
        is_first = self._is_last
        _, reward, terminated, truncated, _ = steps[0]
        self._is_last = terminated | truncated
        pixels = [step[0] for step in steps]
        return self._make_step(pixels, reward.astype(np.float32), is_first, terminated)

    def render(self) -> np.ndarray:
        """See `VectorEnvs`: the colour screen with `native_render`, else the observation."""
        return self._screens if len(self._emulators) == 2 else enlarge(self._screens, 4)

    def close(self) -> None:
        """See `VectorEnvs`."""
        self._emulators.clear()  # this also ends their threads

    def _make_step(
        self,
        pixels: list[np.ndarray],
        reward: np.ndarray,
        is_first: np.ndarray,
        is_terminal: np.ndarray,
    ) -> TimeStep:
        image = pixels[0]  # (E, 1, 64, 64), or (E, 1, 64, 64, 3) in colour; or a larger square
        if image.ndim == 5:
            image = np.ascontiguousarray(np.moveaxis(image[:, 0], -1, 1))  # (E, 3, 64, 64)
        if image.shape[-1] != IMAGE_SIZE:
            image = shrink(image, IMAGE_SIZE)
        self._screens = pixels[1][:, 0] if len(pixels) == 2 else image
        return TimeStep({"image": image}, reward, is_first, self._is_last, is_terminal)
