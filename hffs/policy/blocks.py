"""What the queue knows of one blob's blocks: the states a block can be in, and a map of runs of equal blocks.

Called by ``policy.queue`` only. A run is neighbouring blocks that share everything known of them, so that wanting a
file of 100 GiB costs one object; runs split when part of them changes. Never decides an order and knows no waiter's
deadline. Not thread-safe: the queue's caller holds the lock.
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

_CHUNK: Final = 512  # runs; moving 4 KiB of pointers costs less than the bisection before it
_START: Final = attrgetter("start")


class Priority(IntEnum):
    """How urgent a block is; the smaller the sooner."""

    DEMAND = 0  # a reader waits now
    AHEAD = 1  # a reader will probably come
    BACKGROUND = 2  # prefetching and hydrating small files
    BULK = 3  # hydrating big files: how many workers do that at once follows measurement


class State(IntEnum):  # as events, for the table below: an Enum's hash is Python code, and asked for every block
    # state      held by            leaves by
    ABSENT = 0  # nobody (no run)    WANT
    QUEUED = 1  # the queue          TAKE, PRESENT, DROP
    RUNNING = 2  # one fetch         PRESENT, PUT_BACK, FAIL, RELEASE
    FAILED = 3  # the queue, shortly PRESENT, EXPIRE, DROP


class Event(IntEnum):
    WANT = 0  # somebody asks for it
    WAIT = 1  # a reader waits for it
    TAKE = 2  # handed to a worker
    PRESENT = 3  # it is in the store now, whoever brought it
    PUT_BACK = 4  # its fetch ended early and will be tried again
    RELEASE = 5  # its fetch ended early and that is all
    FAIL = 6  # its fetch failed for good
    EXPIRE = 7  # the failure is old enough to try anew
    DROP = 8  # the file changed or went


AFTER: Final[dict[tuple[State, Event], State]] = {
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
    (State.RUNNING, Event.DROP): State.RUNNING,  # its bytes are on their way; the worker will notice
    (State.FAILED, Event.WANT): State.FAILED,
    (State.FAILED, Event.WAIT): State.FAILED,
    (State.FAILED, Event.PRESENT): State.ABSENT,
    (State.FAILED, Event.EXPIRE): State.ABSENT,
    (State.FAILED, Event.DROP): State.ABSENT,
}


def after(state: State, event: Event) -> State:
    """The state an event leads to; AssertionError for an event that cannot happen in this state."""
    found = AFTER.get((state, event))
    if found is None:
        raise AssertionError(f"a block that is {state.name} cannot meet {event.name}")
    return found


@dataclass(slots=True, eq=False)
class Run(Generic[E]):
    """Blocks ``start`` up to ``stop`` of ``key`` and all that is known of them.

    ``since`` counts wants (the older the smaller); ``until`` is when a QUEUED run becomes due (seconds; None: it is)
    and when a FAILED one is forgotten; ``entry`` names the one valid entry of a QUEUED run in the queue's heaps (0:
    none); ``fetch`` is the fetch that a RUNNING run belongs to.
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
    """The runs of one blob in ascending order, disjoint; and who waits for which block.

    The order is kept in chunks of at most 512 runs, so that an insertion among 100,000 runs moves few (100,000
    scattered blocks took 27 us each to want and wait for with one long list, 14 with chunks: 2026, 2 cores).
    """

    def __init__(self) -> None:
        self.waiters: dict[int, list[int]] = {}
        # Runs of chunk n start at floors[n] or later, and before any of chunk n + 1. Starts only ever grow, so floors
        # stay true without care. No chunk is empty but a single first one.
        self._floors: list[int] = [0]
        self._chunks: list[list[Run[E]]] = [[]]

    def __bool__(self) -> bool:
        return bool(self._chunks[0])

    def __iter__(self) -> Iterator[Run[E]]:
        return chain.from_iterable(self._chunks)

    def look(self, block: int) -> tuple[Run[E] | None, int]:
        """The run that holds ``block`` and its end; or None and where the gap around ``block`` ends."""
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
        """The runs that end after ``block``, ascending; the map must not change meanwhile."""
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
        """The runs that start before ``block``, descending; the map must not change meanwhile."""
        number, at = self._place(block - 1)
        while number >= 0:
            chunk = self._chunks[number]
            while at >= 0:
                yield chunk[at]
                at -= 1
            number -= 1
            at = len(self._chunks[number]) - 1

    def within(self, span: range) -> list[Run[E]]:
        """The runs that overlap ``span``, whole, in order."""
        return list(takewhile(lambda run: run.start < span.stop, self.following(span.start)))

    def insert(self, run: Run[E]) -> None:
        """Add a run where there is a gap."""
        number, at = self._place(run.start)
        chunk = self._chunks[number]
        chunk.insert(at + 1, run)
        if len(chunk) > _CHUNK:
            right = chunk[_CHUNK // 2 :]
            del chunk[_CHUNK // 2 :]
            self._floors.insert(number + 1, right[0].start)
            self._chunks.insert(number + 1, right)

    def cut(self, block: int) -> Run[E] | None:
        """Split the run that straddles the start of ``block``; its new right part, None when there was none."""
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
        """Take a whole run out; its blocks are ABSENT from here on."""
        number, at = self._place(run.start)
        del self._chunks[number][at]
        if not self._chunks[number] and len(self._chunks) > 1:
            del self._chunks[number], self._floors[number]
            self._floors[0] = 0
        run.state = State.ABSENT

    def _place(self, block: int) -> tuple[int, int]:
        """Chunk and index of the last run that starts at or before ``block``; index -1 of chunk 0: there is none."""
        number = max(bisect_right(self._floors, block) - 1, 0)
        at = bisect_right(self._chunks[number], block, key=_START) - 1
        while at < 0 < number:
            number -= 1
            at = bisect_right(self._chunks[number], block, key=_START) - 1
        return number, at
