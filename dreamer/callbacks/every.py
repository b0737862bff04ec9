"""The schedule of callbacks: every so many frames."""


class Every:
    """Detects when the frame count passes a multiple of `frames`."""

    def __init__(self, frames: int):
        self.frames = frames
        self._passed = 0

    def start(self, now: int) -> None:
        """Start counting at a frame count, such as that of a resumed run."""
        self._passed = now // self.frames

    def due(self, now: int) -> bool:
        """Return whether a multiple was passed since the last call."""
        passed = now // self.frames
        due = passed > self._passed
        self._passed = passed
        return due
