"""The maze is what its drawing says, and how far a random walk gets in it is known exactly."""

import numpy as np
import pytest

from dreamer.envs.base import ReportsEpisodes, episode_metrics
from dreamer.envs.dummy import make_dummy
from dreamer.envs.maze import MAZE

UP, DOWN, LEFT, RIGHT = range(4)
CELLS = {(r, c) for r, line in enumerate(MAZE) for c, x in enumerate(line) if x != "#"}
START, GOAL = (1, 1), (5, 9)


def make(task="maze", *, count=1, seed=0, maze_length=80, **options):
    options = dict(rounds=1, corridor=1, length=1, speed=0.5) | options
    return make_dummy(task, count=count, seed=seed, maze_length=maze_length, **options)


def one_hot(*actions):
    return np.eye(4, dtype=np.float32)[list(actions)]


def cells_of(step):
    """The cell of each copy, as the agent sees it."""
    row, column = np.split(step.obs["vector"], [len(MAZE)], axis=1)
    assert (row.sum(1) == 1).all() and (column.sum(1) == 1).all()
    return list(zip(row.argmax(1).tolist(), column.argmax(1).tolist(), strict=True))


def after(cell, action):
    row, column = ((-1, 0), (1, 0), (0, -1), (0, 1))[action]
    beyond = cell[0] + row, cell[1] + column
    return beyond if beyond in CELLS else cell


def shortest_paths():
    """Actions from the start to each cell."""
    paths, queue = {START: []}, [START]
    for cell in queue:
        for action in range(4):
            beyond = after(cell, action)
            if beyond not in paths:
                paths[beyond] = [*paths[cell], action]
                queue.append(beyond)
    return paths


PATHS = shortest_paths()


def walk(envs, actions):
    return [envs.reset()] + [envs.step(one_hot(action)) for action in actions]


def test_the_number_of_states_is_that_of_the_cells_that_can_be_reached():
    envs = make()
    assert envs.states == len(PATHS) == len(CELLS) == 69
    assert max(len(path) for path in PATHS.values()) == len(PATHS[GOAL]) == envs.distance == 40


def test_actions_move_by_one_cell_and_stop_at_walls():
    envs = make("maze_noreward", count=3, maze_length=5000)
    rng = np.random.default_rng(0)
    before = cells_of(envs.reset())
    assert before == [START] * 3
    for _ in range(2000):
        actions = rng.integers(4, size=3).tolist()
        now = cells_of(envs.step(one_hot(*actions)))
        assert now == [after(*pair) for pair in zip(before, actions, strict=True)]
        before = now


def test_the_goal_gives_a_reward_and_ends_the_episode_for_good():
    envs = make(count=2)
    step = envs.reset()
    for time, action in enumerate(PATHS[GOAL], 1):
        step = envs.step(one_hot(action, UP))
        at_goal = [time == 40, False]
        assert step.reward.tolist() == at_goal
        assert step.is_last.tolist() == step.is_terminal.tolist() == at_goal
    assert cells_of(step) == [GOAL, START]
    step = envs.step(one_hot(UP, UP))
    assert step.is_first.tolist() == [True, False]
    assert cells_of(step) == [START, START]
    for _ in range(38):
        step = envs.step(one_hot(UP, UP))
        assert not step.is_last.any()
    step = envs.step(one_hot(UP, UP))  # the limit of the second copy's first episode
    assert step.is_last.tolist() == [False, True]
    assert not step.is_terminal.any() and not step.reward.any()


def test_without_a_reward_only_the_time_limit_ends_an_episode():
    envs = make("maze_noreward", maze_length=42)
    steps = walk(envs, [*PATHS[GOAL], UP, UP])
    assert cells_of(steps[40]) == [GOAL]
    assert [bool(step.is_last[0]) for step in steps] == [False] * 42 + [True]
    assert not any(step.is_terminal[0] or step.reward[0] for step in steps)


def test_an_episode_reports_how_many_cells_it_visited():
    envs = make(count=2, maze_length=6)
    assert isinstance(envs, ReportsEpisodes)
    for _ in range(2):  # the second episode counts anew
        step = envs.reset()
        for action in (RIGHT, RIGHT, LEFT, LEFT, RIGHT, RIGHT):
            assert list(envs.episode_metrics) == [{}, {}]
            step = envs.step(one_hot(action, UP))
        assert step.is_last.all()
        assert [episode_metrics(envs, env) for env in (0, 1)] == [
            {"visited_states": 3.0},
            {"visited_states": 1.0},
        ]
    envs.step(one_hot(UP, UP))
    assert list(envs.episode_metrics) == [{}, {}]


def test_the_shortest_path_visits_each_of_its_cells():
    envs = make()
    walk(envs, PATHS[GOAL])
    assert episode_metrics(envs, 0) == {"visited_states": 41.0}


@pytest.mark.parametrize(
    ("task", "maze_length", "optimum"),
    [("maze", 40, 1.0), ("maze", 39, 0.0), ("maze_noreward", 80, 0.0)],
)
def test_the_optimum_is_1_if_the_goal_can_be_reached_and_rewarded(task, maze_length, optimum):
    envs = make(task, maze_length=maze_length)
    assert envs.optimum == optimum
    if optimum:
        assert envs.reference_returns == {"random": envs.random_return, "optimum": 1.0}
    else:
        assert envs.random_return == 0
        assert envs.reference_returns == {}


def test_a_random_walk_reaches_the_goal_as_often_as_computed():
    envs = make(count=400, maze_length=3000)
    rng = np.random.default_rng(0)
    arrived = np.zeros(400, bool)
    envs.reset()
    for _ in range(3000):
        arrived |= envs.step(one_hot(*rng.integers(4, size=400))).is_terminal
    prob = envs.random_return
    assert 0.2 < prob < 0.5
    assert abs(arrived.mean() - prob) < 4 * np.sqrt(prob * (1 - prob) / 400)
    assert make().random_return < 1e-9  # with the default limit, it does not


@pytest.mark.slow
def test_random_collection_leaves_most_of_the_maze_unvisited():
    """So a policy that explores has something to gain."""
    envs, rng = make(count=5), np.random.default_rng(0)
    seen = [{cell} for cell in cells_of(envs.reset())]
    for _ in range(10_000):
        for env, cell in enumerate(cells_of(envs.step(one_hot(*rng.integers(4, size=5))))):
            seen[env].add(cell)
    assert all(15 <= len(cells) <= 69 * 0.6 for cells in seen)


def test_render_shows_walls_the_goal_and_the_position():
    envs, without = make(count=2), make("maze_noreward", count=2)
    for group in (envs, without):
        group.reset()
        group.step(one_hot(RIGHT, UP))
    image = envs.render()
    assert image.shape == (2, 256, 256, 3)
    tile = 16  # pixels in the video
    area = {value: int((image[0, ..., 0] == value).sum()) / tile**2 for value in (80, 160, 255)}
    assert area == {80: 67, 160: 1, 255: 1}
    row, column = (int(x.mean()) for x in np.nonzero(image[0, ..., 0] == 255))
    other = [int(x.mean()) for x in np.nonzero(image[1, ..., 0] == 255)]
    assert [row, column] == [other[0], other[1] + tile]
    assert not (without.render() == 160).any()


def test_the_goal_can_be_nearer():
    envs = make(maze_goal=2)
    assert envs.distance == 2
    step = walk(envs, [RIGHT, RIGHT])[-1]
    assert step.is_terminal.all() and step.reward.all()
    assert envs.random_return > 0.5
    for goal in (0, 41):
        with pytest.raises(ValueError, match=f"`maze_goal` must be .*, got {goal}"):
            make(maze_goal=goal)


def test_a_limit_without_steps_is_refused():
    with pytest.raises(ValueError, match="`maze_length` must be .*, got 0"):
        make(maze_length=0)
