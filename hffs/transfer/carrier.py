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
    ) -> None:
        self._transport = transport
        self._landed = landed
        self._refused = refused
        self.stopping = False  # set once; a fetch under way then ends with its next block
        self._lock = threading.Lock()
        # guarded by _lock
        self._meter = Meter()
        self._fetched = 0
        self._degraded = ""

    @property
    def fetched(self) -> int:
        """Bytes brought so far."""
        return self._fetched

    @property
    def degraded(self) -> str:
        """Why the cache takes no blocks, when it does not."""
        return self._degraded

    def speed(self) -> float:
        """Bytes per second now."""
        with self._lock:
            return self._meter.rate(time.monotonic())

    def carry(self, fetch: Fetch, target: Target, buffer: memoryview) -> bool:
        """Bring what is missing; True when others hold a part of it. Raises HffsError, what has landed stays landed."""
        with target.stored.claim(fetch.blocks) as claim:
            absent = [part for run in claim.blocks for part in target.missing(run)]
            left = {block for run in (*absent, *claim.busy) for block in run}
            self._landed(fetch, [block for block in fetch.blocks if block not in left])
            for run in absent:
                self._bring(fetch, target, claim, run, buffer)
            return bool(claim.busy)

    def _bring(self, fetch: Fetch, target: Target, claim: Claim, run: range, buffer: memoryview) -> None:
        body = self._transport.get(target.file, ranges.bytes_of(run, target.size))
        try:
            for block in run:
                if self.stopping:
                    raise Cancelled("hffs is shutting down")
                view = buffer[: ranges.block_length(block, target.size)]
                body.readinto(view)
                self._keep(fetch, target, claim, block, view)
                with self._lock:
                    self._fetched += len(view)
                    self._meter.add(len(view), time.monotonic())
                self._landed(fetch, [block])
        finally:
            body.close()

    def _keep(self, fetch: Fetch, target: Target, claim: Claim, block: int, view: memoryview) -> None:
        """On disk; when the disk will not take it, in memory, so that no reader sees a full disk."""
        try:
            target.stored.publish(claim, block, view)
            why = ""
        except (NoSpace, CacheUnusable) as error:
            # What nobody waits for must not push out what somebody does.
            target.unstored.put(target.key, block, bytes(view), spare=fetch.priority is Priority.BACKGROUND)
            why = str(error)
            if not self._degraded:
                self._refused(target, error)
        if why != self._degraded:
            with self._lock:
                self._degraded = why
