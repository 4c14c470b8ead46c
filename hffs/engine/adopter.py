"""Adopts in the background what huggingface_hub has of the mounted repo: smallest files first, opened ones before all.

Hashing 100 GB takes minutes, so no reader waits for it: until a file is adopted, readers fetch what they read; from
then on they read it where it is (``cache.store.adopt``). One thread at the lowest priority, which exists only while
there is something to adopt.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from ..cache import BlobStore
from ..errors import HffsError
from ..model import Blob

log = logging.getLogger(__name__)
NICE: Final = 19  # as the hash worker: only processor time that no other process wants
STOP_SECONDS: Final = 5.0


class Adopter:
    """``begin`` with a listing, ``first`` for what is opened; ``stop`` before the store is closed. Any thread."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        # guarded by _lock
        self._listings: list[Callable[[], Iterable[Blob]]] = []
        self._blobs: deque[Blob] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def begin(self, blobs: Callable[[], Iterable[Blob]]) -> None:
        """Adopts those of ``blobs``, which is called on the thread, that huggingface_hub has."""
        with self._lock:
            self._listings.append(blobs)
            self._wake()

    def first(self, blob: Blob) -> None:
        """Adopts this one before all others."""
        with self._lock:
            if not self._blobs or self._blobs[0] != blob:
                self._blobs.appendleft(blob)
            self._wake()

    def stop(self) -> None:
        """Gives up the file that is being hashed."""
        with self._lock:
            self._stopping = True
            thread = self._thread
        if thread is not None:
            thread.join(STOP_SECONDS)

    def _wake(self) -> None:
        """The caller holds the lock."""
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._run, name="hffs-adopt", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            while self._step():
                pass
        except Exception as error:  # a bug costs a download only, and is logged
            log.error("event=adopt-bug", exc_info=error)

    def _step(self) -> bool:
        """Takes one listing or blob; returns False when there is none left, and the thread ends."""
        with self._lock:
            if self._stopping or not (self._blobs or self._listings):
                self._thread = None
                return False
            blob = self._blobs.popleft() if self._blobs else None
            listing = self._listings.pop(0) if blob is None else list
        if blob is not None:
            self._adopt(blob)
            return True
        found = sorted(listing(), key=lambda each: each.size)
        with self._lock:
            self._blobs.extend(found)
        return True

    def _adopt(self, blob: Blob) -> None:
        try:
            outcome = self._store.adopt(blob, cancelled=lambda: self._stopping)
        except HffsError as error:
            log.debug("event=not-adopted etag=%s error=%s", blob.etag, error)
            return
        if outcome in ("reflink", "in place"):
            log.info("event=adopted etag=%s bytes=%d how=%s", blob.etag, blob.size, outcome.replace(" ", "-"))
        elif outcome == "busy":
            log.info("event=not-adopted etag=%s why=%s", blob.etag, "it is being fetched; retried when it is opened")
