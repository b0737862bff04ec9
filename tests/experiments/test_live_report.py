"""The live page: written again when runs change, and served with nothing but what it shows."""

import re
import threading
import urllib.request

import pytest
from folders import make_run
from werkzeug.test import Client

from experiments import tables, watch
from experiments.watch import LiveReport, Site, WatchSettings


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few resamples, and no figure."""
    monkeypatch.setattr(tables, "RESAMPLES", 5)
    monkeypatch.setattr(watch.report.plots, "figures", lambda *given, frames: [])


@pytest.fixture
def run(tmp_path):
    path = make_run(tmp_path / "runs", finished=False)
    (path / "videos").mkdir()
    (path / "videos" / "policy_0000003000.mp4").write_bytes(b"0123456789")
    return path


@pytest.fixture
def root(run, tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def client(root):
    LiveReport(root, WatchSettings()).update()
    return Client(Site(root))


def test_the_page_and_the_videos_it_links_to_are_served(client):
    answer = client.get("/")
    assert (answer.status_code, answer.location) == (302, "/report/live.html")
    page = client.get("/report/live.html")
    assert page.status_code == 200 and page.mimetype == "text/html"
    assert 'data-refresh="20"' in page.text
    assert "memory/tiny/seed0 (3,000 of 3,000 frames)" in page.text
    (source,) = re.findall(r'<video src="\.\.(/[^"]+)"', page.text)
    film = client.get(source)
    assert (film.data, film.mimetype) == (b"0123456789", "video/mp4")
    part = client.get(source, headers={"Range": "bytes=2-4"})  # how browsers seek
    assert (part.status_code, part.data) == (206, b"234")


@pytest.mark.parametrize(
    "address",
    [
        "/dummy/memory/tiny/seed0/config.yaml",
        "/dummy/memory/tiny/seed0/metrics.jsonl",
        "/dummy/memory/tiny/seed0/checkpoints/last.ckpt",
        "/dummy/memory/tiny/seed0/videos",
        "/report",
        "/report/nothing.html",
        "/../secret.html",
        "/report/../../secret.html",
        "/%2e%2e/secret.html",
        "//etc/passwd",
        "/report/link.html",
        "/report/script.py",
    ],
)
def test_nothing_else_is_served(address, client, root):
    (root.parent / "secret.html").write_text("secret")
    (root / "report" / "link.html").symlink_to(root.parent / "secret.html")
    (root / "report" / "script.py").write_text("")
    assert client.get(address).status_code == 404


def test_only_reading_is_answered(client):
    assert client.post("/report/live.html").status_code == 405


def test_the_report_is_written_again_when_a_run_has_changed(root, run):
    live = LiveReport(root, WatchSettings())
    assert live.update()
    assert not live.update()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"frames": 4000, "collect/return": 9.0, "collect/episodes": 4}\n')
    assert live.update()
    assert "4,000 frames" in (root / "report" / "live.html").read_text()
    (run / "summary.json").write_text('{"frames": 4000}')
    assert live.update()
    assert "1 finished" in (root / "report" / "live.html").read_text()


def test_a_folder_without_runs_has_a_page_that_waits_for_them(tmp_path):
    live = LiveReport(tmp_path, WatchSettings())
    live.update()
    page = tmp_path / "report" / "live.html"
    assert f"No runs in {tmp_path}." in page.read_text()
    make_run(tmp_path)
    assert live.update()
    assert "1 finished" in page.read_text()


def test_what_is_no_folder_or_no_key_is_refused(tmp_path, capsys):
    cases = {
        (): "The input must be one folder of runs, got none",
        ("a", "b"): "got a b",
        (str(tmp_path / "nowhere"),): "The folder must hold runs",
        (str(tmp_path), "prot=1"): "Unknown key `prot`. The nearest: port",
        (str(tmp_path), "port=70000"): "`port`",
    }
    for words, message in cases.items():
        assert watch.main(words) == 2
        assert message in capsys.readouterr().err
    assert watch.main(["--help"]) == 0
    assert "127.0.0.1" in capsys.readouterr().out


def test_the_command_listens_at_this_machine_only_and_ends_with_ctrl_c(root, monkeypatch, capsys):
    answers, made = [], []
    make_server = watch.make_server

    def serve(*given, **options):
        server = make_server(*given, **options)
        made.append(server)
        forever = server.serve_forever

        def until_interrupted():
            thread = threading.Thread(target=forever)
            thread.start()
            address = f"http://127.0.0.1:{server.server_port}/"
            answers.append(urllib.request.urlopen(address, timeout=5).read())
            server.shutdown()
            thread.join()
            raise KeyboardInterrupt

        monkeypatch.setattr(server, "serve_forever", until_interrupted)
        return server

    monkeypatch.setattr(watch, "make_server", serve)
    assert watch.main([str(root), "port=0"]) == 0
    (server,) = made
    assert server.server_address[0] == "127.0.0.1"
    assert b"<h1>Runs in" in answers[0]
    assert f"http://127.0.0.1:{server.server_port}. Ctrl-C stops." in capsys.readouterr().out
