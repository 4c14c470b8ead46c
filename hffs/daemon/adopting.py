"""Takes over in the background what huggingface_hub has of the repo that is mounted: smallest files first, what is
opened before all others.

Hashing 100 GB takes minutes, so no reader waits for it: until then it fetches what it reads, and from then on reads the
file where it lies (``cache.adopting``). One thread at the lowest priority, which exists only while there is something
to do.
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
NICE: Final = 19  # as the verifier: what is left over while anybody else wants the processor
# A blob that somebody fetches just now is looked at again; as often as a fetch of 16 MiB takes on a very slow line.
BUSY_SECONDS: Final = 1.0
MOST_TRIES: Final = 60
STOP_SECONDS: Final = 5.0


class Adopter:
    """``begin`` with a listing, ``first`` for what is opened; ``stop`` before the store is closed. Any thread."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._ready = threading.Condition()
        # guarded by _ready
        self._listings: list[Callable[[], Iterable[Blob]]] = []
        self._blobs: deque[tuple[Blob, int]] = deque()  # with how often each was tried
        self._thread: threading.Thread | None = None
        self._stopping = False

    def begin(self, blobs: Callable[[], Iterable[Blob]]) -> None:
        """Adopt all of these that are there; asked for on the thread."""
        with self._ready:
            self._listings.append(blobs)
            self._wake()

    def first(self, blob: Blob) -> None:
        """This one before all others."""
        with self._ready:
            if not self._blobs or self._blobs[0][0] != blob:
                self._blobs.appendleft((blob, 0))
            self._wake()

    def stop(self) -> None:
        """What is being hashed is left as it is."""
        with self._ready:
            self._stopping = True
            thread = self._thread
            self._ready.notify_all()
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
        except Exception as error:  # a bug of ours costs a download, and must be seen
            log.error("event=adopt-bug", exc_info=error)

    def _step(self) -> bool:
        """One listing or blob; False when there is nothing left, and the thread ends."""
        with self._ready:
            if self._stopping or not (self._blobs or self._listings):
                self._thread = None
                return False
            listing = None if self._blobs else self._listings.pop(0)
            blob, tries = self._blobs.popleft() if listing is None else (None, 0)
        if listing is not None:
            found = sorted(listing(), key=lambda each: each.size)
            with self._ready:
                self._blobs.extend((each, 0) for each in found)
        elif blob is not None and self._adopt(blob) == "busy" and tries < MOST_TRIES:
            with self._ready:
                self._blobs.append((blob, tries + 1))
                if all(tried for _, tried in self._blobs):  # nothing else to do meanwhile
                    self._ready.wait_for(lambda: self._stopping, BUSY_SECONDS)
        return True

    def _adopt(self, blob: Blob) -> str:
        try:
            outcome = self._store.adopt(blob, given_up=lambda: self._stopping)
        except HffsError as error:
            log.debug("event=not-adopted etag=%s error=%s", blob.etag, error)
            return "failed"
        if outcome in ("reflink", "in place"):
            log.info("event=adopted etag=%s bytes=%d how=%s", blob.etag, blob.size, outcome.replace(" ", "-"))
        return outcome
