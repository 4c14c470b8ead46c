"""Hashing what becomes whole: one thread at low priority, so that no reader waits for it.

``submit`` a target when its last block has landed, or when a whole one is opened that was never hashed; ``follow`` one
that is being brought here, and it is hashed in order while it grows (``submit`` it whenever more has come). A blob that
is right is marked verified in the store, and may then be read without the daemon (passthrough). One that is wrong loses
its blocks and is recorded; readers fetch it anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from ..cache import Hashing
from ..errors import HffsError, IntegrityError
from ..model import RemoteFile
from ..ranges import block_count
from .target import Target

log = logging.getLogger(__name__)
# nice(2): the verifier gets what is left over while anybody else wants the processor.
NICE = 19
# A source that is wrong for ever is fetched and found wrong again and again: status needs the last of it.
MOST_MISMATCHES = 64
# Half-hashed blobs remembered: a hydration has few big files under way at a time, and a small one hashes at once.
MOST_HASHINGS = 16


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A blob that was not what its hash says; ``at`` is wall-clock seconds."""

    at: float
    path: str
    origin: str
    expected: str
    got: str


class Verifier:
    """``hold``/``release`` keep a target open while it is hashed; ``told`` hears of each that is right (None), wrong
    (IntegrityError, its blocks are gone then) or could not be hashed."""

    def __init__(
        self,
        hold: Callable[[Target], bool],
        release: Callable[[Target], None],
        told: Callable[[Target, HffsError | None], None] = lambda _target, _error: None,
        *,
        nice: int = NICE,
    ) -> None:
        self._nice = nice
        self._hold = hold
        self._release = release
        self._told = told
        self.on_mismatch: Callable[[RemoteFile], None] = lambda _: None  # set before start
        self._queue: queue.SimpleQueue[Target | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # guarded by _lock
        self._queued: set[str] = set()
        self._followed: Counter[str] = Counter()
        self._mismatches: deque[Mismatch] = deque(maxlen=MOST_MISMATCHES)
        # The thread's own: how far followed targets have been hashed.
        self._hashings: dict[str, Hashing] = {}
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

    def submit(self, target: Target) -> None:
        """Have it hashed if it is whole and was not; returns at once. Never raises."""
        if target.file.blob.digest is None:
            return
        with self._lock:
            if self._stopping or target.key in self._queued or not self._hold(target):
                return
            self._queued.add(target.key)
            self._queue.put(target)  # before the sign to end, behind which nobody looks

    def follow(self, target: Target) -> None:
        """From now on it is hashed as far as it is here, though it is not whole; ends with ``unfollow``."""
        with self._lock:
            self._followed[target.key] += 1

    def unfollow(self, target: Target) -> None:
        with self._lock:
            self._followed[target.key] -= 1
            if not self._followed[target.key]:
                del self._followed[target.key]

    def follows(self, target: Target) -> bool:
        return target.key in self._followed

    def mismatches(self) -> list[Mismatch]:
        with self._lock:
            return list(self._mismatches)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)  # Linux: of this thread alone
        while True:
            target = self._queue.get()
            if target is None:
                return
            with self._lock:  # not after: what becomes whole again meanwhile must be hashed again
                self._queued.discard(target.key)
            try:
                try:
                    if not self._stopping:
                        self._verify(target)
                finally:
                    self._release(target)
            except HffsError as error:
                log.warning("event=verify-failed path=%s error=%s", target.file.path, error)
                self._told(target, error)
            except Exception as error:  # a bug of ours; without this thread every whole file would stay open
                log.error("event=verify-bug path=%s", target.file.path, exc_info=error)
                self._told(target, HffsError(f"verifying {target.file.path} failed unexpectedly: {error!r}"))

    def _verify(self, target: Target) -> None:
        hashing = self._hashings.pop(target.key, None)
        digest = target.file.blob.digest
        if digest is None or (not target.stored.complete and not self.follows(target)):
            return
        try:
            right = target.stored.verified
            if not right:
                if hashing is None or hashing.stored is not target.stored:
                    hashing = Hashing(target.stored, digest)
                whole = hashing.advance(lambda: self._stopping)
                right = whole and hashing.conclude(time.time())
                if whole and not right:  # what was hashed is no longer there
                    self.submit(target)
        except IntegrityError as error:
            self._wrong(target, error)
            self._told(target, error)
            return
        if right:
            log.debug("event=verified path=%s", target.file.path)
            self._told(target, None)
        elif hashing is not None and self.follows(target):
            # What is forgotten of others is hashed anew when it is whole.
            left = [key for key in self._hashings if key in self._followed][-MOST_HASHINGS + 1 :]
            self._hashings = {**{key: self._hashings[key] for key in left}, target.key: hashing}

    def _wrong(self, target: Target, error: IntegrityError) -> None:
        log.error("event=mismatch path=%s expected=%s got=%s", target.file.path, error.expected, error.got)
        blob = target.file.blob
        with self._lock:
            self._mismatches.append(Mismatch(time.time(), target.file.path, blob.origin, error.expected, error.got))
        try:
            target.stored.discard(range(block_count(blob.size)))
        finally:  # the kernel's pages are wrong either way
            self.on_mismatch(target.file)
