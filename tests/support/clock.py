"""A clock that a test advances by assignment."""

from __future__ import annotations


class Clock:
    """Returns ``now``, in seconds; time passes only when the test sets it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
