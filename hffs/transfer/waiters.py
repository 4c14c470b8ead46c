"""Who waits for bytes, and which blocks have just kept somebody waiting too long.

The fetcher's, which holds its lock around every call but ``tell``. Whoever takes a waiter out of the room calls it
back, exactly once, without the lock. No thread, no clock: times are monotonic seconds and given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .. import ranges
from .timers import Timer

log = logging.getLogger(__name__)

# A read that was too late fails at once for whoever asks again so soon: the kernel does, two times or three (it fetches
# single pages after a failed read-ahead), and would make that many deadlines of one. As long as a failed fetch is
# remembered (policy.BlockQueue).
LATE_SECONDS = 5.0
MOST_LATE = 4096  # blocks remembered; the kernel asks again for the one it has just been refused

Callback = Callable[[Exception | None], None]


@dataclass(slots=True)
class Waiter:
    """A read that waits: of which blob (``key``), for which bytes, since when."""

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
    """Waiters by ticket."""

    def __init__(self, late_seconds: float = LATE_SECONDS) -> None:
        self._late_seconds = late_seconds
        self._waiters: dict[int, Waiter] = {}
        self._late: dict[tuple[str, int], float] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._waiters

    def enter(self, ticket: int, waiter: Waiter) -> None:
        self._waiters[ticket] = waiter

    def leave(self, ticket: int) -> Waiter | None:
        """The waiter, for the caller to call back; None when somebody else has taken it."""
        return self._waiters.pop(ticket, None)

    def clear(self) -> dict[int, Waiter]:
        """All waiters, for the caller to call back."""
        left, self._waiters = self._waiters, {}
        return left

    def reads(self) -> list[WaitingRead]:
        return [WaitingRead(w.path, w.asked.start, w.asked.length, w.since) for w in self._waiters.values()]

    def note_late(self, waiter: Waiter, now: float) -> None:
        """The waiter's deadline has passed."""
        if len(self._late) > MOST_LATE:
            self._late = {place: until for place, until in self._late.items() if until > now}
        for block in ranges.span_of(waiter.asked):
            self._late[waiter.key, block] = now + self._late_seconds

    def is_late(self, key: str, absent: Iterable[range], now: float) -> bool:
        """Whether one of these blocks has just kept somebody waiting too long."""
        return bool(self._late) and any(self._late.get((key, b), now) > now for run in absent for b in run)


def tell(waiters: Iterable[Waiter | None], error: Exception | None) -> None:
    """Call them back; one waiter's bug is not the others'."""
    for waiter in waiters:
        if waiter is not None:
            waiter.timer.cancel()
            try:
                waiter.callback(error)
            except Exception as failure:
                log.error("event=callback-bug path=%s", waiter.path, exc_info=failure)
