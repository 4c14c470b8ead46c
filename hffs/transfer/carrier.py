"""One fetch carried out: its blocks claimed, asked of the source, stored and announced one by one as they stream in.

The fetcher's workers call ``carry`` with what the queue decided, each with a buffer of its own and without any lock.
It orders nothing, retries nothing and tells no waiter: what has landed it says to ``landed``, errors go up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from .. import ranges
from ..cache import Claim
from ..errors import CacheUnusable, Cancelled, HffsError, NoSpace
from ..model import RemoteFile
from ..policy import Fetch, Priority
from .meter import Meter
from .target import Target
from .throttle import Throttle


class Body(Protocol):
    """What a transport answers with: exactly the bytes that were asked for, or an error on the way."""

    def readinto(self, view: memoryview) -> int: ...

    def close(self) -> None: ...


class Transport(Protocol):
    def get(self, file: RemoteFile, wanted: ranges.ByteRange) -> Body: ...


class Carrier:
    """``landed`` is told of blocks that can be read, ``refused`` of the first that the disk would not take."""

    def __init__(
        self,
        transport: Transport,
        *,
        landed: Callable[[Fetch, Iterable[int]], None],
        refused: Callable[[Target, HffsError], None],
        awaited: Callable[[Fetch], bool] = lambda _: True,
        throttle: Throttle | None = None,
    ) -> None:
        """``awaited`` tells whether a reader waits for a fetch: those bytes go first where ``throttle`` holds back."""
        self._transport = transport
        self._awaited = awaited
        self._throttle = throttle or Throttle()
        self._landed = landed
        self._refused = refused
        self.stopping = False  # set once; a fetch under way then ends with its next block
        self._lock = threading.Lock()
        # guarded by _lock
        self._meter = Meter()
        self._meters: dict[int, Meter] = {}  # of the fetches under way, by their id
        self._fetched = [0] * len(Priority)
        self._refusal: HffsError | None = None

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
        return self._refusal

    def speed(self) -> float:
        """Bytes per second now."""
        with self._lock:
            return self._meter.rate(time.monotonic())

    def speed_of(self, fetch: Fetch) -> float:
        """Bytes per second now of a fetch under way; 0 of one that has ended."""
        with self._lock:
            meter = self._meters.get(fetch.id)
            return meter.rate(time.monotonic()) if meter else 0.0

    def carry(self, fetch: Fetch, target: Target, buffer: memoryview) -> bool:
        """Bring what is missing; True when others hold a part of it. Raises HffsError, what has landed stays landed."""
        with target.stored.claim(fetch.blocks) as claim:
            absent = [part for run in claim.blocks for part in target.missing(run)]
            left = {block for run in (*absent, *claim.busy) for block in run}
            self._landed(fetch, [block for block in fetch.blocks if block not in left])
            try:
                for run in absent:
                    self._bring(fetch, target, claim, run, buffer)
            finally:
                with self._lock:
                    self._meters.pop(fetch.id, None)
            return bool(claim.busy)

    def _bring(self, fetch: Fetch, target: Target, claim: Claim, run: range, buffer: memoryview) -> None:
        body = self._transport.get(target.file, ranges.bytes_of(run, target.size))
        try:
            for block in run:
                if self.stopping:
                    raise Cancelled("hffs is shutting down")
                view = buffer[: ranges.block_length(block, target.size)]
                self._throttle.wait(len(view), lambda: self._awaited(fetch), lambda: self.stopping)
                body.readinto(view)
                self._keep(fetch, target, claim, block, view)
                self._count(fetch, len(view))
                self._landed(fetch, [block])
        finally:
            body.close()

    def _count(self, fetch: Fetch, count: int) -> None:
        now = time.monotonic()
        with self._lock:
            self._fetched[fetch.priority] += count
            self._meter.add(count, now)
            self._meters.setdefault(fetch.id, Meter(now)).add(count, now)

    def _keep(self, fetch: Fetch, target: Target, claim: Claim, block: int, view: memoryview) -> None:
        """On disk; when the disk will not take it, in memory, so that no reader sees a full disk."""
        refusal: HffsError | None = None
        try:
            target.stored.publish(claim, block, view)
        except (NoSpace, CacheUnusable) as error:
            # What nobody waits for must not push out what somebody does.
            target.unstored.put(target.key, block, bytes(view), spare=fetch.priority >= Priority.BACKGROUND)
            refusal = error
            if self._refusal is None:
                self._refused(target, error)
        if refusal is not self._refusal:
            with self._lock:
                self._refusal = refusal
