"""The protocol with a peer's process: one line of text per request, one line of JSON per answer.

The benchmarks are the client, the peers' scripts the server. So measurements of several programs
can take turns. It needs the standard library only.

    ready                  sent once at start: {"ready": {versions, sizes, parameters, ...}}
    update                 one complete update            -> {"seconds": ...}
    act [environments]     some policy calls, 1 by default -> {"seconds": ...} of one call
    flops                  one update, counted            -> {"flops": ...}
    memory                 peak memory                    -> {"rss_bytes": ...}
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
    """A peer's process ended early, or a request failed."""


# -------------------------------------------------------------------------------------- client


class Peer:
    """A running peer; `ready` is its description of itself."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        folder: Path | None = None,
    ):
        """Start the process and wait until it is ready.

        Args:
            command: the program and its arguments.
            environment: variables beyond those of this process, such as OMP_NUM_THREADS.
            folder: working directory, if not this one.

        Raises:
            PeerError: It ended before it was ready; the message has its last output.
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
            PeerError: The request failed, or the process has ended.
        """
        assert self._process.stdin
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: reading the answer raises the error
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # the process ends with its input
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
            output = self._errors.read()[-2000:]
            raise PeerError(f"{self._process.args} ended with exit code {code}:\n{output}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer


# -------------------------------------------------------------------------------------- server


@contextlib.contextmanager
def own_output() -> Iterator[TextIO]:
    """Open a stream to the client that only this program writes to.

    Output of libraries, also from C, goes to the standard error.
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
        commands: by name; each takes the numbers of a request and returns the answer. An exception
            is sent as the answer `error`, and the process continues.
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
                raise ValueError(f"The request must be one of {[*commands, 'quit']}, got {name!r}")
            send(commands[name](*map(int, numbers)))
        except Exception as error:  # the client handles errors
            send({"error": f"{name}: {type(error).__name__}: {error}"})


def peak_memory() -> Answer:
    """Return the peak memory of this process in bytes."""
    return {"rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
