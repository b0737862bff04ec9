"""The report as a live page: `python -m experiments.watch runs`.

It writes the report again when the logs of the runs have changed, and serves it. The page loads its
newer version by itself. Only the report, and the videos of the runs, leave the root.
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from werkzeug.exceptions import NotFound
from werkzeug.security import safe_join
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.utils import redirect, send_file
from werkzeug.wrappers import Request, Response

from dreamer.cli.command import interruptible, loaded, start
from dreamer.run.paths import expanded
from dreamer.schema.help import Usage, head, keys, print_lines
from dreamer.schema.types import PositiveCount, Section, doc
from dreamer.schema.validation import validate_words
from experiments import report
from experiments.page import write_page
from experiments.results import Compare, of_runs
from experiments.run_folder import run_folders
from experiments.sweep.state import read_state

FOLDER = "report"  # of the page, in the root
PAGE = "live.html"  # beside report.html, which needs no server
SERVED = (".html", ".png", ".pdf", ".csv", ".json", ".mp4")
USAGE = Usage(
    "Serve the report on a folder of runs as a page that updates itself.",
    "python -m experiments.watch FOLDER [key=value ...]",
    (
        ("python -m experiments.watch runs", "Serves it at http://127.0.0.1:8020."),
        ("python -m experiments.watch runs port=9000", "Serves it at another port."),
    ),
)


@dataclass
class WatchSettings(Section):
    """The arguments after the folder."""

    host: Annotated[
        str,
        doc(
            "Address to listen at. With another than this machine's own, everybody who reaches it "
            "can read the report."
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535), doc("Port to listen at; 0: a free one.")] = 8020
    every_seconds: Annotated[
        PositiveCount, doc("Interval between looks at the runs.", unit="seconds")
    ] = 20
    compare: Annotated[
        Compare | None, doc("Show published scores beside those of the runs, as in the report.")
    ] = None


class Words(NamedTuple):
    """The parsed arguments."""

    root: Path
    settings: WatchSettings


def main(words: Sequence[str]) -> int:
    """Serve until Ctrl-C, and return the exit status: 2 on an error."""
    if {"-h", "--help", "help"} & set(words):
        print_lines([*head(USAGE), *keys({}, WatchSettings)])
        return 0
    try:
        root, settings = parse(words)
        live = LiveReport(root, settings)
        live.update()
        server = make_server(
            settings.host, settings.port, Site(root), threaded=True, request_handler=_Quiet
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit:  # werkzeug has printed why it cannot listen
        return 2
    print(f"Report on {root}: http://{settings.host}:{server.server_port}. Ctrl-C stops.")
    with live:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def parse(words: Sequence[str]) -> Words:
    """Parse the command line.

    Raises:
        ValueError: An argument is not allowed; the message names it and the allowed ones.
    """
    folders = [word for word in words if not report.is_option(word)]
    options = validate_words([word for word in words if report.is_option(word)], WatchSettings)
    if len(folders) != 1:
        raise ValueError(f"The input must be one folder of runs, got {' '.join(folders) or 'none'}")
    return Words(expanded(folders[0]), WatchSettings(**options))


class LiveReport:
    """Writes the report again, in a thread of its own, when the runs have changed."""

    def __init__(self, root: Path, settings: WatchSettings):
        """Prepare the thread; `with` starts and ends it."""
        self._root, self._settings = root, settings
        self._seen: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "LiveReport":
        """Start to look at the runs."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop, after the report that is being written."""
        self._stop.set()
        self._thread.join()

    def update(self) -> bool:
        """Write the report if a run has changed, and return whether it did.

        Raises:
            FileNotFoundError: There is no such folder.
        """
        now = _marks(self._root)
        if now == self._seen:
            return False
        out, seconds = self._root / FOLDER, self._settings.every_seconds
        try:
            results = of_runs(self._root, None, compare=self._settings.compare)
        except ValueError as error:  # no run yet
            title = f"Runs in {self._root}"
            write_page(
                out / PAGE, title=title, tables={}, notes=[str(error)], refresh_seconds=seconds
            )
        else:
            out.mkdir(parents=True, exist_ok=True)
            report.write_tables(results, out)
            figures = report.draw(results, out / "figures")
            report.write_report_page(results, out / PAGE, figures=figures, refresh_seconds=seconds)
        self._seen = now
        return True

    def _run(self) -> None:
        while not self._stop.wait(self._settings.every_seconds):
            try:
                self.update()
            except (ValueError, OSError) as error:  # such as runs that are moved meanwhile
                print(f"error: {error}", file=sys.stderr)


class Site:
    """A WSGI application that serves the page, and the files that it links to.

    Other files of the root, such as checkpoints, are not served, nor are links out of it.
    """

    def __init__(self, root: Path):
        """Serve files of `root`."""
        self._root = root.resolve()

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answer a request."""
        request = Request(environ)
        return self._answer(request)(environ, start_response)

    def _answer(self, request: Request) -> Any:
        if request.method not in ("GET", "HEAD"):
            return Response("Only GET is answered.\n", status=405)
        if request.path == "/":
            return redirect(f"/{FOLDER}/{PAGE}")
        path = self._file(request.path)
        if path is None:
            return NotFound()
        answer = send_file(path, request.environ, conditional=True)
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    def _file(self, address: str) -> Path | None:
        """Return the file at an address; None if it is not to be served."""
        joined = safe_join(str(self._root), address.lstrip("/"))
        if joined is None:
            return None
        path = Path(joined).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            return None
        below = path.relative_to(self._root).parts
        is_shown = below[0] == FOLDER or path.parent.name == "videos"
        return path if is_shown and path.suffix in SERVED else None


class _Quiet(WSGIRequestHandler):
    """Prints no line per request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Print nothing."""


def _marks(root: Path) -> list[tuple[str, ...]]:
    """Return what changes with the runs: their states, logs and videos.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"The folder must hold runs, such as `runs`, got {root}.")
    found = []
    for folder in run_folders(root):
        found.append((str(folder), read_state(folder).phase))
        for path in [*folder.glob("*.json*"), folder / "failure.txt", folder / "videos"]:
            try:
                state = path.stat()
            except OSError:
                continue
            found.append((str(path), str(state.st_size), str(state.st_mtime_ns)))
    return found


def run() -> None:
    """Run the command line of this process, and exit."""
    words = sys.argv[1:]
    start("a live report:", words)
    loaded()
    interruptible(main, words)


if __name__ == "__main__":
    run()
