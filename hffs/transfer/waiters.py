"""The reads that wait for blocks, and the blocks whose reads have just missed a deadline.

``Scheduler`` keeps them under its lock. A waiter that it takes out is called back exactly once, by ``call_back``,
without the lock. No thread, no clock: times are monotonic seconds and given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .. import ranges
from .timers import Timer

log = logging.getLogger(__name__)

# A read that missed its deadline fails at once when it is repeated so soon: the kernel does, two times or three (it
# fetches single pages after a failed read-ahead), and would make that many deadlines of one.
LATE_SECONDS = 5.0  # as long as policy.BlockQueue remembers a failed fetch
MOST_LATE = 4096  # blocks remembered; the kernel asks again for the one that has just failed

Callback = Callable[[Exception | None], None]


@dataclass(slots=True)
class Waiter:
    """A waiting read: bytes ``asked`` of the blob ``key``, since when (monotonic seconds)."""

    callback: Callback
    timer: Timer
    key: str
    path: str
    asked: ranges.ByteRange
    since: float


@dataclass(frozen=True, slots=True)
class WaitingRead:
    path: str
    offset: int
    size: int
    since: float


class LateBlocks:
    """Blocks by key and index whose reads have just missed a deadline."""

    def __init__(self, seconds: float = LATE_SECONDS) -> None:
        self._seconds = seconds
        self._until: dict[tuple[str, int], float] = {}

    def record(self, waiter: Waiter, now: float) -> None:
        """The waiter's deadline has passed."""
        if len(self._until) > MOST_LATE:
            self._until = {place: until for place, until in self._until.items() if until > now}
        for block in ranges.span_of(waiter.asked):
            self._until[waiter.key, block] = now + self._seconds

    def contain(self, key: str, absent: Iterable[range], now: float) -> bool:
        """Whether any of these blocks is one."""
        return bool(self._until) and any(self._until.get((key, b), now) > now for run in absent for b in run)


def call_back(waiters: Iterable[Waiter], error: Exception | None) -> None:
    """Ends these waits; a callback that raises is logged and costs the others nothing."""
    for waiter in waiters:
        waiter.timer.cancel()
        try:
            waiter.callback(error)
        except Exception as failure:
            log.error("event=callback-bug path=%s", waiter.path, exc_info=failure)
