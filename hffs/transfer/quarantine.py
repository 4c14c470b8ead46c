"""Content that proved wrong: it is dropped, recorded, fetched once more, and then refused for a while.

The hash worker and verifications call ``found_wrong`` for a copy whose hash did not match. The copy is dropped from the
disk and from the kernel's pages, and the mismatch recorded (``cache.integrity.mismatches``). After the first of several
in a row the content is fetched once more from a fresh URL; later ones leave the handle with a ``refusal`` for as long
as ``policy.integrity_backoff`` says, or until ``clear``. Any thread; nothing here holds the scheduler's lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .. import ranges
from ..cache import Layout
from ..cache.integrity.mismatches import Mismatch, Mismatches
from ..errors import IntegrityError
from ..model import Blob, RemoteFile
from ..policy import integrity_backoff
from .blob_handle import BlobHandle, ContentRefusal

log = logging.getLogger(__name__)


class Quarantine:
    """``clock`` gives seconds since the epoch: other processes read the record, and later ones."""

    def __init__(
        self,
        layout: Layout,
        *,
        drop: Callable[[BlobHandle], None],
        forget_url: Callable[[RemoteFile], None],
        refetch: Callable[[BlobHandle], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``drop`` ends the waits of a handle that has a refusal and what is queued of it; ``forget_url`` has the next
        range of a file requested from a fresh URL; ``refetch`` wants all of a handle in the background."""
        self.record = Mismatches(layout)
        self.on_mismatch: Callable[[RemoteFile], None] = lambda _: None  # set before start
        self._drop = drop
        self._forget_url = forget_url
        self._refetch = refetch
        self._clock = clock

    def mismatch(self, blob: Blob) -> Mismatch | None:
        """The mismatch for which a content is refused at present; None: it is not."""
        found = self.record.find(blob)
        return found if found is not None and self._lasts(found) else None

    def admit(self, handle: BlobHandle) -> None:
        """A handle is about to be used: refuses its content if that is in quarantine."""
        found = self.mismatch(handle.file.blob)
        if found is not None:
            handle.refusal = _refusal(found)

    def check(self, handle: BlobHandle) -> None:
        """Ends a refusal whose time is over. Raises IntegrityError while the content is refused."""
        if handle.refusal is None:
            return
        if self.mismatch(handle.file.blob) is not None:
            raise handle.refusal.error()
        handle.refusal = None

    def discard_if_refused(self, handle: BlobHandle) -> None:
        """After each fetch: one that ran when the content was refused may have stored blocks. Raises CacheUnusable."""
        if handle.refusal is not None:
            self._discard(handle)

    def found_right(self, handle: BlobHandle) -> None:
        """It was hashed and matches."""
        if self.record.clear(handle.file.blob, right=True, now=self._clock()):
            log.info("event=mended path=%s etag=%s", handle.file.path, handle.file.blob.etag)

    def found_wrong(self, handle: BlobHandle, error: IntegrityError, began: float) -> None:
        """A copy, whose hashing began at ``began`` (seconds since the epoch), does not match its hash; ``error`` has
        both digests. Raises CacheUnusable where the disk will not drop it; all else is done."""
        file, blob = handle.file, handle.file.blob
        whole = handle.stored.complete
        found = self.record.record(file, error.expected, error.got, began=began, now=self._clock())
        seconds = integrity_backoff.pause(found.copies)
        if seconds:
            handle.refusal = _refusal(found)
            self._drop(handle)
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
            self._discard(handle)
        finally:  # the kernel's pages are wrong either way
            self._forget_url(file)
            self.on_mismatch(file)
        if whole and not seconds:
            self._refetch(handle)

    def clear(self, blob: Blob, handle: BlobHandle | None) -> bool:
        """Forgets that a content was wrong: it is fetched and read as if it had never been. ``handle``: where it is
        attached. Returns whether there was a record of it."""
        known = self.record.clear(blob, right=False, now=self._clock())
        if handle is not None:
            handle.refusal = None
            self._forget_url(handle.file)
        if known:
            log.info("event=tried-again etag=%s origin=%s", blob.etag, blob.origin)
        return known

    def _lasts(self, found: Mismatch) -> bool:
        return 0 <= self._clock() - found.at < integrity_backoff.pause(found.copies)

    @staticmethod
    def _discard(handle: BlobHandle) -> None:
        handle.memory.forget(handle.key)
        handle.stored.discard(range(ranges.block_count(handle.size)))


def _refusal(found: Mismatch) -> ContentRefusal:
    at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(found.at + integrity_backoff.pause(found.copies)))
    return ContentRefusal(
        f"{found.copies} copies of {found.path} in a row did not match its hash",
        f"read it after {at}, when it is fetched again, or run hffs verify --fix",
        found.expected,
        found.got,
    )
