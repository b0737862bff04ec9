"""Atari held against a plain loop over the emulator's single-game interface, written here."""

import sys

import numpy as np
import pytest

from dreamer.envs.atari import make_atari

ale_py = pytest.importorskip("ale_py")
from ale_py import roms  # noqa: E402

OPTIONS = dict(
    action_repeat=4,
    sticky_action_prob=0.25,
    max_no_op_frames=0,
    time_limit_frames=108000,
    full_action_space=True,
    grayscale=True,
    resize_through=None,
    native_render=False,
)

GAMES = """
alien amidar assault asterix asteroids atlantis bank_heist battle_zone beam_rider berzerk
bowling boxing breakout centipede chopper_command crazy_climber demon_attack double_dunk enduro
fishing_derby freeway frostbite gopher gravitar hero ice_hockey james_bond kangaroo krull
kung_fu_master montezuma_revenge ms_pacman name_this_game phoenix pitfall pong private_eye qbert
riverraid road_runner robotank seaquest skiing solaris space_invaders star_gunner tennis
time_pilot tutankham up_n_down venture video_pinball wizard_of_wor yars_revenge zaxxon
"""


def make(task, *, count=1, seed=0, **changes):
    return make_atari(task, count=count, seed=seed, **OPTIONS | changes)


class PlainGame:
    """One game played frame by frame in the way the paper's protocol says."""

    def __init__(self, game, seed, *, sticky=0.25, full=True, colour=False, limit=108000, repeat=4):
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setInt("random_seed", seed)
        self.ale.setFloat("repeat_action_probability", sticky)
        self.ale.loadROM(roms.get_rom_path(game))
        self.actions = self.ale.getLegalActionSet() if full else self.ale.getMinimalActionSet()
        self.screen = self.ale.getScreenRGB if colour else self.ale.getScreenGrayscale
        self.limit, self.repeat = limit, repeat

    def reset(self):
        self.ale.reset_game()
        self.frames = 0
        return self.screen()

    def step(self, action):
        """Reward, terminal, time limit, and the pooled screen; None where the episode ends."""
        reward, screens = 0, []
        for _ in range(self.repeat):
            reward += self.ale.act(self.actions[action])
            self.frames += 1
            screens.append(self.screen())
            if self.ale.game_over() or self.frames >= self.limit:
                terminal = self.ale.game_over()
                return reward, terminal, not terminal, None
        return reward, False, False, np.maximum(*screens[-2:])


def area_means(values, target=64):
    """Average (size, ...) over equal stretches of the first axis, cutting pixels: (target, ...)."""
    size = len(values)
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, 0)])
    edges = np.linspace(0, size, target + 1)
    whole = np.minimum(edges.astype(int), size - 1)
    part = (edges - whole).reshape(-1, *[1] * (values.ndim - 1))
    return np.diff(total[whole] + part * values[whole], axis=0) * target / size


def shrink(screen):
    """Average a screen (210, 160, ...) over areas: (C, 64, 64)."""
    rows = area_means(np.atleast_3d(screen).astype(float))  # (64, 160, C)
    return area_means(rows.swapaxes(0, 1)).T


def assert_shows(image, screen):
    """The image (C, 64, 64) is the screen shrunk by areas, rounded to the nearest grey."""
    np.testing.assert_allclose(image, shrink(screen), rtol=0, atol=0.501)


def emulator_seed(seed, env=0):
    """The seed that environment `env` is documented to get."""
    return int(np.random.SeedSequence(seed).generate_state(env + 1)[env] >> 1)


def one_hot(actions, size):
    return np.eye(size, dtype=np.float32)[np.atleast_1d(actions)]


@pytest.mark.parametrize(
    ("game", "full", "colour", "limit", "rounds"),
    [
        # Several episodes that the game ends; large rewards, nine actions.
        pytest.param("breakout", True, False, 108000, 300, marks=pytest.mark.slow),
        pytest.param("ms_pacman", False, True, 108000, 500, marks=pytest.mark.slow),
        ("pong", True, False, 406, 210),  # a time limit within a policy step
        # A time limit at its end; negative rewards.
        pytest.param("boxing", True, False, 240, 140, marks=pytest.mark.slow),
    ],
)
def test_steps_equal_those_of_a_plain_loop(game, full, colour, limit, rounds):
    seed, env, count = 11, 1, 2
    envs = make(
        game,
        count=count,
        seed=seed,
        full_action_space=full,
        grayscale=not colour,
        time_limit_frames=limit,
    )
    plain = PlainGame(game, emulator_seed(seed, env), full=full, colour=colour, limit=limit)
    size = envs.action_space.size
    assert size == len(plain.actions)
    step, screen = envs.reset(), plain.reset()
    assert_shows(step.obs["image"][env], screen)

    rng = np.random.default_rng(0)
    rewards, ends = [], []
    for _ in range(rounds):
        actions = rng.integers(size, size=count)
        reset_due = step.is_last[env]
        step = envs.step(one_hot(actions, size))
        if reset_due:
            reward, terminal, cut, screen = 0, False, False, plain.reset()
        else:
            reward, terminal, cut, screen = plain.step(actions[env])
        assert step.reward[env] == reward
        assert step.is_first[env] == reset_due
        assert step.is_terminal[env] == terminal
        assert step.is_last[env] == (terminal or cut)
        if screen is not None:
            assert_shows(step.obs["image"][env], screen)
        rewards.append(reward)
        ends += [terminal] if terminal or cut else []
    assert np.any(rewards)  # else the test would show nothing
    assert set(ends) == {limit == 108000}


@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
def test_images_may_go_through_84_by_84_as_in_the_paper(colour):
    at_once, through = (
        make("pong", seed=5, grayscale=not colour, resize_through=edge) for edge in (None, 84)
    )
    plain = PlainGame("pong", emulator_seed(5), colour=colour)
    assert through.obs_shapes == at_once.obs_shapes
    images = [envs.reset().obs["image"][0] for envs in (at_once, through)]
    rows = area_means(np.atleast_3d(plain.reset()).astype(float), 84)
    between = np.rint(area_means(rows.swapaxes(0, 1), 84))  # (84, 84, C), transposed
    expected = area_means(area_means(between).swapaxes(0, 1)).transpose(2, 0, 1)
    np.testing.assert_allclose(images[1], expected, rtol=0, atol=1.01)  # it is rounded twice
    assert images[1].shape == images[0].shape and images[1].dtype == np.uint8
    assert np.abs(images[1].astype(float) - images[0]).max() > 3
    at_once.close(), through.close()


def test_an_intermediate_image_is_no_smaller_than_the_last():
    with pytest.raises(ValueError, match="`resize_through` must be at least 64, got 42"):
        make("pong", resize_through=42)


def test_rewards_are_not_clipped():
    envs = make("ms_pacman")
    envs.reset()
    up = one_hot(2, 18)
    assert max(envs.step(up).reward[0] for _ in range(200)) >= 10


def test_losing_a_life_ends_nothing():
    envs, seed = make("breakout", sticky_action_prob=0.0), emulator_seed(0)
    plain = PlainGame("breakout", seed, sticky=0.0)
    step = envs.reset()
    plain.reset()
    lives, losses = plain.ale.lives(), 0
    while not step.is_last[0]:
        step = envs.step(one_hot(1, 18))  # serve, and miss
        plain.step(1)
        losses += plain.ale.lives() < lives
        lives = plain.ale.lives()
    assert losses == 5
    assert step.is_terminal[0]


@pytest.mark.parametrize("full_action_space", [True, False])
def test_no_button_is_pressed_at_a_reset(full_action_space):
    """Breakout waits for the player to serve: however long nobody does, there is no ball."""
    envs = make("breakout", max_no_op_frames=30, full_action_space=full_action_space)
    start = envs.reset().obs["image"]
    nothing = one_hot(0, envs.action_space.size)
    for _ in range(50):
        np.testing.assert_array_equal(envs.step(nothing).obs["image"], start)


@pytest.mark.slow
@pytest.mark.parametrize(("longest", "resets"), [(5, 10), (30, 40)])
def test_a_reset_idles_up_to_the_given_number_of_frames(longest, resets):
    """Freeway's traffic shows how many frames went by."""
    plain = PlainGame("freeway", 0, sticky=0.0)
    screens = [plain.reset(), *((plain.ale.act(0), plain.screen())[1] for _ in range(40))]
    shown = {}  # the picture after so many frames -> that number
    for frames, screen in enumerate(screens):
        shown.setdefault(np.rint(shrink(screen)).astype(np.uint8).tobytes(), frames)
    envs = make("freeway", count=5, max_no_op_frames=longest, sticky_action_prob=0.0)
    seen = [shown[image.tobytes()] for _ in range(resets) for image in envs.reset().obs["image"]]
    distinct = {value for value in shown.values() if value <= longest}
    assert len(distinct) > 1
    assert set(seen) == distinct


@pytest.mark.slow
def test_a_sticky_action_takes_the_place_of_a_quarter():
    """Freeway's chicken starts on the frame that hears `up`; what came before a reset is no-op."""
    count, resets = 8, 15
    envs = make("freeway", count=count, action_repeat=1)
    plain = PlainGame("freeway", 0, sticky=0.0, repeat=1)
    waiting, started = (
        np.rint(shrink((plain.reset(), plain.ale.act(action), plain.screen())[2])[0])
        for action in (0, 2)
    )
    waited = []
    for _ in range(resets):
        envs.reset()
        images = envs.step(one_hot([2] * count, 18)).obs["image"][:, 0]
        for image in images:
            distance = [np.abs(image - screen).sum() for screen in (waiting, started)]
            assert 10 * min(distance) < max(distance)
            waited.append(np.argmin(distance) == 0)
    assert abs(np.mean(waited) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / (count * resets))


@pytest.mark.slow
def test_native_render_is_the_colour_screen_of_the_same_game():
    envs = make("ms_pacman", count=2, native_render=True)
    games = [PlainGame("ms_pacman", emulator_seed(0, env), colour=True) for env in range(2)]
    envs.reset()
    np.testing.assert_array_equal(envs.render(), np.stack([game.reset() for game in games]))
    for actions in np.random.default_rng(0).integers(18, size=(90, 2)):
        envs.step(one_hot(actions, 18))
        screens = [game.step(action)[3] for game, action in zip(games, actions, strict=True)]
        np.testing.assert_array_equal(envs.render(), np.stack(screens))
    assert (screens[0] != screens[1]).any()


def test_render_without_it_enlarges_the_observation():
    envs = make("ms_pacman", count=2)
    image = envs.reset().obs["image"]
    assert envs.render().shape == (2, 256, 256, 3)
    np.testing.assert_array_equal(envs.render()[:, ::4, 3::4, 1], image[:, 0])


@pytest.mark.parametrize("native_render", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_in_the_background_is_a_step(native_render):
    here, there = (make("ms_pacman", count=2, native_render=native_render) for _ in range(2))
    here.reset(), there.reset()
    for actions in np.random.default_rng(0).integers(18, size=(20, 2)):
        before = there.render().copy()
        there.start_step(one_hot(actions, 18))
        np.testing.assert_array_equal(there.render(), before)
        left, right = here.step(one_hot(actions, 18)), there.finish_step()
        np.testing.assert_array_equal(left.obs["image"], right.obs["image"])
        np.testing.assert_array_equal(here.render(), there.render())


@pytest.mark.slow
def test_native_render_changes_nothing_the_agent_sees():
    plain, rendered = (
        make("pong", max_no_op_frames=30, native_render=native) for native in (False, True)
    )
    np.testing.assert_array_equal(plain.reset().obs["image"], rendered.reset().obs["image"])
    for action in np.random.default_rng(0).integers(18, size=30):
        left, right = (envs.step(one_hot(action, 18)) for envs in (plain, rendered))
        np.testing.assert_array_equal(left.obs["image"], right.obs["image"])


@pytest.mark.parametrize("name", ["ms_pacman", "MsPacman", "Ms-Pacman"])
def test_a_task_goes_by_any_spelling(name):
    assert make(name, full_action_space=False).action_space[:2] == (9, True)


def test_action_sets():
    assert make("pong").action_space[:2] == (18, True)
    assert make("pong", full_action_space=False).action_space[:2] == (6, True)
    assert make("skiing").action_space[:2] == (9, True)  # no button: there is nothing to fire


@pytest.mark.slow
def test_every_game_of_the_paper_can_be_played():
    assert len(GAMES.split()) == 55
    for game in GAMES.split():
        envs = make(game)
        envs.reset()
        size = envs.action_space.size
        images = [envs.step(one_hot(action, size)).obs["image"] for action in range(size)]
        assert images[-1].std() > 0
        envs.close()


@pytest.mark.parametrize(
    ("task", "nearest"),
    [
        ("pongg", "`pong`"),
        ("montezumas_revenge", "`montezuma_revenge`"),
        ("joust", "The nearest"),  # the ROM is there, but its rewards are not known
    ],
)
def test_a_misspelt_task_names_the_nearest(task, nearest):
    with pytest.raises(ValueError, match=f"Unknown Atari task `{task}`.*{nearest}"):
        make(task)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("action_repeat", 0),
        ("time_limit_frames", 0),
        ("max_no_op_frames", -1),
        ("sticky_action_prob", 1.5),
        ("seed", -1),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"`{option}` must be .*, got {value}"):
        make("pong", **{option: value})


def test_an_unknown_action_is_refused_instead_of_waited_for():
    envs = make("pong", full_action_space=False)
    envs.reset()
    with pytest.raises(AssertionError, match="18"):
        envs.step(one_hot(17, 18))


def test_a_missing_emulator_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match="pip install 'ale-py"):
        make("pong")
