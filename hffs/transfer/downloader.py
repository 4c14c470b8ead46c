"""Carries out fetches: leases their blocks, requests them from the source, stores them as they stream in.

The fetcher's workers call ``run`` with what the scheduler decided, each with a buffer of its own and without any lock.
It orders nothing, retries nothing and calls no waiter back: it reports landed blocks to ``on_landed``, and errors rise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing

from .. import ranges
from ..cache import BlockLease, CacheBudget
from ..errors import Cancelled, HffsError
from ..policy import DiskBreaker, Fetch, Priority
from ..sources.base import Body, RangeReader
from .blob_handle import BlobHandle
from .block_sink import BlockSink, WriteReservation
from .throttle import Throttle
from .throughput import Throughput

# A worker's buffer. Of 2, 4 and 8 blocks 4 cost least CPU (2026-11, 2 cores): more do not stay in a core's cache.
GATHER_BYTES = 4 * ranges.BLOCK_SIZE
# How long a block that has come waits at most for the next ones, so that they are stored together. On a fast line that
# saves three of four rounds through the store; on one of 50 MiB/s or less each block is stored as it comes (with 10 ms
# a read over 40 MB/s a connection was 3 % slower, and loopback no faster).
GATHER_SECONDS = 0.005


class Downloader:
    """``on_landed`` gets blocks that can be read, ``on_store_error`` the first error of a row."""

    def __init__(
        self,
        source: RangeReader,
        *,
        on_landed: Callable[[Fetch, Iterable[int]], None],
        on_store_error: Callable[[BlobHandle, HffsError], None],
        is_awaited: Callable[[Fetch], bool] = lambda _: True,
        throttle: Throttle | None = None,
        budget: CacheBudget | None = None,
        breaker: DiskBreaker | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``is_awaited`` returns whether a reader waits for a fetch: its bytes pass ``throttle`` first, and are fetched
        also when ``budget`` has no space for them."""
        self.sink = BlockSink(budget, on_store_error, breaker=breaker, now=now)
        self._source = source
        self._is_awaited = is_awaited
        self._throttle = throttle or Throttle()
        self._on_landed = on_landed
        self._now = now
        self.stopping = False  # set once; a running fetch then ends with its next block
        self._lock = threading.Lock()
        # guarded by _lock
        self._throughput = Throughput()
        self._throughputs: dict[int, Throughput] = {}  # of the running fetches, by their id
        self._bodies: dict[int, Body] = {}
        self._fetched = [0] * len(Priority)

    @property
    def fetched(self) -> int:
        """Bytes fetched so far."""
        return sum(self._fetched)

    def fetched_at(self, priority: Priority) -> int:
        """Bytes fetched so far by fetches that began at this priority."""
        return self._fetched[priority]

    def speed(self) -> float:
        """Bytes per second now."""
        with self._lock:
            return self._throughput.rate(self._now())

    def speed_of(self, fetch: Fetch) -> float:
        """Bytes per second now of a running fetch; 0 of one that has ended."""
        with self._lock:
            throughput = self._throughputs.get(fetch.id)
            return throughput.rate(self._now()) if throughput else 0.0

    def abort(self, fetch: Fetch) -> None:
        """Has a running fetch fail as if its connection had broken. Any thread."""
        with self._lock:
            body = self._bodies.get(fetch.id)
        if body is not None:
            body.abort()

    def run(self, fetch: Fetch, handle: BlobHandle, buffer: memoryview) -> bool:
        """Fetches what is missing; True when other processes lease a part. Raises HffsError; landed blocks stay."""
        with handle.stored.lease(fetch.blocks) as lease:
            absent = [part for run in lease.blocks for part in handle.missing(run)]
            left = {block for run in (*absent, *lease.busy) for block in run}
            self._on_landed(fetch, [block for block in fetch.blocks if block not in left])
            try:
                for run in absent:
                    size = ranges.bytes_of(run, handle.size).length
                    with self.sink.reserve(handle, size) as reservation:
                        if not self._is_useful(fetch, reservation):
                            break
                        self._get(fetch, handle, lease, run, buffer, reservation)
            finally:
                with self._lock:
                    self._throughputs.pop(fetch.id, None)
                    self._bodies.pop(fetch.id, None)
            return bool(lease.busy)

    def _is_useful(self, fetch: Fetch, reservation: WriteReservation) -> bool:
        """Whether to fetch what cannot be stored now: only for a read from memory, that waits or is ahead of a reader.

        Of what is left out, blocks that a reader begins to wait for at this very moment are queued again."""
        return reservation.error is None or fetch.priority < Priority.BACKGROUND or self._is_awaited(fetch)

    def _get(
        self,
        fetch: Fetch,
        handle: BlobHandle,
        lease: BlockLease,
        run: range,
        buffer: memoryview,
        reservation: WriteReservation,
    ) -> None:
        """One GET. Demanded blocks are stored as they come. Others gather in the buffer until it is full,
        GATHER_SECONDS have passed or the run ends; but not where each block waits for its share of the bandwidth."""
        singly = fetch.priority is Priority.DEMAND or self._throttle.rate is not None
        capacity = ranges.BLOCK_SIZE if singly else len(buffer)
        with closing(self._source.open_range(handle.file, ranges.bytes_of(run, handle.size))) as body:
            self._bodies[fetch.id] = body
            first, filled, since = run.start, 0, self._now()
            try:
                for block in run:
                    length = ranges.block_length(block, handle.size)
                    self._throttle.wait(length, lambda: self._is_awaited(fetch), lambda: self.stopping)
                    if self.stopping:
                        raise Cancelled("hffs is shutting down")
                    body.readinto(buffer[filled : filled + length])
                    filled += length
                    now = self._now()
                    if filled >= capacity or now - since >= GATHER_SECONDS:
                        whole, filled = filled, 0
                        self._store(fetch, lease, first, buffer[:whole], reservation)
                        first, since = block + 1, now
                        if not self._is_useful(fetch, reservation):
                            return
            finally:  # also when the answer broke off: whole blocks that have come are not requested again
                if filled:
                    self._store(fetch, lease, first, buffer[:filled], reservation)

    def _store(
        self, fetch: Fetch, lease: BlockLease, first: int, data: memoryview, reservation: WriteReservation
    ) -> None:
        reservation.write(lease, first, data, expendable=fetch.priority >= Priority.BACKGROUND)
        now = self._now()
        with self._lock:
            self._fetched[fetch.priority] += len(data)
            self._throughput.add(len(data), now)
            self._throughputs.setdefault(fetch.id, Throughput(now)).add(len(data), now)
        self._on_landed(fetch, range(first, first + ranges.block_count(len(data))))
