"""Hashes blobs as they arrive: one thread at low priority, so that no reader waits for it.

The fetcher reports with ``grown`` that blocks of a handle have landed. The local prefix of the blob is then hashed,
blocks about to be evicted included; if fetching leaves no processor to spare, this waits a little. ``submit`` has a
handle hashed without new blocks, as for a complete blob that was never hashed. A blob whose hash matches is marked
verified in the store, and may then be read without the daemon (passthrough). ``Quarantine`` handles one whose hash does
not match.
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
# nice(2): the hash worker gets only processor time that no other thread wants.
HASH_NICE = 19
# When to look again whether there is processor to spare: a cold read on a fast line takes seconds.
AGAIN_SECONDS = 0.25
# What has not grown for so long is hashed, busy as the machine may be: it is not read any more, or reading has paused.
GROWING_SECONDS = 1.0
# Half-hashed blobs remembered, also those that are not open at the moment: a loader reads the shards of a model one
# after another, and comes back to them. A byte for each block: 40 KB for a file of 10 GB.
MOST_HASHINGS = 64
# Blobs larger than the cache that were right as they streamed through it: a name each.
MOST_STREAMED = 4096


class HashWorker:
    """``hold`` and ``release`` keep a handle open while it is hashed; ``report`` gets each handle that is right (None),
    wrong (IntegrityError; its blocks are dropped by then) or could not be hashed."""

    def __init__(
        self,
        hold: Callable[[BlobHandle], bool],
        release: Callable[[BlobHandle], None],
        quarantine: Quarantine,
        report: Callable[[BlobHandle, HffsError | None], None],
        *,
        nice: int = HASH_NICE,
    ) -> None:
        self._nice = nice
        # Without readers (``nice`` 0) hashing need not wait: the sooner all of it is hashed the better.
        self._headroom = CpuHeadroom() if nice else None
        self._hold = hold
        self._release = release
        self._quarantine = quarantine
        self._report = report
        self._queue: queue.SimpleQueue[BlobHandle | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # guarded by _lock
        self._queued: set[str] = set()
        self._hashings: OrderedDict[str, IncrementalHash] = OrderedDict()  # by handle, least recently used first
        self._grew: dict[str, float] = {}  # of these: when blocks came last, monotonic seconds
        self._streamed: OrderedDict[str, None] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="hffs-verify", daemon=True)
        self._stopping = False

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience: float = 15.0) -> None:
        """A blob that is half hashed is hashed when it is opened next."""
        with self._lock:
            self._stopping = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(patience)

    def grown(self, handle: BlobHandle) -> None:
        """Blocks of it have come: hashes on, if the next block is among them. Returns at once. Raises CacheUnusable."""
        if handle.file.blob.digest is None or handle.refusal is not None:
            return
        following, count = self._hashing(handle).next_block, block_count(handle.size)
        # Whether it is local, not whether it came just now: the thread may have looked a moment too early.
        if following == count or not handle.missing(range(following, following + 1)):
            self._grew[handle.key] = time.monotonic()
            self.submit(handle)

    def submit(self, handle: BlobHandle) -> None:
        """Has it hashed as far as it is local and was not. Returns at once, never raises."""
        if handle.file.blob.digest is None or handle.refusal is not None:
            return
        with self._lock:
            if self._stopping or handle.key in self._queued or not self._hold(handle):
                return
            self._queued.add(handle.key)
            self._queue.put(handle)  # under the lock: what is put behind the sign to end is never taken

    def stream_verified(self, key: str) -> bool:
        """Whether all of a blob was hashed in this process and was right, though it was not all local at once."""
        return key in self._streamed

    def _hashing(self, handle: BlobHandle) -> IncrementalHash:
        """The hash of a handle so far, begun where there was none. Raises CacheUnusable."""
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
            with hashing.acquire() as acquired:
                if acquired:
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
            with self._lock:  # before it is hashed: a blob that becomes whole again meanwhile is hashed again
                self._queued.discard(handle.key)
            later = False
            try:
                try:
                    later = not self._stopping and self._hash(handle) and self._requeue(handle)
                finally:
                    if later:
                        waiting.append(handle)
                    else:
                        self._release(handle)
            except HffsError as error:
                log.warning("event=verify-failed path=%s error=%s", handle.file.path, error)
                self._report(handle, error)
            except Exception as error:  # a bug of ours; without this thread every whole file would stay open
                log.error("event=verify-bug path=%s", handle.file.path, exc_info=error)
                self._report(handle, HffsError(f"verifying {handle.file.path} failed unexpectedly: {error!r}"))

    def _requeue(self, handle: BlobHandle) -> bool:
        """Marks a handle as queued again; False when it has been submitted meanwhile."""
        with self._lock:
            first = handle.key not in self._queued
            self._queued.add(handle.key)
        return first

    def _must_wait(self, handle: BlobHandle) -> bool:
        """Whether hashing it waits: the blob still grows, and the processor is busy."""
        if self._headroom is None or not self._headroom.is_short() or handle.stored.complete:
            return False
        return time.monotonic() - self._grew.get(handle.key, 0.0) < GROWING_SECONDS

    def _hash(self, handle: BlobHandle) -> bool:
        """Hashes what is local; True when some of that is left for later."""
        if handle.refusal is not None:
            return False
        if handle.stored.verified:
            self._forget(handle)
            self._report(handle, None)
            return False
        hashing = self._hashing(handle)
        try:
            with hashing.acquire() as acquired:
                if acquired and not hashing.advance(lambda: self._stopping or self._must_wait(handle)):
                    return self._must_wait(handle)
                outcome = hashing.finish(time.time()) if acquired else "again"
        except IntegrityError as error:
            self._forget(handle)
            self._quarantine.found_wrong(handle, error, hashing.started_at)
            self._report(handle, error)
            return False
        if outcome == "again":  # what was hashed is no longer what is local
            self.submit(handle)
            return False
        if outcome == "passed":
            log.info("event=passed path=%s etag=%s", handle.file.path, handle.file.blob.etag)
            with self._lock:
                self._streamed[handle.key] = None
                if len(self._streamed) > MOST_STREAMED:
                    self._streamed.popitem(last=False)
        else:
            log.debug("event=verified path=%s", handle.file.path)
            self._forget(handle)
        self._quarantine.found_right(handle)
        self._report(handle, None)
        return False
