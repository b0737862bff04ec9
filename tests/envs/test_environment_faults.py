"""The table of docs/environment_faults.md, row by row, here and in a process of its own."""

import re
import signal
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from faulty import ACCEPTED, END, FAULTS, RESTART, Env

from dreamer.callbacks.interrupt import Interrupt
from dreamer.envs.diagnostics import diagnose, find_warnings
from dreamer.envs.faults import EnvironmentFault
from dreamer.envs.group import EnvGroup
from dreamer.envs.gym import GymEnv
from dreamer.envs.processes import ProcessEnv
from dreamer.envs.rendering import RenderingFault
from dreamer.envs.user import make_group_with

PAGE = Path(__file__).parents[2] / "docs" / "environment_faults.md"
OPTIONS = dict(
    count=1,
    seed=0,
    action_repeat=1,
    time_limit_frames=100,
    grayscale=False,
    flat_keys="$^",
    hang_seconds=60,
    max_restarts=9,
    kwargs={},
)
STAY = np.eye(2, dtype=np.float32)[[0]]


WORDS = {  # what the check says of accepted faults
    "the reward is an array of one number": "The reward is an array of one number. This is",
    "the flags are arrays of one value": "`terminated` or `truncated` is an array of one",
    "`reset` returns only the observation": "`reset` returns only the observation, as in the old",
    "`step` returns four values": "`step` returns four values, as in the old Gym. This is",
    "the information is None": "The information is None instead of a dictionary. This is",
    "a part of the observation has no numbers": "`goal` is ignored: Box(",
    "the observation is of integers first, then of floats": "`x` is int64, its space float32.",
    "the observation is of float64 and outside its space": "`x` is above the upper bounds of its",
    "`close` raises an exception": "Broken failed to close: OSError: still in use",
    "`render` raises an exception": "Videos will show observations, because Broken: `render`",
}
ROWS = dict(
    re.findall(r"^\| (.+?) \| (accepted|restart|the run ends)\b.*\|$", PAGE.read_text(), re.M)
)
HERE = [fault for fault in FAULTS if fault != "the process dies"]


def test_every_row_of_the_table_is_tested():
    assert ROWS.keys() == FAULTS.keys()
    assert len(ROWS) >= 25


@pytest.fixture(autouse=True)
def signals_of_a_run():
    """As in a run, Ctrl-C raises no KeyboardInterrupt: one that is raised is the environment's."""
    with Interrupt().listening():
        yield


def make(fault, **options):
    limit = {"hang_seconds": 0.4} if "hangs" in fault else {}
    return make_group_with(named(FAULTS[fault][0]), **OPTIONS | limit | options)


def named(cls):
    return type("Broken", (cls,), {"__module__": cls.__module__})


def play(envs, steps=7):
    try:
        played = [envs.reset()] + [envs.step(STAY) for _ in range(steps)]
        render(envs)
        return played
    finally:
        envs.close()


def render(envs):
    try:
        envs.render()
    except RenderingFault as fault:
        assert "OSError: no screen" in str(fault)


def check(fault, capsys, **options):
    outcome, message = ROWS[fault], FAULTS[fault][1]
    if outcome == END:
        with pytest.raises((EnvironmentFault, ValueError)) as raised:
            play(make(fault, **options))
        text = str(raised.value)
        assert message in text
        assert "Broken" in text
        assert "\n" not in text
        return
    envs = make(fault, **options)
    steps = play(envs)
    assert all(np.isfinite(step.reward).all() for step in steps)
    said = capsys.readouterr().err
    if outcome == ACCEPTED:
        assert envs.restarts == [0]
        assert [bool(step.is_last[0]) for step in steps] == [False, False, False, True] * 2
        return
    assert envs.restarts[0] >= 1
    lines = said.splitlines()
    assert len(lines) == envs.restarts[0]
    when = "in the reset of episode 2" if "reset" in fault else "in step 2 of episode 1"
    assert lines[0].startswith(f"environment 0 (Broken) failed {when}: ")
    assert message in lines[0]
    assert "Restart 1 of at most 9" in lines[0]


@pytest.mark.parametrize("fault", HERE)
def test_a_fault_in_this_process(fault, capsys):
    check(fault, capsys, processes=False)


ENDS = [
    pytest.param(fault, marks=pytest.mark.slow if "SystemExit" in fault else pytest.mark.long)
    for fault in FAULTS
    if ROWS[fault] == END
]


@pytest.mark.parametrize("fault", ENDS)
def test_a_fault_that_ends_the_run_in_a_process_of_its_own(fault, capsys):
    check(fault, capsys, processes=True)


SOME = [  # tests/envs/test_processes.py has processes that die or hang
    "`step` returns four values",
    "`step` raises SystemExit",
    "a later `reset` raises an exception",
]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(SOME, id="some", marks=pytest.mark.slow),
        pytest.param([x for x in FAULTS if ROWS[x] != END], id="all", marks=pytest.mark.long),
    ],
)
def test_faults_in_processes_of_their_own(faults, capsys):
    options = {"action_repeat": 1, "name": "Broken"}
    makers = [
        partial(
            ProcessEnv,
            partial(GymEnv, FAULTS[fault][0]()),
            hang_seconds=8 if "hangs" in fault else 60,  # the time to start it counts, too
            name="Broken",
        )
        for fault in faults
    ]
    envs = EnvGroup(makers, seed=0, max_restarts=2, **options)
    try:
        steps = [envs.reset()] + [envs.step(STAY.repeat(len(faults), 0)) for _ in range(4)]
    finally:
        envs.close()
    lines = capsys.readouterr().err.splitlines()
    for number, fault in enumerate(faults):
        found = [line for line in lines if line.startswith(f"environment {number} (Broken)")]
        if ROWS[fault] == ACCEPTED:
            assert (envs.restarts[number], found) == (0, []), fault
            assert [bool(step.is_last[number]) for step in steps] == [False] * 3 + [True, False]
        else:
            line = found[0]
            when = "in the reset of episode 2" if "reset" in fault else "in step 2 of episode 1"
            assert line.startswith(f"environment {number} (Broken) failed {when}: "), fault
            assert FAULTS[fault][1] in line
            assert envs.restarts[number] == len(found) >= 1


def test_too_many_faults_end_the_run_with_one_line(capsys):
    envs = make("`step` raises an exception", processes=False, max_restarts=2)
    with pytest.raises(
        EnvironmentFault,
        match=r"^Environment 0 \(Broken\) failed again, in step 2 of episode 3, after 2 of "
        r"`max_restarts` 2 restarts: KeyError: 'door' \(.*py:\d+ in fault\)\. Correct it",
    ):
        play(envs, 20)
    assert capsys.readouterr().err.count("\n") == 2


def test_ctrl_c_in_an_environment_is_no_fault():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            play(make("`step` raises KeyboardInterrupt", processes=False))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_hang_in_another_thread_is_a_restart(capsys):
    played = []

    class Spinning(Env):
        def fault(self, result):
            while True:
                pass

    envs = make_group_with(Spinning, **OPTIONS | {"hang_seconds": 0.4, "processes": False})
    thread = threading.Thread(target=lambda: played.extend(play(envs)))
    thread.start()
    thread.join(30)
    assert len(played) == 8
    assert "did not answer within `hang_seconds` 0.4" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [fault for fault in HERE if ROWS[fault] != END])
def test_the_check_reports_it_in_advance(fault, capsys):
    envs = make(fault, processes=False)
    found = diagnose(envs, lambda step: STAY, 9)
    envs.close()
    lines = find_warnings(
        found, repeatable=True, sequence=2, across_episodes=True, tanh_rewards=False
    )
    said = "\n".join(lines) + capsys.readouterr().err
    words = WORDS.get(fault, FAULTS[fault][1])
    assert words in said
    if ROWS[fault] == RESTART:
        assert f"failed {found.restarts} times" in said
        assert "Traceback" in found.faults[0].traceback
