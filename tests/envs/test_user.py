"""Environments of users' programs: found by name, lent, or made in groups."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from dreamer.envs.dummy import make_dummy
from dreamer.envs.faults import EnvironmentFault
from dreamer.envs.gym import make_gym
from dreamer.envs.user import (
    BorrowedEnv,
    BorrowedEnvs,
    import_path,
    is_group,
    make_group_with,
    make_user,
    makes_groups,
    task_name,
)

OPTIONS = dict(
    count=2,
    seed=0,
    action_repeat=1,
    time_limit_frames=None,
    grayscale=False,
    flat_keys="$^",
    processes=False,
    hang_seconds=60,
    max_restarts=0,
    kwargs={},
)
MEMORY = functools.partial(
    make_dummy, "memory", rounds=1, corridor=1, length=5, speed=0.5, maze_length=9
)


class Counter(gymnasium.Env):
    """Counts up for ever."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)
    closed = False

    def __init__(self, by=1.0):
        self.by = by

    def reset(self, *, seed=None, options=None):
        self.count = 0.0
        return np.array([0], np.float32), {}

    def step(self, action):
        self.count += self.by
        return np.array([self.count], np.float32), 1.0, False, False, {}

    def close(self):
        self.closed = True


def test_a_function_makes_each_environment():
    envs = make_group_with(Counter, **OPTIONS | {"kwargs": {"by": 2.0}, "time_limit_frames": 3})
    envs.reset()
    steps = [envs.step(np.eye(2, dtype=np.float32)) for _ in range(3)]
    assert envs.count == 2
    assert [step.obs["vector"][0, 0] for step in steps] == [2, 4, 6]
    assert steps[-1].is_last.all() and not steps[-1].is_terminal.any()


def test_a_function_of_seed_and_count_makes_the_group():
    assert makes_groups(MEMORY) and not makes_groups(Counter) and not makes_groups(dict)
    envs = make_group_with(MEMORY, **OPTIONS | {"count": 3})
    assert envs.count == 3
    assert envs.obs_shapes == {"image": (1, 64, 64)}


def test_what_a_function_makes_must_be_an_environment():
    with pytest.raises(ValueError, match="must make a gymnasium.Env, got 3"):
        make_group_with(lambda: 3, **OPTIONS)
    with pytest.raises(
        ValueError, match="function of `seed` and `count` must make a `VectorEnvs`.* got 3"
    ):
        make_group_with(lambda seed, count: 3, **OPTIONS)


def test_a_function_that_raises_is_named():
    def make_levels(seed, count):
        raise SystemExit("no levels")

    with pytest.raises(EnvironmentFault, match=r"make_levels cannot be built: SystemExit: no lev"):
        make_group_with(make_levels, **OPTIONS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_user("pole", factory="rude:make", **OPTIONS),
        lambda: make_gym("rude:Pole-v0", **OPTIONS),
    ],
)
@pytest.mark.parametrize("line", ["raise SystemExit(3)", "1 / 0", "def ("])
def test_a_module_that_cannot_be_imported_is_named(make, line, tmp_path, monkeypatch):
    (tmp_path / "rude.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentFault, match=r"^rude:\S+: the import of rude raised \w+: "):
        make()


def test_functions_are_found_by_their_address():
    assert import_path(gymnasium.make) == "gymnasium.envs.registration:make"
    assert import_path(Counter) == f"{__name__}:Counter"
    assert import_path(lambda: 3) is None
    assert import_path(MEMORY) is None
    envs = make_user(
        "pole", factory="gymnasium:make", **OPTIONS | {"kwargs": {"id": "CartPole-v1"}}
    )
    assert envs.obs_shapes == {"vector": (4,)}


def test_functions_that_are_not_there_are_told():
    with pytest.raises(ValueError, match=r"got null.* passed pole .* dreamer\.load"):
        make_user("pole", factory=None, **OPTIONS)
    with pytest.raises(ValueError, match="`env.factory` must name a function, got gymnasium:no"):
        make_user("pole", factory="gymnasium:no", **OPTIONS)
    with pytest.raises(ImportError, match="No module named 'nowhere'"):
        make_user("pole", factory="nowhere:make", **OPTIONS)


def test_environments_have_names():
    pole = gymnasium.make("CartPole-v1")
    assert task_name(pole, {}) == task_name(lambda: pole, {}) == "CartPole-v1"
    assert task_name(Counter, {}) == task_name(Counter(), {}) == "Counter"
    assert task_name(functools.partial(Counter, by=2), {}) == "Counter"
    assert task_name(lambda by: Counter(by), {"by": 2}) == "Counter"
    assert task_name(MEMORY, {}) == "envs"


def test_what_is_lent_is_not_closed():
    env = Counter()
    BorrowedEnv(env).close()
    assert not env.closed
    envs = MEMORY(seed=0, count=1)
    lent = BorrowedEnvs(envs)
    assert is_group(lent) and lent.obs_shapes is envs.obs_shapes
    lent.close()
    assert lent.reset().is_first.all()
