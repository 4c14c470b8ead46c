"""What the queue knows of one blob's blocks: the states a block can be in, and a map of runs of equal blocks.

Called by ``policy.queue`` only. A run is neighbouring blocks that share everything known of them, so that wanting a
file of 100 GiB costs one object; runs split when part of them changes. Never decides an order and knows no waiter's
deadline. Not thread-safe: the queue's caller holds the lock.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final, Generic, TypeVar

E = TypeVar("E")


class Priority(IntEnum):
    """How urgent a block is; the smaller the sooner."""

    DEMAND = 0  # a reader waits now
    AHEAD = 1  # a reader will probably come
    BACKGROUND = 2  # hydration


class State(Enum):
    # state      held by            leaves by
    ABSENT = 0  # nobody (no run)    WANT
    QUEUED = 1  # the queue          TAKE, PRESENT, DROP
    RUNNING = 2  # one fetch         PRESENT, PUT_BACK, FAIL, RELEASE
    FAILED = 3  # the queue, shortly PRESENT, EXPIRE, DROP


class Event(Enum):
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


@dataclass(slots=True)
class BlockMap(Generic[E]):
    """The runs of one blob in ascending order, disjoint; and who waits for which block.

    A sorted list beats a balanced tree here: inserting among 100,000 runs moves 0.8 MB at most, some 20 us.
    """

    starts: list[int] = field(default_factory=list)
    runs: list[Run[E]] = field(default_factory=list)
    waiters: dict[int, list[int]] = field(default_factory=dict)

    def index(self, block: int) -> int:
        """Where the first run that ends after ``block`` stands (the number of runs: none does)."""
        at = bisect_right(self.starts, block) - 1
        return at if at >= 0 and self.runs[at].stop > block else at + 1

    def look(self, block: int) -> tuple[Run[E] | None, int]:
        """The run that holds ``block`` and its end; or None and where the gap around ``block`` ends."""
        at = self.index(block)
        if at == len(self.runs):
            return None, sys.maxsize
        run = self.runs[at]
        return (run, run.stop) if run.start <= block else (None, run.start)

    def within(self, span: range) -> list[Run[E]]:
        """The runs that overlap ``span``, whole, in order."""
        at = end = self.index(span.start)
        while end < len(self.runs) and self.runs[end].start < span.stop:
            end += 1
        return self.runs[at:end]

    def insert(self, run: Run[E]) -> None:
        """Add a run where there is a gap."""
        at = self.index(run.start)
        self.starts.insert(at, run.start)
        self.runs.insert(at, run)

    def cut(self, block: int) -> Run[E] | None:
        """Split the run that straddles the start of ``block``; its new right part, None when there was none."""
        at = self.index(block)
        if at == len(self.runs) or self.runs[at].start >= block:
            return None
        left = self.runs[at]
        right = Run(
            left.key, block, left.stop, left.state, left.priority, left.since,
            left.attempt, left.until, 0, left.fetch, left.error,
        )  # fmt: skip
        left.stop = block
        self.starts.insert(at + 1, block)
        self.runs.insert(at + 1, right)
        return right

    def trim(self, run: Run[E]) -> None:
        """Take the first block off a run of several: what a streaming fetch does, block after block."""
        at = self.index(run.start)
        run.start += 1
        self.starts[at] = run.start

    def remove(self, run: Run[E]) -> None:
        """Take a whole run out; its blocks are ABSENT from here on."""
        at = self.index(run.start)
        del self.starts[at], self.runs[at]
        run.state = State.ABSENT
