"""A blob on its way to ``verified``: hashed in order, as far as it is here, and gone on with when more has come.

The verifier makes one for each blob it looks at. So a file is known to be right a moment after its last byte, however
big. Every byte hashed had its CRC looked at; what was published anew after it was hashed makes it begin again. One
thread at a time, while the blob is open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..errors import BlockAbsent, IntegrityError
from ..model import Digest
from ..ranges import BLOCK_SIZE
from .digest import Hasher

if TYPE_CHECKING:
    from .state import FileMark
    from .stored import StoredBlob

# 1 MiB: sha256 gains nothing from more, and a reader is never kept long from the GIL. A whole number of blocks.
STEP: Final = 4 * BLOCK_SIZE


class Hashing:
    """Of a ``stored`` blob whose listing names a ``digest``."""

    def __init__(self, stored: StoredBlob, digest: Digest) -> None:
        self.stored = stored
        self._digest = digest
        self._begin()

    def _begin(self) -> None:
        self._hasher = Hasher(self._digest, self.stored.size)
        self._counts = bytearray()  # of each block hashed, its publication
        # Nobody of us writes to a whole blob: its times tell whether anybody else did. While it still grows they say
        # nothing, and only the CRCs and counts do.
        self._mark: FileMark | None = self.stored.mark() if self.stored.complete else None

    @property
    def hashed(self) -> int:
        """Bytes so far."""
        return self._hasher.hashed

    def advance(self, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Hash on; True when all is hashed, False at the first byte that is not here or when ``given_up`` (asked before
        each MiB). Raises CacheUnusable."""
        size = self.stored.size
        while self.hashed < size:
            if given_up():
                return False
            start, stop = self.hashed, min(self.hashed + STEP, size)
            first, last = start // BLOCK_SIZE, -(-stop // BLOCK_SIZE)
            absent = self.stored.missing(range(first, last))
            if absent:
                last = absent[0].start
                stop = min(stop, last * BLOCK_SIZE)
                if stop <= start:
                    return False
            counts = self.stored.publications(range(first, last))  # before the bytes: a new one afterwards shows
            try:
                self._hasher.update(self.stored.bytes_at(start, stop))
            except BlockAbsent:
                return False
            self._counts += counts
        return True

    def conclude(self, now: float) -> bool:
        """All is hashed: record at ``now`` (seconds since the epoch) that the blob is right. False: what was hashed is
        no longer what is there, and it begins again. Raises IntegrityError (what to drop is the caller's decision),
        CacheUnusable."""
        stored = self.stored
        if not stored.complete or self._counts != stored.publications(range(len(self._counts))):
            self._begin()
            return False
        got = self._hasher.hexdigest()
        if got != self._digest.hex:
            kind, promised = self._digest.algorithm, self._digest.hex
            raise IntegrityError(
                f"{stored.blob.etag}: the bytes have {kind} {got} where {promised} was promised",
                "fetch it again",
                expected=self._digest.hex,
                got=got,
            )
        if stored.record(self._digest, bytes(self._counts), self._mark, now):
            return True
        self._begin()
        return False
