"""The order of queued runs: a heap by age for each priority, and a heap of deferred runs by due time.

Used by ``policy.queue`` only, which owns the runs. A heap entry is valid while its run names it; other entries are
stale and are dropped when they reach the top, or in a sweep once the heaps have doubled, so that nothing is searched.
Not thread-safe: the caller of the queue holds the lock.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final, Generic

from .blocks import E, Priority, Run

_SLACK: Final = 1024  # stale entries before a sweep, whose cost is spread over as many pushes


class ReadyQueue(Generic[E]):
    """Queued runs in the order in which to fetch them."""

    def __init__(self) -> None:
        # by priority: (since, start, entry, run)
        self._ready: tuple[list[tuple[int, int, int, Run[E]]], ...] = tuple([] for _ in Priority)
        self._deferred: list[tuple[float, int, Run[E]]] = []  # (until, entry, run)
        self._entries = 0
        self._sweep_at = _SLACK

    def push(self, run: Run[E]) -> None:
        """Enters a queued run with its present values, replacing its earlier entry."""
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
        """Makes deferred runs that are due ready."""
        while self._deferred and self._deferred[0][0] <= now:
            _, entry, run = heappop(self._deferred)
            if run.entry == entry:
                run.until = None
                self.push(run)

    def first(self, priority: Priority) -> Run[E] | None:
        """Returns the oldest ready run of this priority without removing it."""
        heap = self._ready[priority]
        while heap and heap[0][3].entry != heap[0][2]:
            heappop(heap)
        return heap[0][3] if heap else None

    def due(self) -> float | None:
        """Returns when the next deferred run becomes due; None if none is deferred."""
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
