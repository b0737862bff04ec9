"""Uploads in the background, which repeat what fails and never stop or slow the program.

The store of episodes and the mirror of checkpoints use it. It knows no episodes and no files, only
jobs: a function makes and writes one, in a thread of its own.
"""

import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from dreamer.data.address import Place, Refused, Unreachable, one_line

Job = TypeVar("Job")
CHECK_SECONDS = 10.0  # time that an address has to answer before work starts
FIRST_DELAY, LONGEST_DELAY, LAST_DELAY = 1.0, 60.0, 2.0  # seconds between attempts; at the end
FINISH_SECONDS = 60.0  # time for what is left at the end


class Counts(NamedTuple):
    """What has become of the jobs."""

    written: int
    waiting: int
    dropped: int  # lost: the queue was full, or what they were to write is gone
    failed: int  # attempts


class Uploads(Generic[Job]):
    """A bounded queue of jobs, and a daemon thread that does one after the other."""

    def __init__(
        self, address: str, what: str, upload: Callable[[Job], bool | None], *, capacity: int
    ) -> None:
        """Start the thread with the first job.

        Args:
            address: For messages.
            what: Is written, for messages: "episodes".
            upload: Does a job. True: it is written; false: what it was to write is gone; None:
                there was nothing to do. What it raises is warned of once, and tried again.
            capacity: Jobs that may wait. One more drops the one that has waited longest.
        """
        self._address, self._what, self._upload = address, what, upload
        self._capacity = capacity
        self._jobs: dict[Hashable, Job] = {}  # in the order of their arrival
        self._busy = False  # a job is in work
        self._closing = self._given_up = False
        self._random = random.Random()  # of its own: the run's numbers must repeat
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._warned = False
        self._written = self._dropped = self._failed = 0

    @property
    def counts(self) -> Counts:
        """What has become of the jobs of this process."""
        waiting = len(self._jobs) + self._busy
        return Counts(self._written, waiting, self._dropped, self._failed)

    def put(self, key: Hashable, job: Job) -> list[Job]:
        """Add a job; it returns at once.

        Args:
            key: A waiting job of the same key is replaced.
            job: Is done later.

        Returns:
            Jobs that are given up for it.
        """
        with self._changed:
            given_up = [self._jobs.pop(key)] if key in self._jobs else []
            if len(self._jobs) >= self._capacity:
                given_up.append(self._jobs.pop(next(iter(self._jobs))))
                self._dropped += 1
            self._jobs[key] = job
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name=f"upload {self._what}", daemon=True
                )
                self._thread.start()
        return given_up

    def close(self) -> None:
        """Take no more jobs; try again soon what fails."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait so long for what is left, and say so; then what is still left is given up."""
        if self._thread is None:
            return
        quiet = min(1.0, seconds)
        self._thread.join(quiet)
        if self._thread.is_alive() and seconds > quiet:
            left = self.counts.waiting
            print(
                f"Waiting up to {seconds:.0f} s for {left:,} {self._what} to reach {self._address}",
                flush=True,
            )
            self._thread.join(seconds - quiet)
        with self._changed:
            left = self.counts.waiting
            self._given_up = True
            self._jobs.clear()
        if left:
            warnings.warn(
                f"{left:,} {self._what} did not reach {self._address} in time.", stacklevel=2
            )

    def _work(self) -> None:
        attempts = 0  # in vain, of the present job
        job: Job | None = None
        while True:
            with self._changed:
                if job is None:
                    self._busy = False
                    while not self._jobs:
                        if self._closing:
                            return
                        self._changed.wait()
                    job = self._jobs.pop(next(iter(self._jobs)))
                    self._busy = True
            try:
                done = self._upload(job)
            except Exception as error:  # of any library
                self._fail(error)
                attempts += 1
                self._pause(attempts)
                if self._given_up:
                    return
                continue
            self._written += done is True
            self._dropped += done is False
            job, attempts = None, 0

    def _fail(self, error: Exception) -> None:
        self._failed += 1
        if not self._warned:
            self._warned = True
            text = one_line(error)
            place = "" if self._address in text else f"{self._address}: "
            warnings.warn(
                f"The {self._what} wait, and the run continues: {place}{text}. They are written "
                "once the place answers; further warnings are left out.",
                stacklevel=2,
            )

    def _pause(self, attempts: int) -> None:
        """Wait before the next attempt: longer each time, and never as long as others do."""
        delay = min(FIRST_DELAY * 2 ** min(attempts - 1, 10), LONGEST_DELAY)
        delay *= self._random.uniform(0.5, 1.5)
        until = time.monotonic() + delay
        with self._changed:
            while (left := until - time.monotonic()) > 0:
                if self._closing:
                    left = min(left, LAST_DELAY)
                    self._changed.wait(left)
                    return
                self._changed.wait(left)


class Uploading(Protocol):
    """Something that uploads."""

    def close(self) -> None:
        """Add what is to be uploaded at the end."""
        ...

    def join(self, seconds: float) -> None:
        """Wait for what is left."""
        ...


def finish_uploads(parts: Sequence[Uploading], seconds: float = FINISH_SECONDS) -> None:
    """Wait for uploads at the end, for so long in all."""
    for part in parts:
        part.close()
    until = time.monotonic() + seconds
    for part in parts:
        part.join(max(until - time.monotonic(), 0))


def check_place(key: str, place: Place) -> bool:
    """Check before work starts that a place can be used, as far as this can be known.

    Args:
        key: Configuration key, for messages.
        place: May be new.

    Returns:
        Whether it answers; if not, there was a warning: it may come back.

    Raises:
        ValueError: It refuses: credentials or rights are missing.
    """
    errors: list[Exception] = []

    def ask() -> None:
        try:
            if place.local is None:
                place.exists()
                return
            first = next(x for x in (place.local, *place.local.parents) if x.exists())
            if not (first.is_dir() and os.access(first, os.W_OK)):
                raise PermissionError(f"{first} is no folder in which this program may write")
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CHECK_SECONDS)
    if not errors and not thread.is_alive():
        return True
    error = errors[0] if errors else Unreachable(f"{place.address} does not answer")
    if isinstance(error, Refused | PermissionError):
        text = one_line(error)
        where = "" if place.address in text else f"{place.address}: "
        raise ValueError(f"`{key}` must be an address that can be written, got {where}{text}")
    warnings.warn(
        f"`{key}`: {one_line(error)}. The run begins without it; it is tried again and again.",
        stacklevel=2,
    )
    return False
