"""Hashing what has become whole: one thread at low priority, so that no reader waits for it.

``submit`` a target when its last block has landed, or when a whole one is opened that was never hashed. A blob that is
right is marked verified in the store, and may then be read without the daemon (passthrough). One that is wrong loses
its blocks and is recorded; readers fetch it anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import HffsError, IntegrityError
from ..model import RemoteFile
from ..ranges import block_count
from .target import Target

log = logging.getLogger(__name__)
# nice(2): the verifier gets what is left over while anybody else wants the processor.
NICE = 19
# A source that is wrong for ever is fetched and found wrong again and again: status needs the last of it.
MOST_MISMATCHES = 64


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A blob that was not what its hash says; ``at`` is wall-clock seconds."""

    at: float
    path: str
    origin: str
    expected: str
    got: str


class Verifier:
    """``hold``/``release`` keep a target open while it is hashed; ``verified`` is told of each that is right."""

    def __init__(self, hold: Callable[[Target], bool], release: Callable[[Target], None]) -> None:
        self._hold = hold
        self._release = release
        self.on_mismatch: Callable[[RemoteFile], None] = lambda _: None  # set before start
        self._queue: queue.SimpleQueue[Target | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # guarded by _lock
        self._queued: set[str] = set()
        self._mismatches: deque[Mismatch] = deque(maxlen=MOST_MISMATCHES)
        self._thread = threading.Thread(target=self._run, name="hffs-verify", daemon=True)
        self._stopping = False

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience: float = 15.0) -> None:
        """What is being hashed is left as it is, and hashed when it is next opened."""
        self._stopping = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(patience)

    def submit(self, target: Target) -> None:
        """Have it hashed if it is whole and was not; returns at once. Never raises."""
        if target.file.blob.digest is None:
            return
        with self._lock:
            if target.key in self._queued or not self._hold(target):
                return
            self._queued.add(target.key)
        self._queue.put(target)

    def mismatches(self) -> list[Mismatch]:
        with self._lock:
            return list(self._mismatches)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # Linux: of this thread alone
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
            except Exception as error:  # a bug of ours; without this thread every whole file would stay open
                log.error("event=verify-bug path=%s", target.file.path, exc_info=error)

    def _verify(self, target: Target) -> None:
        try:
            if target.stored.verify(time.time(), lambda: self._stopping):
                log.debug("event=verified path=%s", target.file.path)
        except IntegrityError as error:
            log.error("event=mismatch path=%s expected=%s got=%s", target.file.path, error.expected, error.got)
            blob = target.file.blob
            with self._lock:
                self._mismatches.append(
                    Mismatch(time.time(), target.file.path, blob.origin, error.expected or "", error.got or "")
                )
            try:
                target.stored.discard(range(block_count(blob.size)))
            finally:  # the kernel's pages are wrong either way
                self.on_mismatch(target.file)
