"""One line of text to a peer's process, one line of JSON back, so that measurements interleave.

The benchmarks hold the asking end, the peers' scripts the answering one. It knows no program and
needs the standard library only.

    ready                  sent unasked, once: {"ready": {versions, sizes, parameters, ...}}
    update                 one complete update            -> {"seconds": ...}
    act [environments]     some policy calls, 1 by default -> {"seconds": ...} of one call
    flops                  one update, counted            -> {"flops": ...}
    memory                 the most that was ever in use  -> {"rss_bytes": ...}
    quit                   ends the process
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

Answer = dict[str, Any]


class PeerError(RuntimeError):
    """A peer's process ended early, or could not do what it was asked."""


# ------------------------------------------------------------------------------- the asking end


class Peer:
    """A running peer; `ready` holds what it said about itself."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        folder: Path | None = None,
    ):
        """Start it and wait until it is ready.

        Args:
            command: the program and its arguments.
            environment: variables beyond those of this process, such as OMP_NUM_THREADS.
            folder: where it runs, if not here.

        Raises:
            PeerError: it ended before it was ready; the error has its last words.
        """
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  until close()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=folder,
        )
        self.ready: Answer = self._answer()["ready"]

    def ask(self, request: str) -> Answer:
        """Send one line and wait for its answer.

        Raises:
            PeerError: it cannot do that, or it has ended.
        """
        assert self._process.stdin
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: reading the answer says how
        return self._answer()

    def close(self) -> None:
        """End the process, now."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # the end of its input is the end of its work
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> Answer:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            words = self._errors.read()[-2000:]
            raise PeerError(f"{self._process.args} ended with exit code {code}:\n{words}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer


# ---------------------------------------------------------------------------- the answering end


@contextlib.contextmanager
def own_output() -> Iterator[TextIO]:
    """A stream to the asking end that nobody else writes to.

    Whatever any library prints, from C as well, goes to the standard error instead.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        yield answers


def serve(answers: TextIO, ready: Answer, commands: Mapping[str, Callable[..., Answer]]) -> None:
    """Answer requests until `quit` or the end of the input.

    Args:
        answers: from `own_output`.
        ready: sent first.
        commands: by name; each takes the request's numbers and returns its answer. An exception
            becomes the answer `error`, and the process goes on.
    """

    def send(answer: Answer) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    send({"ready": ready})
    for line in sys.stdin:
        name, *numbers = line.split() or [""]
        if name == "quit":
            return
        try:
            if name not in commands:
                raise ValueError(f"Expect one of {[*commands, 'quit']}, actually: {name!r}")
            send(commands[name](*map(int, numbers)))
        except Exception as error:  # the asking end decides what an error means
            send({"error": f"{name}: {type(error).__name__}: {error}"})


def peak_memory() -> Answer:
    """The most memory that this process ever held, bytes."""
    return {"rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
