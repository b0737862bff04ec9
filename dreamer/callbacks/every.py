"""Every so many frames: the one way in which callbacks keep time."""


class Every:
    """Tells when a multiple of `frames` has been passed since the last time it was asked."""

    def __init__(self, frames: int):
        self.frames = frames
        self._passed = 0

    def start(self, now: int) -> None:
        """Begin to count at a frame count, that of a resumed run for instance."""
        self._passed = now // self.frames

    def due(self, now: int) -> bool:
        """Whether a multiple has been passed, once for each."""
        passed = now // self.frames
        due = passed > self._passed
        self._passed = passed
        return due
