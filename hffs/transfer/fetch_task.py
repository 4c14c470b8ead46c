"""One fetch carried out: its blocks claimed, asked of the source, stored and announced as they stream in.

The fetcher's workers call ``carry`` with what the queue decided, each with a buffer of its own and without any lock.
It orders nothing, retries nothing and tells no waiter: what has landed it says to ``landed``, errors go up.
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
# How long a block that has come waits at most for the next ones to begin, so that they are stored together. On a fast
# line that saves three of four rounds through the store; on one of 50 MiB/s or less each block is stored as it comes
# (with 10 ms a read over 40 MB/s a connection was 3 % slower, and loopback no faster).
GATHER_SECONDS = 0.005


class FetchTask:
    """``landed`` is told of blocks that can be read, ``refused`` of the first that the disk would not take."""

    def __init__(
        self,
        source: RangeReader,
        *,
        landed: Callable[[Fetch, Iterable[int]], None],
        refused: Callable[[BlobHandle, HffsError], None],
        awaited: Callable[[Fetch], bool] = lambda _: True,
        throttle: Throttle | None = None,
        budget: CacheBudget | None = None,
        breaker: DiskBreaker | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``awaited`` tells whether a reader waits for a fetch: those bytes go first where ``throttle`` holds back, and
        come also when there is no ``budget`` to store them."""
        self.shelf = BlockSink(budget, refused, breaker=breaker, now=now)
        self._source = source
        self._awaited = awaited
        self._throttle = throttle or Throttle()
        self._landed = landed
        self._now = now
        self.stopping = False  # set once; a fetch under way then ends with its next block
        self._lock = threading.Lock()
        # guarded by _lock
        self._meter = Throughput()
        self._meters: dict[int, Throughput] = {}  # of the fetches under way, by their id
        self._bodies: dict[int, Body] = {}
        self._fetched = [0] * len(Priority)

    @property
    def fetched(self) -> int:
        """Bytes brought so far."""
        return sum(self._fetched)

    def fetched_at(self, priority: Priority) -> int:
        """Bytes brought so far by fetches that began at this priority."""
        return self._fetched[priority]

    @property
    def refusal(self) -> HffsError | None:
        """Why the cache takes no blocks, when it does not."""
        return self.shelf.refusal

    def speed(self) -> float:
        """Bytes per second now."""
        with self._lock:
            return self._meter.rate(self._now())

    def speed_of(self, fetch: Fetch) -> float:
        """Bytes per second now of a fetch under way; 0 of one that has ended."""
        with self._lock:
            meter = self._meters.get(fetch.id)
            return meter.rate(self._now()) if meter else 0.0

    def abort(self, fetch: Fetch) -> None:
        """The answer that a fetch reads now is given up: it fails as if its connection had broken. Any thread."""
        with self._lock:
            body = self._bodies.get(fetch.id)
        if body is not None:
            body.abort()

    def carry(self, fetch: Fetch, handle: BlobHandle, buffer: memoryview) -> bool:
        """Bring what is missing; True when others hold a part of it. Raises HffsError, what has landed stays landed."""
        with handle.stored.lease(fetch.blocks) as claim:
            absent = [part for run in claim.blocks for part in handle.missing(run)]
            left = {block for run in (*absent, *claim.busy) for block in run}
            self._landed(fetch, [block for block in fetch.blocks if block not in left])
            try:
                for run in absent:
                    with self.shelf.open(handle, ranges.bytes_of(run, handle.size).length) as space:
                        if not self._is_worth(fetch, space):
                            break
                        self._bring(fetch, handle, claim, run, buffer, space)
            finally:
                with self._lock:
                    self._meters.pop(fetch.id, None)
                    self._bodies.pop(fetch.id, None)
            return bool(claim.busy)

    def _is_worth(self, fetch: Fetch, space: WriteReservation) -> bool:
        """Whether to bring what could not be stored now: for a reader who waits, or comes soon, as memory has it then.

        Of what is left out, blocks that a reader begins to wait for at this very moment are queued again."""
        return space.full is None or fetch.priority < Priority.BACKGROUND or self._awaited(fetch)

    def _bring(
        self,
        fetch: Fetch,
        handle: BlobHandle,
        claim: BlockLease,
        run: range,
        buffer: memoryview,
        space: WriteReservation,
    ) -> None:
        """Blocks that somebody waits for are kept as they come. Others gather in the buffer until it is full, they took
        GATHER_SECONDS, or it ends."""
        # Nor does anything gather where each block waits for its share of the bandwidth.
        singly = fetch.priority is Priority.DEMAND or self._throttle.rate is not None
        room = ranges.BLOCK_SIZE if singly else len(buffer)
        with closing(self._source.open_range(handle.file, ranges.bytes_of(run, handle.size))) as body:
            self._bodies[fetch.id] = body
            first, filled, since = run.start, 0, self._now()
            try:
                for block in run:
                    length = ranges.block_length(block, handle.size)
                    self._throttle.wait(length, lambda: self._awaited(fetch), lambda: self.stopping)
                    if self.stopping:
                        raise Cancelled("hffs is shutting down")
                    body.readinto(buffer[filled : filled + length])
                    filled += length
                    now = self._now()
                    if filled >= room or now - since >= GATHER_SECONDS:
                        whole, filled = filled, 0
                        self._keep(fetch, claim, first, buffer[:whole], space)
                        first, since = block + 1, now
                        if not self._is_worth(fetch, space):
                            return
            finally:  # also when the answer broke off: what has come whole is not asked for again
                if filled:
                    self._keep(fetch, claim, first, buffer[:filled], space)

    def _keep(self, fetch: Fetch, claim: BlockLease, first: int, data: memoryview, space: WriteReservation) -> None:
        space.keep(claim, first, data, spare=fetch.priority >= Priority.BACKGROUND)
        now = self._now()
        with self._lock:
            self._fetched[fetch.priority] += len(data)
            self._meter.add(len(data), now)
            self._meters.setdefault(fetch.id, Throughput(now)).add(len(data), now)
        self._landed(fetch, range(first, first + ranges.block_count(len(data))))
