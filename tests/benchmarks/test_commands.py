"""The benchmarks run, at sizes too small to mean anything, and report what they say."""

import json
import sys

import pytest

from benchmarks import measure
from benchmarks.peers.sheeprl_run import WholeRun
from benchmarks.peers.sizes import SIZES, Size

with pytest.MonkeyPatch.context() as patch:
    # They set up the process they run in, and this one is the tests'.
    patch.setattr("dreamer.runtime.prepare", lambda: None)
    from benchmarks import act, features, profile, replay, run, startup, store, update

TINY = Size(
    batch_size=3,
    batch_length=5,
    horizon=4,
    actions=6,
    channels=1,
    deter=8,
    hidden=7,
    variables=3,
    classes=4,
    depth=2,
    units=9,
    layers=1,
)
PEER_SECONDS = 2.0  # of everything that the stand-in for a peer does


class StandIn:
    """Answers as a peer would, whatever it is asked."""

    def ask(self, question):
        return {"seconds": PEER_SECONDS, "flops": 10, "rss_bytes": 20}

    def close(self):
        pass


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Everything that makes a number steady, and takes long, made small."""
    monkeypatch.setitem(SIZES, "small", TINY)
    monkeypatch.setitem(SIZES, "full", TINY)
    monkeypatch.setattr(measure, "MATRIX", 32)
    monkeypatch.setattr(act, "CALLS", 2)
    monkeypatch.setattr(act, "STEPS", 5)
    monkeypatch.setattr(replay, "SAMPLES", 2)
    monkeypatch.setattr(replay, "EPISODE", 60)
    for module in (act, update):
        monkeypatch.setattr(module, "start_sheeprl", lambda **_: StandIn())


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Run a benchmark with these words on its command line; its report, and what it printed."""

    def run_and_read(command, *words):
        path = tmp_path / "reports" / "report.json"
        monkeypatch.setattr(sys, "argv", ["benchmark", *words, "--out", str(path)])
        command.main()
        read = json.loads(path.read_text())
        assert read["benchmark"] == command.__name__.split(".")[-1]
        assert read["machine"]["date"].endswith("UTC")
        assert read["machine"]["versions"]["torch"].startswith("2.")
        return read, capsys.readouterr().out

    return run_and_read


def assert_spread(spread, repeats):
    assert 0 < spread["low"] <= spread["median"] <= spread["high"] < 60
    assert spread["repeats"] == repeats


@pytest.mark.slow
def test_the_cost_of_copies_is_that_to_a_run_without(report, monkeypatch):
    monkeypatch.setattr(store, "WARM_UP", 1)
    monkeypatch.setattr(store, "SECONDS", 0.01)
    read, text = report(store, "--updates", "2", "--repeats", "1")
    assert read["ratios"].keys() == {"none", "folder", "slow", "unreachable"}
    assert read["ratios"]["none"] == [1]
    assert all(seconds > 0 for (seconds,) in read["seconds"].values())
    assert "unreachable" in text


@pytest.mark.slow
def test_the_update_is_timed_and_counted_beside_a_peer(report):
    words = ("--repeats", "2", "--threads", "1", "--peer", "sheeprl", "kl_balance=false")
    read, printed = report(update, *words)
    ours, peer = (read["programs"][name] for name in ("ours", "sheeprl"))
    for program in (ours, peer):
        assert_spread(program, repeats=2)
    assert (peer["median"], peer["flops"], peer["memory_bytes"]) == (PEER_SECONDS, 10, 20)
    assert ours["ours_is_faster_by"] == 1
    assert peer["ours_is_faster_by"] == pytest.approx(PEER_SECONDS / ours["median"])
    assert 1e6 < ours["flops"] < 1e9
    assert "ChunkedDecoder" in ours["kernels"]
    assert 5e7 < ours["memory_bytes"] < 1e11
    assert (read["size"], read["settings"]) == (TINY.as_dict(), ["kl_balance=false"])
    assert set(read["matrix_flops_per_second"]) == {"32-true", "bf16-mixed"}
    assert f"{peer['ours_is_faster_by']:.2f} x" in printed


@pytest.mark.slow
def test_operations_of_an_update_are_added_up_by_name_and_shapes(report):
    read, printed = report(profile, "--threads", "1", "--top", "5", "model.horizon=3")
    operations = read["operations"]
    assert operations == sorted(operations, key=lambda row: -row["seconds"])
    calls = {(row["name"], row["shapes"]): row["calls"] for row in operations}
    first = str([[15, 1, 64, 64], [2, 1, 4, 4], [2], [], [], [], []])  # of 3 x 5 images
    assert calls["aten::mkldnn_convolution", first] == 1
    assert 0 < sum(row["seconds"] for row in operations) <= 1.1 * read["seconds"]
    assert operations[0]["name"] in printed and printed.count("\n") == 1 + 5 + 2
    assert f"{1e3 * read['seconds']:.4g} ms, of which" in printed


@pytest.mark.slow
def test_plain_networks_are_timed_where_they_are_asked_for(report):
    read, _ = report(update, "--repeats", "1", "--threads", "1", "kernels=plain")
    assert read["programs"]["ours"]["kernels"] == []


@pytest.mark.slow
def test_features_are_compared_with_a_plain_update_in_turns(report):
    read, printed = report(
        features, "--updates", "3", "probe=map", "experiment=terminal_head", "layer_norm=false"
    )
    assert read["features"].keys() == {"probe=map", "experiment=terminal_head", "layer_norm=false"}
    for name, feature in read["features"].items():
        for seconds in (feature["seconds"], read["plain_seconds"]):
            assert len(seconds) == 3 and min(seconds) > 0 and max(seconds) < 60
        ratio = feature["ratio"]
        assert ratio["pairs"] == 3
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
        assert f"{name}  " in printed and f"{ratio['median']:.2f}" in printed


def test_an_error_of_one_agent_ends_the_other_ones_wait(monkeypatch):
    make_agent = features.make_agent

    def fail(size, cfg, shapes):
        if cfg.iwae_samples > 1:
            raise ValueError("no memory")
        return make_agent(size, cfg, shapes)

    monkeypatch.setattr(features, "make_agent", fail)
    options = {"precision": "32-true", "device": "cpu", "updates": 1}
    with pytest.raises(ValueError, match="no memory"):
        features.seconds_of_updates(TINY, [[], ["iwae_samples=2"]], **options)


@pytest.mark.slow
def test_a_policy_call_and_emulation_are_timed(report):
    pytest.importorskip("ale_py")
    read, printed = report(act, "--repeats", "2", "--threads", "1", "--peer", "sheeprl")
    for environments in ("1", "8"):
        for program in ("ours", "sheeprl"):
            assert_spread(read["policy_calls"][program][environments], repeats=2)
        for emulation in ("emulator alone", "through the collector"):
            assert_spread(read["emulation"][environments][emulation], repeats=20)
    assert read["policy_calls"]["sheeprl"]["1"]["median"] == PEER_SECONDS
    ours = read["policy_calls"]["ours"]["8"]["median"]
    assert f"{PEER_SECONDS / ours:.2f} x" in printed


def test_the_replay_is_timed_until_it_has_wrapped(report, tmp_path):
    words = ("--capacity", "300", "--steps", "700", "--folder", str(tmp_path))
    read, printed = report(replay, *words)
    full, wrapped = read["measurements"]
    assert (full["steps_added"], full["steps_held"]) == (300, 300 - 5)  # less the resets held
    assert (wrapped["steps_added"], wrapped["steps_held"]) == (700, 300 - 5)
    for row in (full, wrapped):
        assert 0 < row["add_seconds"] < 0.1
        assert_spread(row["sample"], repeats=2)
        assert row["private_bytes"] > 1e7
    assert "steps added" in printed
    assert list(tmp_path.iterdir()) == [tmp_path / "reports"], "the ring was left behind"


def test_whole_runs_take_turns_and_are_compared(report, monkeypatch):
    made = []

    def stand_in(name, seconds):
        def whole_run(folder, settings, environment):
            made.append((name, settings, environment))
            return WholeRun([name, *settings], seconds, 80, 4)

        return whole_run

    monkeypatch.setattr(run, "run_ours", stand_in("ours", 2.0))
    monkeypatch.setattr(run, "run_sheeprl", stand_in("theirs", 5.0))
    read, printed = report(run, "--repeats", "2", "--steps", "80", "--threads", "1")
    one_thread = {"OMP_NUM_THREADS": "1"}
    turn = [
        ("ours", ["total_frames=320"], one_thread),
        ("theirs", ["algo.total_steps=80"], one_thread),
    ]
    assert made == 2 * turn
    assert read["programs"]["sheeprl"]["ours_is_faster_by"] == 2.5
    for program in read["programs"].values():
        assert_spread(program, repeats=2)
        assert (program["policy_steps"], program["updates"]) == (80, 4)
    assert "2.50 x" in printed


@pytest.mark.slow
def test_a_whole_run_of_ours_does_what_it_says(report):
    pytest.importorskip("ale_py")
    read, _ = report(run, "--steps", "1100", "--threads", "1", "--no-peer")
    (ours,) = read["programs"].values()
    assert ours["policy_steps"] == 1100  # the budget, inside a collection
    assert ours["updates"] == 6
    assert "total_frames=4400" in ours["command"]
    assert 1 < ours["median"] < 600


CHECKOUT = """
import pathlib, sys, time

print("Starting", flush=True)
run_dir = next(word for word in sys.argv if word.startswith("run_dir=")).partition("=")[2]
folder = pathlib.Path(run_dir)
folder.mkdir()
(folder / "metrics.jsonl").write_text('{"frames": 3, "collect/return": 1}\\n')
time.sleep(0.2)
(folder / "metrics.jsonl").write_text('{"frames": 4, "world_model/loss": 1}\\n')
time.sleep(60)
"""


def test_checkouts_take_turns_and_a_run_is_timed_until_its_first_update(
    report, monkeypatch, tmp_path
):
    (tmp_path / "train.py").write_text(CHECKOUT)
    monkeypatch.setattr(startup, "ROOT", tmp_path)
    monkeypatch.setattr(startup, "COMMANDS", {"say": ("-c", "print('said'); print('more')")})
    monkeypatch.setattr(startup, "RUNS", {"update": ("task=memory",)})
    turns, start = [], startup._start

    def record(words, checkout, environment):
        turns.append((words[0], str(checkout), environment))
        return start(words, checkout, environment)

    monkeypatch.setattr(startup, "_start", record)
    words = ("--repeats", "2", "--threads", "1", "--other", str(tmp_path / "."))
    read, printed = report(startup, *words)
    one_thread = {"OMP_NUM_THREADS": "1"}
    expected = [(word, str(tmp_path), one_thread) for word in 4 * ["-c"] + 4 * ["train.py"]]
    assert turns == expected
    for name, shortest in (("say", 0), ("update", 0.2)):
        for checkout in ("ours", "other"):
            times = read["programs"][name][checkout]
            for part in ("answer", "total"):
                assert_spread(times[part], repeats=2)
            assert times["total"]["low"] >= max(times["answer"]["low"], shortest)
            assert 0 < times["processor"]["median"] < times["total"]["high"]
    assert "first output" in printed and "update" in printed


def test_a_run_that_fails_before_its_first_update_is_an_error(tmp_path):
    (tmp_path / "train.py").write_text("print('error: no')")
    with pytest.raises(RuntimeError, match="^The run must make an update, got error: no"):
        startup.time_first_update((), tmp_path, {})
