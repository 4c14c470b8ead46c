"""Hashing what comes: one thread at low priority, so that no reader waits for it.

``grown`` tells that blocks of a handle have come: it is hashed in order as far as it is here, also what is evicted
before the rest comes; a little later, where fetching leaves no processor to spare. ``submit`` a handle to have it
hashed whatever has come, as when a whole one is opened that was never hashed. A blob that is right is marked verified
in the store, and may then be read without the daemon (passthrough). What becomes of one that is wrong is
``quarantine``'s business.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from ..cache import IncrementalHash
from ..errors import HffsError, IntegrityError
from ..ranges import block_count
from .blob_handle import BlobHandle
from .cpu_headroom import CpuHeadroom
from .quarantine import Quarantine

log = logging.getLogger(__name__)
# nice(2): the hash_worker gets what is left over while anybody else wants the processor.
HASH_NICE = 19
# When to look again whether there is processor to spare: a cold read on a fast line takes seconds.
AGAIN_SECONDS = 0.25
# What has not grown for so long is hashed, busy as the machine may be: its reader has gone, or has paused.
GROWING_SECONDS = 1.0
# Half-hashed blobs remembered, also those that nobody has open at the moment: a loader goes through the shards of a
# model one after another, and comes back to them. A byte for each block: 40 KB for a file of 10 GB.
MOST_HASHINGS = 64
# Blobs larger than the cache that passed through it and were right: a name each.
MOST_PASSED = 4096


class HashWorker:
    """``hold``/``release`` keep a handle open while it is hashed; ``told`` hears of each that is right (None), wrong
    (IntegrityError, its blocks are gone then) or could not be hashed."""

    def __init__(
        self,
        hold: Callable[[BlobHandle], bool],
        release: Callable[[BlobHandle], None],
        quarantine: Quarantine,
        told: Callable[[BlobHandle, HffsError | None], None] = lambda _target, _error: None,
        *,
        nice: int = HASH_NICE,
        spare: CpuHeadroom | None = None,
    ) -> None:
        self._nice = nice
        # Where nobody reads (``nice`` 0), what comes need not wait: the sooner all of it is hashed the better.
        self._spare = spare or (CpuHeadroom() if nice else None)
        self._hold = hold
        self._release = release
        self._quarantine = quarantine
        self._told = told
        self._queue: queue.SimpleQueue[BlobHandle | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # guarded by _lock
        self._queued: set[str] = set()
        self._hashings: OrderedDict[str, IncrementalHash] = OrderedDict()  # by handle, least recently used first
        self._grew: dict[str, float] = {}  # of these: when blocks came last, monotonic seconds
        self._passed: OrderedDict[str, None] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="hffs-verify", daemon=True)
        self._stopping = False

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience: float = 15.0) -> None:
        """What is being hashed is left as it is, and hashed when it is next opened."""
        with self._lock:
            self._stopping = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(patience)

    def grown(self, handle: BlobHandle) -> None:
        """More of it has come: hash on, if the next bytes are among that. Returns at once. Raises CacheUnusable."""
        if handle.file.blob.digest is None or handle.refused is not None:
            return
        following, count = self._hashing(handle).next_block, block_count(handle.size)
        # Not whether it came just now: the thread may have looked a moment too early.
        if following == count or not handle.missing(range(following, following + 1)):
            self._grew[handle.key] = time.monotonic()
            self.submit(handle)

    def submit(self, handle: BlobHandle) -> None:
        """Have it hashed as far as it is here and was not; returns at once. Never raises."""
        if handle.file.blob.digest is None or handle.refused is not None:
            return
        with self._lock:
            if self._stopping or handle.key in self._queued or not self._hold(handle):
                return
            self._queued.add(handle.key)
            self._queue.put(handle)  # before the sign to end, behind which nobody looks

    def stream_verified(self, key: str) -> bool:
        """Whether all of a blob was hashed and right in this process, though not all of it was here at once."""
        return key in self._passed

    def _hashing(self, handle: BlobHandle) -> IncrementalHash:
        """How far a handle has been hashed; begun where it was not. Raises CacheUnusable."""
        digest = handle.file.blob.digest
        assert digest is not None
        with self._lock:
            hashing = self._hashings.get(handle.key)
            if hashing is not None:
                self._hashings.move_to_end(handle.key)
        if hashing is None:
            made = IncrementalHash(handle.stored, digest)
            memory, key = handle.memory, handle.key
            made.memory_block = lambda block: memory.get(key, block)
            with self._lock:
                hashing = self._hashings.setdefault(handle.key, made)
                if len(self._hashings) > MOST_HASHINGS:
                    self._grew.pop(self._hashings.popitem(last=False)[0], None)
            hashing.subscribe()  # of several that were made at once, this one
        if hashing.stored is not handle.stored:
            with hashing.acquire() as mine:
                if mine:
                    hashing.rebind(handle.stored)
        return hashing

    def _forget(self, handle: BlobHandle) -> None:
        with self._lock:
            self._hashings.pop(handle.key, None)
            self._grew.pop(handle.key, None)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)  # Linux: of this thread alone
        waiting: list[BlobHandle] = []  # for the processor
        while True:
            try:
                handle = self._queue.get(timeout=AGAIN_SECONDS if waiting else None)
            except queue.Empty:
                for each in waiting:
                    self._queue.put(each)
                waiting.clear()
                continue
            if handle is None:
                for each in waiting:
                    self._release(each)
                return
            with self._lock:  # not after: what becomes whole again meanwhile must be hashed again
                self._queued.discard(handle.key)
            later = False
            try:
                try:
                    later = not self._stopping and self._verify(handle) and self._is_first(handle)
                finally:
                    if later:
                        waiting.append(handle)
                    else:
                        self._release(handle)
            except HffsError as error:
                log.warning("event=verify-failed path=%s error=%s", handle.file.path, error)
                self._told(handle, error)
            except Exception as error:  # a bug of ours; without this thread every whole file would stay open
                log.error("event=verify-bug path=%s", handle.file.path, exc_info=error)
                self._told(handle, HffsError(f"verifying {handle.file.path} failed unexpectedly: {error!r}"))

    def _is_first(self, handle: BlobHandle) -> bool:
        """To be looked at again later, and nobody has asked for that meanwhile."""
        with self._lock:
            first = handle.key not in self._queued
            self._queued.add(handle.key)
        return first

    def _waits(self, handle: BlobHandle) -> bool:
        """Whether to leave it at what is hashed, for now: it still grows, and the processor is busy."""
        if self._spare is None or not self._spare.is_short() or handle.stored.complete:
            return False
        return time.monotonic() - self._grew.get(handle.key, 0.0) < GROWING_SECONDS

    def _verify(self, handle: BlobHandle) -> bool:
        """Hash what is there; True: leave the rest for later, though it is here."""
        if handle.refused is not None:
            return False
        if handle.stored.verified:
            self._forget(handle)
            self._told(handle, None)
            return False
        hashing = self._hashing(handle)
        try:
            with hashing.acquire() as mine:
                if mine and not hashing.advance(lambda: self._stopping or self._waits(handle)):
                    return self._waits(handle)
                outcome = hashing.finish(time.time()) if mine else "again"
        except IntegrityError as error:
            self._forget(handle)
            self._quarantine.found_wrong(handle, error, hashing.started_at)
            self._told(handle, error)
            return False
        if outcome == "again":  # what was hashed is no longer there
            self.submit(handle)
            return False
        if outcome == "passed":
            log.info("event=passed path=%s etag=%s", handle.file.path, handle.file.blob.etag)
            with self._lock:
                self._passed[handle.key] = None
                if len(self._passed) > MOST_PASSED:
                    self._passed.popitem(last=False)
        else:
            log.debug("event=verified path=%s", handle.file.path)
            self._forget(handle)
        self._quarantine.right(handle)
        self._told(handle, None)
        return False
