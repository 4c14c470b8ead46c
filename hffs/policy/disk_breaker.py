"""Whether to try the disk again after it refused a block: every half minute, or as soon as it has room again.

``transfer.shelf`` tells of every success and failure, under its lock, with ``now`` in monotonic seconds.
"""

from __future__ import annotations

from typing import Final

PROBE_SECONDS: Final = 30.0
# So much more free space than at the refusal (bytes) is worth an attempt at once: what one fetch brings.
_ROOM_AGAIN: Final = 4 << 20


class DiskBreaker:
    """A disk that is thought to work until ``failed``, and again after ``worked``."""

    def __init__(self, probe_seconds: float = PROBE_SECONDS) -> None:
        self._seconds = probe_seconds
        self._next: float | None = None  # when to try; None: the disk works
        self._free: int | None = None

    @property
    def lasts(self) -> bool:
        return self._next is not None

    def failed(self, now: float, free: int | None = None) -> None:
        """The disk refused; ``free`` bytes were free then, where it may have been for lack of room."""
        self._next = now + self._seconds
        self._free = free

    def worked(self) -> None:
        self._next = self._free = None

    def may_try(self, now: float, free: int | None = None) -> bool:
        """Whether the caller may store something now. While the outage lasts, one in ``probe_seconds`` may."""
        if self._next is None:
            return True
        more = self._free is not None and free is not None and free >= self._free + _ROOM_AGAIN
        if now < self._next and not more:
            return False
        self._next = now + self._seconds
        if more:
            self._free = free
        return True
