"""The schedule of callbacks: every so many frames or updates."""


class Every:
    """Detects when a count passes a multiple of `interval`."""

    def __init__(self, interval: int):
        self.interval = interval
        self._passed = 0

    def start(self, now: int) -> None:
        """Start counting at a number, such as that of a resumed run."""
        self._passed = now // self.interval

    def due(self, now: int) -> bool:
        """Return whether a multiple was passed since the last call."""
        passed = now // self.interval
        due = passed > self._passed
        self._passed = passed
        return due
