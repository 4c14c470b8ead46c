"""The reads that wait for blocks, and the blocks whose reads have just missed a deadline.

``Scheduler`` holds its lock around every method of ``WaiterTable``. A waiter that is taken out is called back exactly
once, by ``call_back``, without the lock. No thread, no clock: times are monotonic seconds and given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .. import ranges
from .timers import Timer

log = logging.getLogger(__name__)

# A read that missed its deadline fails at once when it is repeated so soon: the kernel does, two times or three (it
# fetches single pages after a failed read-ahead), and would make that many deadlines of one. As long as a failed fetch
# is remembered (policy.BlockQueue).
LATE_SECONDS = 5.0
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


class WaiterTable:
    """Waiters by ticket. Those that a method takes out are the caller's to call back."""

    def __init__(self, late_seconds: float = LATE_SECONDS) -> None:
        self._late_seconds = late_seconds
        self._waiters: dict[int, Waiter] = {}
        self._late: dict[tuple[str, int], float] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, ticket: int, waiter: Waiter) -> None:
        self._waiters[ticket] = waiter

    def pop(self, ticket: int) -> Waiter | None:
        """Takes a waiter out; None when that has been done before."""
        return self._waiters.pop(ticket, None)

    def take(self, tickets: Iterable[int]) -> list[Waiter]:
        """Takes those out that are still waiting."""
        return [waiter for ticket in tickets if (waiter := self._waiters.pop(ticket, None)) is not None]

    def clear(self) -> dict[int, Waiter]:
        """Takes all out."""
        waiters, self._waiters = self._waiters, {}
        return waiters

    def reads(self) -> list[WaitingRead]:
        return [WaitingRead(w.path, w.asked.start, w.asked.length, w.since) for w in self._waiters.values()]

    def record_late(self, waiter: Waiter, now: float) -> None:
        """The waiter's deadline has passed."""
        if len(self._late) > MOST_LATE:
            self._late = {place: until for place, until in self._late.items() if until > now}
        for block in ranges.span_of(waiter.asked):
            self._late[waiter.key, block] = now + self._late_seconds

    def is_late(self, key: str, absent: Iterable[range], now: float) -> bool:
        """Whether a read of one of these blocks has just missed its deadline."""
        return bool(self._late) and any(self._late.get((key, b), now) > now for run in absent for b in run)


def call_back(waiters: Iterable[Waiter], error: Exception | None) -> None:
    """Ends these waits; a callback that raises is logged and costs the others nothing."""
    for waiter in waiters:
        waiter.timer.cancel()
        try:
            waiter.callback(error)
        except Exception as failure:
            log.error("event=callback-bug path=%s", waiter.path, exc_info=failure)
