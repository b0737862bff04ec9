"""Environments in other processes: the same steps, at once, and nothing left behind."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from dreamer.envs.group import EnvGroup, EnvironmentFault, SingleEnv, Transition
from dreamer.envs.processes import ProcessEnv, make_group
from dreamer.envs.rendering import RenderingFault
from dreamer.types import ActionSpace

ACTION = np.float32([0.25, -0.5])
GROUP = dict(count=3, seed=0, action_repeat=1, hang_seconds=30.0, max_restarts=2)


class Wheel(SingleEnv):
    """Turns by the action; at its third step it does what `habit` says."""

    obs_shapes = {"image": (1, 5, 7), "angle": (3,)}
    action_space = ActionSpace(2, discrete=False)

    def __init__(self, habit: str = "turn"):
        if habit == "no build":
            raise ImportError("no wheels here")
        self.habit, self.steps, self.angle = habit, 0, 0.0
        self.rng = np.random.default_rng(0)

    def observe(self):
        angle = np.full(3, self.angle, np.float32)
        return {"image": np.full((1, 5, 7), self.steps, np.uint8), "angle": angle}

    def reset(self, seed):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.steps, self.angle = 0, self.rng.uniform()
        return self.observe()

    def step(self, action):
        self.steps += 1
        self.angle += float(action.sum())
        if self.steps == 3:
            getattr(self, self.habit)()
        obs = self.observe()
        if self.habit == "widen" and self.steps == 3:
            obs["angle"] = np.zeros(4, np.float32)
        done = self.steps == 5
        return Transition(
            obs, self.angle, is_last=done, episode_metrics={"turns": 5.0} if done else {}
        )

    def render(self):
        return np.full((11, 13, 3), self.steps, np.uint8)

    def close(self):
        if self.habit == "cling":
            time.sleep(60)

    def turn(self):
        pass

    widen = cling = turn

    def fall_off(self):
        raise ValueError("the wheel came off")

    def hang(self):
        time.sleep(60)

    def die(self):
        os._exit(7)

    def crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)


@pytest.fixture
def start():
    """Start environments that end with the test."""
    members = []

    def start_one(habit="turn", **options):
        members.append(ProcessEnv(partial(Wheel, habit), **{"hang_seconds": 30.0} | options))
        return members[-1]

    yield start_one
    for member in members:
        member.close()
    assert multiprocessing.active_children() == []


def advance_to_third_step(env):
    env.reset(4)
    env.step(ACTION)
    env.step(ACTION)
    return env.step(ACTION)


@pytest.mark.slow
def test_another_process_gives_the_same_steps(start):
    here, there = Wheel(), start()
    assert there.obs_shapes == here.obs_shapes
    assert there.action_space == here.action_space
    for seed in (4, None):
        a, b = here.reset(seed), there.reset(seed)
        np.testing.assert_equal(b, a)
        for _ in range(5):
            left, right = here.step(ACTION), there.step(ACTION)
            np.testing.assert_equal(right.obs, left.obs)
            assert right[1:] == left[1:]
    assert right.is_last
    assert right.episode_metrics == {"turns": 5.0}
    np.testing.assert_array_equal(there.render(), here.render())


def test_observations_stay_as_they_were(start):
    env = start()
    before = env.reset(4)
    env.step(ACTION)
    assert before["image"].max() == 0


@pytest.mark.slow
def test_members_step_at_the_same_time():
    class Slow(Wheel):
        def turn(self):
            time.sleep(0.4)

    envs = make_group(Slow, **GROUP, processes=True)
    action = np.stack([ACTION] * 3)
    envs.reset()
    envs.step(action)
    envs.step(action)
    begin = time.monotonic()
    envs.step(action)
    assert 0.4 <= time.monotonic() - begin < 0.8  # 1.2 s one after the other
    envs.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("habit", "message"),
    [
        ("fall_off", r"(?s)Traceback.*in fall_off\n.*ValueError: the wheel came off"),
        ("die", "Its process died with exit code 7"),
        ("crash", "Its process died with exit code -11"),
        ("hang", "did not answer within `hang_seconds` 0.5; its process was killed"),
    ],
)
def test_a_fault_says_what_happened_and_ends_the_process(start, habit, message):
    env = start(habit, hang_seconds=0.5 if habit == "hang" else 30.0)
    with pytest.raises(EnvironmentFault, match=message):
        advance_to_third_step(env)
    assert multiprocessing.active_children() == []


def test_an_environment_that_cannot_be_built_says_why(start):
    with pytest.raises(EnvironmentFault, match="ImportError: no wheels here"):
        start("no build").obs_shapes  # noqa: B018


def test_one_that_will_not_close_is_ended(start, monkeypatch):
    monkeypatch.setattr("dreamer.envs.processes.CLOSE_SECONDS", 0.2)
    env = start("cling")
    env.reset(4)
    env.close()
    assert multiprocessing.active_children() == []


def test_an_answer_that_nobody_waited_for_is_passed_over(start):
    env = start()
    env.reset(4)
    env.start_step(ACTION)  # and then something came between
    assert env.reset(None)["image"].max() == 0
    assert env.step(ACTION).obs["image"].max() == 1


@pytest.mark.slow
@pytest.mark.parametrize("habit", ["fall_off", "die", "widen"])
def test_a_group_restarts_what_failed_as_an_episode_cut_short(habit, capsys):
    envs = make_group(partial(Wheel, habit), **GROUP | {"count": 2}, processes=True)
    action = np.stack([ACTION] * 2)
    steps = [envs.reset()] + [envs.step(action) for _ in range(4)]
    envs.close()
    assert [step.is_last.tolist() for step in steps[1:]] == [[x] * 2 for x in (0, 0, 1, 0)]
    assert not steps[3].is_terminal.any()
    assert steps[4].is_first.all()
    expected = {
        "fall_off": "the wheel came off",
        "die": "exit code 7",
        "widen": re.escape("Observation `angle` must be (3,) float32, got (4,) float32"),
    }
    assert re.search(expected[habit], capsys.readouterr().err)


def test_a_process_has_one_thread_and_the_runs_variables(start, monkeypatch):
    class Curious(Wheel):
        def reset(self, seed):
            names = ("OMP_NUM_THREADS", "LP_NUM_THREADS", "DREAMER_WHEEL")
            return super().reset(seed) | {"angle": np.float32([os.environ[n] for n in names])}

    monkeypatch.setenv("DREAMER_WHEEL", "12")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    env = ProcessEnv(Curious, hang_seconds=30)
    assert env.reset(0)["angle"].tolist() == [1, 0, 12]
    assert os.environ["OMP_NUM_THREADS"] == "5"
    env.close()


@pytest.mark.parametrize(
    ("render", "message"),
    [
        (lambda self: None, "Wheel-v0: `render` must .*, got None"),
        (
            lambda self: lambda: None,
            "Wheel-v0: `render` must .*, got a function",
        ),  # no pickle of it
        (lambda self: self.fall_off(), "Wheel-v0: `render` raised ValueError: the wheel came off"),
    ],
    ids=["none", "function", "exception"],
)
def test_what_gives_no_picture_is_named_and_steps_on(render, message):
    env = ProcessEnv(
        type("Blind", (Wheel,), {"render": render, "name": "Wheel-v0"}), hang_seconds=30
    )
    env.reset(4)
    for _ in range(2):
        with pytest.raises(RenderingFault, match=message):
            env.render()
        env.step(ACTION)
    env.close()


@pytest.mark.slow
def test_a_process_that_dies_of_drawing_is_replaced():
    env = make_group(
        type("Fragile", (Wheel,), {"render": Wheel.die, "name": "Wheel-v0"}),
        **GROUP | {"count": 1, "processes": True},
    )
    env.reset()
    with pytest.raises(RenderingFault, match="Wheel-v0: `render` raised .*exit code 7"):
        env.render()
    assert env.step(ACTION[None]).is_last.all()
    assert env.step(ACTION[None]).is_first.all()
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": "maybe"}, "`processes` must be true, false or auto, got `maybe`"),
        ({"hang_seconds": 0}, "`hang_seconds` must be greater than 0, got 0"),
        ({"count": 0}, "`count` must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_group(Wheel, **GROUP | {"processes": False} | options)


@pytest.mark.parametrize(("count", "cores", "apart"), [(1, 8, False), (3, 1, False), (3, 2, True)])
def test_auto_takes_processes_where_several_can_work_at_once(monkeypatch, count, cores, apart):
    makers = []

    def group(these, **_):
        makers.extend(these)

    monkeypatch.setattr("dreamer.envs.processes.EnvGroup", group)
    monkeypatch.setattr("dreamer.envs.processes._cores", lambda: cores)
    make_group(Wheel, **GROUP | {"count": count}, processes="auto")
    assert len(makers) == count
    assert [getattr(m, "func", None) is ProcessEnv for m in makers] == [apart] * count


# A user's script without a guard: it must not run again in the processes that it starts.
SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from functools import partial
from dreamer.envs.processes import make_group
from test_processes import GROUP, Wheel, ACTION
import numpy as np
print("script", flush=True)
envs = make_group(partial(Wheel, {habit!r}), **GROUP, processes=True)
envs.reset()
print(*(m._process.pid for m in envs.members), flush=True)
while True:
    envs.step(np.stack([ACTION] * 3))
    time.sleep(0.01)
    if {raises}:
        input()  # until the test has seen the processes
        raise RuntimeError("enough")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("habit", "end"),
    [
        ("turn", signal.SIGKILL),
        ("hang", signal.SIGKILL),
        ("turn", signal.SIGINT),
        ("turn", signal.SIGTERM),
        ("turn", None),  # an exception
    ],
)
def test_no_process_outlives_the_run(tmp_path, repository, habit, end):
    script = tmp_path / "script.py"
    tests = str(repository / "tests" / "envs")
    script.write_text(SCRIPT.format(tests=tests, habit=habit, raises=end is None))
    run = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(repository)},
        start_new_session=True,
        # A shell that starts the tests in the background has told them to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "script\n"
    pids = [int(word) for word in run.stdout.readline().split()]
    assert len(pids) == 3
    assert all(alive(pid) for pid in pids)
    time.sleep(0.3)
    if end == signal.SIGINT:
        os.killpg(run.pid, end)  # as a terminal does, to all in the foreground
    elif end is not None:
        run.send_signal(end)
    # Its pipes close when the last process has ended.
    rest, errors = run.communicate("enough\n" if end is None else None, timeout=30)
    assert rest == ""
    assert not any(alive(pid) for pid in pids)
    assert "resource_tracker" not in errors


def alive(pid):
    """Tell whether a process runs; one that nobody has buried yet does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip() != "" and not state.stdout.startswith("Z")


def build_in_a_worker():
    env = ProcessEnv(Wheel, hang_seconds=30)
    obs = env.reset(0)
    env.close()
    return obs["image"].shape


@pytest.mark.slow
def test_a_worker_of_joblib_may_start_processes():
    joblib = pytest.importorskip("joblib")
    with joblib.Parallel(n_jobs=2, backend="loky") as parallel:
        shapes = parallel(joblib.delayed(build_in_a_worker)() for _ in range(2))
    joblib.externals.loky.get_reusable_executor().shutdown()
    assert shapes == [(1, 5, 7)] * 2


def test_an_environment_that_is_forgotten_ends(start):
    env = ProcessEnv(Wheel, hang_seconds=30)
    env.reset(0)
    process = env._process
    del env
    process.join(10)
    assert process.exitcode == 0


def test_one_kind_of_group_serves_both(start):
    assert isinstance(make_group(Wheel, **GROUP, processes=False), EnvGroup)
