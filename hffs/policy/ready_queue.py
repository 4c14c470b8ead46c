"""Which queued run is next: heaps by priority and age, and one of the deferred by due time.

Called by ``policy.queue`` only, which owns the runs. A heap entry is valid while it is the one its run names; all other
entries are stale, and go when they come up or when the heaps have doubled, so that nothing is ever searched for.
Never looks at neighbours or waiters. Not thread-safe: the queue's caller holds the lock.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final, Generic

from .blocks import E, Priority, Run

_SLACK: Final = 1024  # stale entries tolerated before a sweep, which is then paid for by as many pushes


class ReadyQueue(Generic[E]):
    """Queued runs in the order they are to be worked on."""

    def __init__(self) -> None:
        # by priority: (since, start, entry, run)
        self._ready: tuple[list[tuple[int, int, int, Run[E]]], ...] = tuple([] for _ in Priority)
        self._deferred: list[tuple[float, int, Run[E]]] = []  # (until, entry, run)
        self._entries = 0
        self._sweep_at = _SLACK

    def push(self, run: Run[E]) -> None:
        """Enter a queued run as it is now, in place of its earlier entry."""
        self._entries += 1
        run.entry = self._entries
        if run.until is None:
            heappush(self._ready[run.priority], (run.since, run.start, run.entry, run))
        else:
            heappush(self._deferred, (run.until, run.entry, run))
        if self._entries >= self._sweep_at:
            self._sweep()

    @staticmethod
    def remove(run: Run[E]) -> None:
        run.entry = 0

    def promote(self, now: float) -> None:
        """Deferred runs that are due become ready."""
        while self._deferred and self._deferred[0][0] <= now:
            _, entry, run = heappop(self._deferred)
            if run.entry == entry:
                run.until = None
                self.push(run)

    def first(self, priority: Priority) -> Run[E] | None:
        """The oldest ready run of this priority; it stays."""
        heap = self._ready[priority]
        while heap and heap[0][3].entry != heap[0][2]:
            heappop(heap)
        return heap[0][3] if heap else None

    def due(self) -> float | None:
        """When the next deferred run becomes due, None: none is deferred."""
        while self._deferred and self._deferred[0][2].entry != self._deferred[0][1]:
            heappop(self._deferred)
        return self._deferred[0][0] if self._deferred else None

    def _sweep(self) -> None:
        for heap in self._ready:
            heap[:] = [entry for entry in heap if entry[3].entry == entry[2]]
            heapify(heap)
        self._deferred[:] = [entry for entry in self._deferred if entry[2].entry == entry[1]]
        heapify(self._deferred)
        self._sweep_at = self._entries + _SLACK + sum(map(len, self._ready)) + len(self._deferred)
