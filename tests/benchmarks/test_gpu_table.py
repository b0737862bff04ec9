"""The table of what a GPU machine left: every part once, with its numbers or how it failed."""

import json

from benchmarks.gpu_table import rows


def test_every_part_has_its_numbers_or_its_last_line(tmp_path):
    parts = "tests 1 9\nupdate 0 20\nact 0 5\nprofile 0 7\nrun 124 120\n"
    (tmp_path / "parts.txt").write_text(parts)
    (tmp_path / "tests.log").write_text("F..\n1 failed, 2 passed\n")
    programs = {
        "ours": {"median": 0.01, "precision": "bf16-mixed"},
        "sheeprl": {"median": 0.05, "precision": "32-true"},
    }
    (tmp_path / "update.json").write_text(json.dumps({"programs": programs}))
    calls = {"ours": {"1": {"median": 0.002}}}
    emulation = {"8": {"emulator alone": {"median": 0.004}}}
    report = {"policy_calls": calls, "emulation": emulation}
    (tmp_path / "act.json").write_text(json.dumps(report))
    report = {"seconds": 0.02, "busy_seconds": 0.015, "calls": 2540.0}
    (tmp_path / "profile.json").write_text(json.dumps(report))
    lines = [{"frames": n, "perf/updates_per_second": u} for n, u in enumerate((1, 90, 91, 99))]
    (tmp_path / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [tuple(row.values()) for row in rows(tmp_path)] == [
        ("tests", "9 s", "failed (1)", "last line", "1 failed, 2 passed"),
        ("update", "20 s", "ok", "update, ours, bf16-mixed", "10 ms, 100 a second"),
        ("", "", "", "update, sheeprl, 32-true", "50 ms, 20 a second"),
        ("act", "5 s", "ok", "policy call, ours, E = 1", "2 ms"),
        ("", "", "", "emulation, emulator alone, E = 8", "2000 policy steps a second"),
        ("profile", "7 s", "ok", "update, profiled", "20 ms, 15 ms busy in 2540 calls"),
        ("run", "120 s", "timed out", "perf/updates_per_second", "91"),
    ]
