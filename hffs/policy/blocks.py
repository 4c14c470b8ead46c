"""The states of blocks in the queue, and a map of runs of equal blocks for one blob.

Used by ``policy.queue`` only. A run is a range of adjacent blocks with equal state, so that wanting a file of 100 GiB
costs one object; runs are split when part of them changes. Not thread-safe: the caller of the queue holds the lock.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, takewhile
from operator import attrgetter
from typing import Final, Generic, TypeVar

E = TypeVar("E")

_CHUNK: Final = 512  # runs; moving 4 KiB of pointers costs less than the bisection
_START: Final = attrgetter("start")


class Priority(IntEnum):
    """The urgency of a block; smaller values first."""

    DEMAND = 0  # a reader waits now
    AHEAD = 1  # read-ahead: a reader will probably need it
    BACKGROUND = 2  # prefetching and hydrating small files
    BULK = 3  # hydrating big files, by as many workers as measurement shows to pay


class State(IntEnum):  # IntEnum, like Event: the hash of an Enum is Python code, and used for every block
    # state      held by            leaves by
    ABSENT = 0  # no run             WANT
    QUEUED = 1  # the queue          TAKE, PRESENT, DROP
    RUNNING = 2  # one fetch         PRESENT, PUT_BACK, FAIL, RELEASE
    FAILED = 3  # the queue, shortly PRESENT, EXPIRE, DROP


class Event(IntEnum):
    WANT = 0  # requested
    WAIT = 1  # a reader waits for it
    TAKE = 2  # handed to a worker
    PRESENT = 3  # found in the store
    PUT_BACK = 4  # its fetch ended early and will be retried
    RELEASE = 5  # its fetch ended early, without a retry
    FAIL = 6  # its fetch failed for good
    EXPIRE = 7  # the failure is old enough for a new attempt
    DROP = 8  # the file was closed or replaced


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.ABSENT, Event.WANT): State.QUEUED,
    (State.ABSENT, Event.PRESENT): State.ABSENT,
    (State.QUEUED, Event.WANT): State.QUEUED,
    (State.QUEUED, Event.WAIT): State.QUEUED,
    (State.QUEUED, Event.TAKE): State.RUNNING,
    (State.QUEUED, Event.PRESENT): State.ABSENT,
    (State.QUEUED, Event.DROP): State.ABSENT,
    (State.RUNNING, Event.WANT): State.RUNNING,
    (State.RUNNING, Event.WAIT): State.RUNNING,
    (State.RUNNING, Event.PRESENT): State.ABSENT,
    (State.RUNNING, Event.PUT_BACK): State.QUEUED,
    (State.RUNNING, Event.RELEASE): State.ABSENT,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.DROP): State.RUNNING,  # its bytes are in flight; the worker notices
    (State.FAILED, Event.WANT): State.FAILED,
    (State.FAILED, Event.WAIT): State.FAILED,
    (State.FAILED, Event.PRESENT): State.ABSENT,
    (State.FAILED, Event.EXPIRE): State.ABSENT,
    (State.FAILED, Event.DROP): State.ABSENT,
}


def after(state: State, event: Event) -> State:
    """Returns the state after an event; AssertionError for an event that is impossible in this state."""
    found = TRANSITIONS.get((state, event))
    if found is None:
        raise AssertionError(f"{event.name} is impossible for a block that is {state.name}")
    return found


@dataclass(slots=True, eq=False)
class Run(Generic[E]):
    """Blocks ``start`` up to ``stop`` of ``key``.

    ``since`` counts wants (older ones are smaller); ``until`` is when a QUEUED run becomes due (seconds; None: it is)
    and when a FAILED one expires; ``entry`` is the number of a QUEUED run's valid entry in the heaps (0: none);
    ``fetch`` is the fetch of a RUNNING run.
    """

    key: str
    start: int
    stop: int
    state: State
    priority: Priority
    since: int
    attempt: int = 0
    until: float | None = None
    entry: int = 0
    fetch: int = 0
    error: E | None = None

    def __len__(self) -> int:
        return self.stop - self.start


class BlockMap(Generic[E]):
    """The runs of one blob in ascending order, disjoint; and the tickets waiting for each block.

    The order is kept in chunks of at most 512 runs, so that an insertion among 100,000 runs moves few (100,000
    scattered blocks took 27 us each to want and wait for with one long list, 14 with chunks: 2026, 2 cores).
    """

    def __init__(self) -> None:
        self.waiters: dict[int, list[int]] = {}
        # Runs of chunk n start at floors[n] or later, and before any of chunk n + 1. Starts only grow, so floors remain
        # lower bounds. Only a single first chunk may be empty.
        self._floors: list[int] = [0]
        self._chunks: list[list[Run[E]]] = [[]]

    def __bool__(self) -> bool:
        return bool(self._chunks[0])

    def __iter__(self) -> Iterator[Run[E]]:
        return chain.from_iterable(self._chunks)

    def look(self, block: int) -> tuple[Run[E] | None, int]:
        """Returns the run that contains ``block`` and its end; or None and the end of the gap around ``block``."""
        number, at = self._place(block)
        chunk = self._chunks[number]
        if at >= 0 and chunk[at].stop > block:
            return chunk[at], chunk[at].stop
        if at + 1 < len(chunk):
            return None, chunk[at + 1].start
        return None, self._chunks[number + 1][0].start if number + 1 < len(self._chunks) else sys.maxsize

    def holds(self, block: int) -> bool:
        return self.look(block)[0] is not None

    def following(self, block: int) -> Iterator[Run[E]]:
        """Yields the runs that end after ``block``, ascending; the map must not change meanwhile."""
        number, at = self._place(block)
        if at < 0 or self._chunks[number][at].stop <= block:
            at += 1
        while number < len(self._chunks):
            chunk = self._chunks[number]
            while at < len(chunk):
                yield chunk[at]
                at += 1
            number, at = number + 1, 0

    def preceding(self, block: int) -> Iterator[Run[E]]:
        """Yields the runs that start before ``block``, descending; the map must not change meanwhile."""
        number, at = self._place(block - 1)
        while number >= 0:
            chunk = self._chunks[number]
            while at >= 0:
                yield chunk[at]
                at -= 1
            number -= 1
            at = len(self._chunks[number]) - 1

    def within(self, span: range) -> list[Run[E]]:
        """Returns the runs that overlap ``span``, uncut, in order."""
        return list(takewhile(lambda run: run.start < span.stop, self.following(span.start)))

    def insert(self, run: Run[E]) -> None:
        """Adds a run in a gap."""
        number, at = self._place(run.start)
        chunk = self._chunks[number]
        chunk.insert(at + 1, run)
        if len(chunk) > _CHUNK:
            right = chunk[_CHUNK // 2 :]
            del chunk[_CHUNK // 2 :]
            self._floors.insert(number + 1, right[0].start)
            self._chunks.insert(number + 1, right)

    def cut(self, block: int) -> Run[E] | None:
        """Splits the run that straddles the start of ``block``; returns its new right part, None if there is none."""
        left, _ = self.look(block)
        if left is None or left.start == block:
            return None
        right = Run(
            left.key, block, left.stop, left.state, left.priority, left.since,
            left.attempt, left.until, 0, left.fetch, left.error,
        )  # fmt: skip
        left.stop = block
        self.insert(right)
        return right

    def remove(self, run: Run[E]) -> None:
        """Removes a run; its blocks become ABSENT."""
        number, at = self._place(run.start)
        del self._chunks[number][at]
        if not self._chunks[number] and len(self._chunks) > 1:
            del self._chunks[number], self._floors[number]
            self._floors[0] = 0
        run.state = State.ABSENT

    def _place(self, block: int) -> tuple[int, int]:
        """Returns chunk and index of the last run that starts at or before ``block``; index -1 of chunk 0: none."""
        number = max(bisect_right(self._floors, block) - 1, 0)
        at = bisect_right(self._chunks[number], block, key=_START) - 1
        while at < 0 < number:
            number -= 1
            at = bisect_right(self._chunks[number], block, key=_START) - 1
        return number, at
