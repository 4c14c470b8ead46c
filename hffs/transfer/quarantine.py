"""What happens to content that proved wrong: it goes, is told, comes once more, and then is refused for a while.

``found_wrong`` is called by what hashed a copy that was wrong: the hash worker, or a verification on demand. The copy
is dropped from the disk and from the kernel's pages, and the mismatch kept on record (``cache.mismatches``). The first
of a row is fetched once more from a fresh URL, the next ones leave the handle refused (``BlobHandle.refused``) for as
long as ``policy.mistrust`` says, or until ``retry``. Any thread; nothing here holds the fetcher's lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from .. import ranges
from ..cache import Layout
from ..cache.integrity.mismatches import Mismatch, Mismatches
from ..errors import IntegrityError
from ..model import Blob, RemoteFile
from ..policy import integrity_backoff
from .blob_handle import BlobHandle, ContentRefusal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuarantineActions:
    """What the fetcher does for us. ``refuse``: from now on nothing of the handle is read or fetched, and whoever waits
    for it is told. ``forget``: its next range is asked of a fresh URL. ``refetch``: all of it is wanted, in the
    background."""

    refuse: Callable[[BlobHandle], None]
    forget: Callable[[RemoteFile], None]
    refetch: Callable[[BlobHandle], None]


class Quarantine:
    """``clock`` gives seconds since the epoch: the record is for other processes, and later ones."""

    def __init__(self, layout: Layout, measures: QuarantineActions, clock: Callable[[], float] = time.time) -> None:
        self.record = Mismatches(layout)
        self.on_mismatch: Callable[[RemoteFile], None] = lambda _: None  # set before start
        self._measures = measures
        self._clock = clock

    def refuses(self, blob: Blob) -> Mismatch | None:
        """The mismatch for which a content is not fetched or read at present; None: it is."""
        found = self.record.find(blob)
        return found if found is not None and self._lasts(found) else None

    def failed(self) -> list[Mismatch]:
        """All that is refused at present, by whichever process of this cache found it wrong."""
        return [found for found in self.record.current() if self._lasts(found)]

    def admit(self, handle: BlobHandle) -> None:
        """A handle is about to be used: if it was found wrong, and is not tried again yet, it is refused."""
        found = self.refuses(handle.file.blob)
        if found is not None:
            handle.refused = _refusal(found)

    def check(self, handle: BlobHandle) -> None:
        """Before a handle is read or fetched: raises IntegrityError while it is refused."""
        if handle.refused is None:
            return
        if self.refuses(handle.file.blob) is not None:
            raise handle.refused.error()
        handle.refused = None

    def tidy(self, handle: BlobHandle) -> None:
        """A fetch has ended that may have been under way when the handle was refused: what it brought goes. Raises
        CacheUnusable."""
        if handle.refused is not None:
            self._drop(handle)

    def right(self, handle: BlobHandle) -> None:
        """It was hashed and is right."""
        if self.record.clear(handle.file.blob, right=True, now=self._clock()):
            log.info("event=mended path=%s etag=%s", handle.file.path, handle.file.blob.etag)

    def found_wrong(self, handle: BlobHandle, error: IntegrityError, began: float) -> None:
        """A copy of the handle, whose hashing began at ``began`` (seconds since the epoch), was not what its hash says;
        ``error`` has both digests. Raises CacheUnusable where the disk will not drop it; all else is done."""
        file, blob = handle.file, handle.file.blob
        whole = handle.stored.complete
        found = self.record.record(file, error.expected, error.got, began=began, now=self._clock())
        seconds = integrity_backoff.pause(found.copies)
        if seconds:
            handle.refused = _refusal(found)
            self._measures.refuse(handle)
        if seconds:
            log.error(
                "event=bad-content path=%s etag=%s origin=%s expected=%s got=%s copies=%d pause=%d",
                file.path, blob.etag, blob.origin, error.expected, error.got, found.copies, seconds,
            )  # fmt: skip
        else:
            log.error(
                "event=mismatch path=%s etag=%s origin=%s expected=%s got=%s copies=%d",
                file.path, blob.etag, blob.origin, error.expected, error.got, found.copies,
            )  # fmt: skip
        try:
            self._drop(handle)
        finally:  # the kernel's pages are wrong either way
            self._measures.forget(file)
            self.on_mismatch(file)
        if whole and not seconds:
            self._measures.refetch(handle)

    def retry(self, blob: Blob, handle: BlobHandle | None) -> bool:
        """Forget that a content was wrong: it is fetched and read as if it had never been. ``handle``: it is in use
        here. Whether anything was on record."""
        known = self.record.clear(blob, right=False, now=self._clock())
        if handle is not None:
            handle.refused = None
            self._measures.forget(handle.file)
        if known:
            log.info("event=tried-again etag=%s origin=%s", blob.etag, blob.origin)
        return known

    def _lasts(self, found: Mismatch) -> bool:
        return 0 <= self._clock() - found.at < integrity_backoff.pause(found.copies)

    @staticmethod
    def _drop(handle: BlobHandle) -> None:
        handle.memory.forget(handle.key)
        handle.stored.discard(range(ranges.block_count(handle.size)))


def _refusal(found: Mismatch) -> ContentRefusal:
    at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(found.at + integrity_backoff.pause(found.copies)))
    return ContentRefusal(
        f"{found.copies} copies of {found.path} in a row were not what its hash says",
        f"it is tried again when it is read after {at}, or by hffs verify --fix",
        found.expected,
        found.got,
    )
