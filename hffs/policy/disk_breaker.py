"""A circuit breaker for the cache disk: after a failed write one attempt every half minute, or once space is free.

``transfer.block_sink`` reports every success and failure, under its lock, with ``now`` in monotonic seconds.
"""

from __future__ import annotations

from typing import Final

PROBE_SECONDS: Final = 30.0
# This much more free space (bytes) than at the failure allows an attempt at once: the size of one fetch.
_ROOM_AGAIN: Final = 4 << 20


class DiskBreaker:
    """Closed (the disk works) until ``failed``, and again after ``worked``."""

    def __init__(self, probe_seconds: float = PROBE_SECONDS) -> None:
        self._seconds = probe_seconds
        self._next: float | None = None  # the next attempt; None: the disk works
        self._free: int | None = None

    @property
    def is_open(self) -> bool:
        return self._next is not None

    def failed(self, now: float, free: int | None = None) -> None:
        """A write failed; ``free`` bytes were free then, if the disk may have been full."""
        self._next = now + self._seconds
        self._free = free

    def worked(self) -> None:
        self._next = self._free = None

    def may_try(self, now: float, free: int | None = None) -> bool:
        """Returns whether the caller may write now: while the disk fails, one caller per ``probe_seconds`` may."""
        if self._next is None:
            return True
        more = self._free is not None and free is not None and free >= self._free + _ROOM_AGAIN
        if now < self._next and not more:
            return False
        self._next = now + self._seconds
        if more:
            self._free = free
        return True
