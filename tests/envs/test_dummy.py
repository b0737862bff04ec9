"""The dummy worlds do as they say, and their optima and random returns are what play gives."""

import numpy as np
import pytest

from dreamer.envs.dummy import make_dummy
from dreamer.envs.dummy_base import IMAGE_SIZE

OPTIONS = dict(rounds=3, corridor=2, length=7, speed=0.3, maze_length=9)


def make(task, *, count=1, seed=0, **changes):
    return make_dummy(task, count=count, seed=seed, **OPTIONS | changes)


def returns_of(envs, policy, episodes=1):
    """(episodes, E) undiscounted returns; policy takes a step and gives actions (E, A)."""
    returns = []
    for _ in range(episodes):
        step = envs.reset()
        total = np.zeros(envs.count)
        while not step.is_last.all():
            step = envs.step(policy(step))
            total += step.reward
        returns.append(total)
    return np.array(returns)


class Remember:
    """Keeps the side that was lit, and turns there at every step."""

    def __init__(self, count):
        self.side = np.zeros(count, int)

    def __call__(self, step):
        left, right = (
            step.obs["image"][:, 0, 0, column].astype(int) for column in (0, 63)
        )  # the upper corners
        self.side = np.where(left == right, self.side, right > left)
        return np.eye(2, dtype=np.float32)[self.side]


def head_for_target(speed, step):
    position, target = np.split(step.obs["vector"], 2, axis=1)
    return np.clip(position + (target - position) / speed, -1, 1)


def test_memory_pays_who_remembers_and_nobody_else():
    envs = make("memory", count=50)
    np.testing.assert_array_equal(returns_of(envs, Remember(50)), 3)
    assert envs.optimum == 3
    for fixed in ([1, 0], [0, 1]):
        always = np.tile(np.float32(fixed), (50, 1))
        mean = returns_of(envs, lambda _, always=always: always, episodes=10).mean()
        assert abs(mean - envs.random_return) < 4 * np.sqrt(3 / 500)


def test_memory_shows_the_cue_once_and_pays_at_the_door():
    envs = make("memory", seed=5)
    remember = Remember(1)
    step = envs.reset()
    brightness, rewards = [], []
    for _ in range(12):
        brightness.append(step.obs["image"][0, 0, [0, 0, 63, 63], [0, 63, 0, 63]].tolist())
        step = envs.step(1 - remember(step))  # always the wrong side
        rewards.append(step.reward[0])
    assert rewards == [0, 0, 0, -1] * 3
    assert step.is_last[0]
    assert step.is_terminal[0]
    assert not step.obs["image"].any()
    cues, corridors, doors = brightness[::4], brightness[1::4] + brightness[2::4], brightness[3::4]
    assert all(cue in ([255, 0, 255, 0], [0, 255, 0, 255]) for cue in cues)
    assert corridors == [[85] * 4] * 6
    assert doors == [[0, 0, 255, 255]] * 3


def test_memory_pays_at_every_door_for_the_side_of_the_last_cue():
    envs = make("memory", seed=5, rounds=2, corridor=1, doors=3)
    remember, step = Remember(1), envs.reset()
    seen, rewards = [], []
    for _ in range(14):
        seen.append(step.obs["image"][0, 0, [0, 0, 63], [0, 63, 0]].tolist())
        step = envs.step(remember(step))
        rewards.append(step.reward[0])
    for cue, *others in (seen[:7], seen[7:]):
        assert cue in ([255, 0, 255], [0, 255, 0])
        assert others == [[85] * 3, [0, 0, 255]] * 3
    assert rewards == [0, 0, 1, 0, 1, 0, 1] * 2
    assert sum(rewards) == envs.optimum and step.is_terminal[0]


def test_the_vector_of_memory_names_the_image():
    pixels, vectors = make("memory", count=5), make("vector_memory", count=5)
    assert vectors.obs_shapes == {"vector": (5,)}
    images: dict[int, set[bytes]] = {}
    steps = [(pixels.reset(), vectors.reset())]
    for n in range(30):
        action = np.eye(2, dtype=np.float32)[[n % 2] * 5]
        steps.append((pixels.step(action), vectors.step(action)))
    for shown, named in steps:
        assert (shown.reward == named.reward).all() and (shown.is_first == named.is_first).all()
        assert (named.obs["vector"].sum(1) == 1).all()
        for image, number in zip(shown.obs["image"], named.obs["vector"].argmax(1), strict=True):
            images.setdefault(int(number), set()).add(image.tobytes())
    assert sorted(images) == [0, 1, 2, 3, 4] and all(len(x) == 1 for x in images.values())


def test_memory_cues_are_a_fair_coin_in_every_round():
    envs = make("memory", count=400)
    step = envs.reset()
    sides = []
    for time in range(12):
        if time % 4 == 0:
            sides.append(step.obs["image"][:, 0, 0, 0] == 255)
        step = envs.step(np.tile(np.float32([1, 0]), (400, 1)))
    sides = np.array(sides)  # (rounds, E)
    assert (np.abs(sides.mean(1) - 0.5) < 0.1).all()
    np.testing.assert_allclose(np.corrcoef(sides), np.eye(3), atol=0.2)


def test_point_returns_are_those_of_the_closed_forms():
    envs = make("point", count=4000)
    best = returns_of(envs, lambda step: head_for_target(0.3, step))
    rng = np.random.default_rng(0)
    random = returns_of(envs, lambda _: rng.uniform(-1, 1, (4000, 2)))
    for returns, expected in ((best, envs.optimum), (random, envs.random_return)):
        assert abs(returns.mean() - expected) < 4 * returns.std() / np.sqrt(4000)
    assert best.mean() > random.mean() + 3


def test_point_cannot_do_better_than_heading_for_the_target():
    """No start, and no change of the best actions, gives more."""
    best = returns_of(make("point", count=200), lambda step: head_for_target(0.3, step))
    rng = np.random.default_rng(0)
    for scale in (0.01, 0.1, 0.5):
        other = returns_of(
            make("point", count=200),
            lambda step, scale=scale: (
                head_for_target(0.3, step) + scale * rng.normal(size=(200, 2))
            ),
        )
        assert (other <= best + 1e-6).all()


def test_point_ends_by_a_time_limit():
    envs = make("point")
    step = envs.reset()
    for _ in range(7):
        assert not step.is_last[0]
        step = envs.step(np.zeros((1, 2), np.float32))
    assert step.is_last[0]
    assert not step.is_terminal[0]


def test_point_is_rewarded_for_where_it_arrives():
    envs = make("point", count=5)
    envs.reset()
    step = envs.step(np.random.default_rng(0).uniform(-1, 1, (5, 2)))
    position, target = np.split(step.obs["vector"], 2, axis=1)
    np.testing.assert_allclose(step.reward, -((position - target) ** 2).sum(1), rtol=1e-5)


def test_pixel_point_shows_the_point_upon_its_target():
    envs, plain = make("pixel_point", count=6, seed=3), make("point", count=6, seed=3)
    step, truth = envs.reset(), plain.reset()
    assert envs.obs_shapes == {"image": (1, 64, 64), "vector": (2,)}
    assert (envs.optimum, envs.random_return) == (plain.optimum, plain.random_return)
    corners = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1], [1, 0], [0, 0]], np.float32)
    for _ in range(5):
        step, truth = envs.step(corners), plain.step(corners)
        np.testing.assert_array_equal(step.obs["vector"], truth.obs["vector"][:, :2])
        np.testing.assert_array_equal(step.reward, truth.reward)
        for env, image in enumerate(step.obs["image"][:, 0]):
            rows, columns = np.nonzero(image == 255)
            assert len(rows) == 64
            x, y = truth.obs["vector"][env, :2]
            assert abs(columns.mean() - (31.5 + 24 * x)) < 1
            assert abs(rows.mean() - (31.5 - 24 * y)) < 1
            rows, columns = np.nonzero(image == 128)
            assert 16 * 16 - 64 <= len(rows) <= 16 * 16


def test_actions_beyond_the_range_do_no_more_than_its_ends():
    left, right = make("point", count=2), make("point", count=2)
    left.reset(), right.reset()
    far = left.step(np.float32([[9, -9], [-2, 2]])).obs["vector"]
    np.testing.assert_array_equal(far, right.step(np.float32([[1, -1], [-1, 1]])).obs["vector"])


def test_a_misspelt_task_names_the_nearest():
    with pytest.raises(ValueError, match="Unknown dummy task `memroy`.*`memory`"):
        make("memroy")


@pytest.mark.parametrize(
    ("option", "value"),
    [("rounds", 0), ("corridor", -1), ("doors", 0), ("length", 0), ("speed", 0.0)],
)
def test_numbers_out_of_range_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"`{option}` must be .*, got {value}"):
        make("memory", **{option: value})


def head_for_ball(step):
    """Read the columns of the ball and the paddle off the image."""
    image = step.obs["image"][:, 0]
    columns = np.arange(IMAGE_SIZE)
    ball = np.where(image == 255, columns, -1).max((1, 2))
    paddle = np.where(image[:, -1] > 0, columns, -1).max(1)
    return np.eye(3, dtype=np.float32)[1 + np.sign(ball - paddle)]


def test_catch_pays_whoever_is_below_the_ball_at_the_end():
    envs = make("catch", count=40, seed=2)
    np.testing.assert_array_equal(returns_of(envs, head_for_ball, episodes=3), envs.optimum)
    rng, actions = np.random.default_rng(0), np.eye(3, dtype=np.float32)
    mean = returns_of(envs, lambda _: actions[rng.integers(3, size=40)], episodes=60).mean()
    assert abs(mean - envs.random_return) < 4 * np.sqrt(0.5 / 2400)


def test_catch_shows_a_ball_of_81_pixels_that_falls_for_nine_steps():
    envs = make("catch", seed=1)
    step, tops = envs.reset(), []
    while not step.is_last[0]:
        tops.append(int(np.argmax((step.obs["image"][0, 0] == 255).any(1))))
        assert (step.obs["image"][0, 0] == 255).sum() == 81
        assert step.reward[0] == 0
        step = envs.step(np.float32([[0, 1, 0]]))
    assert tops == [6 * t for t in range(9)]
    assert step.is_terminal[0]
    assert abs(step.reward[0]) == 1
