"""A blob on its way to ``verified``: hashed in order, as far as it is here, and gone on with when more has come.

The verifier makes one for each blob it looks at, before anything of it can be evicted. So a file is known to be right
a moment after its last byte, however big; and what is evicted before the rest has come was hashed (``leaving``), so
that a file larger than the cache is known to be right once all of it has passed through in order. Every byte hashed had
its CRC looked at, and of what was hashed while it came once more when all is here: a bit may have flipped on the disk
since. What was published anew after it was hashed makes it begin again, when the whole is here.

Whoever hashes has it for that time (``turn``): the verifier's thread, and whoever evicts. While the blob is open.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal

from ...errors import BlockAbsent, CacheUnusable, IntegrityError
from ...model import Digest
from ...ranges import BLOCK_SIZE, block_count
from .digest import Hasher

if TYPE_CHECKING:
    from .state_file import FileMark
    from .stored_blob import StoredBlob

_log = logging.getLogger(__name__)
# 1 MiB: sha256 gains nothing from more, and a reader is never kept long from the GIL. A whole number of blocks.
STEP: Final = 4 * BLOCK_SIZE
# Whoever evicts waits so long for the verifier to end its step: half a millisecond, a hundred times that where the
# processor is everybody else's. Longer, and the blocks go unhashed: the file is hashed when it is whole, or read anew.
TURN_S: Final = 1.0
# What is still to be hashed before the blocks that go is hashed by who evicts them, up to so much: 64 MiB take 35 ms. A
# verifier that is further behind gets no processor at all.
MOST_BEHIND: Final = 256

# ``verified``: recorded. ``passed``: right, but a part of it has been evicted since. ``again``: what was hashed is no
# longer what is there.
HashOutcome = Literal["verified", "passed", "again"]


class IncrementalHash:
    """Of a ``stored`` blob whose listing names a ``digest``; told of what is evicted once it was made to ``listen``."""

    def __init__(self, stored: StoredBlob, digest: Digest) -> None:
        self.stored = stored
        self._digest = digest
        self._blocks = block_count(stored.size)
        # The bytes of a block that the disk did not take, where anybody has them.
        self.memory_block: Callable[[int], bytes | None] = lambda _: None
        self._free = threading.Condition()
        self._taken = False  # guarded by _free
        self._begin()

    def _begin(self) -> None:
        self._hasher = Hasher(self._digest, self.stored.size)
        self._counts = bytearray()  # of each block hashed, its publication
        self._moved = False  # the blob was closed in between: its counts may be of other files
        self.started_at = time.time()
        # Nobody of us writes to a whole blob: its times tell whether anybody else did. While it still grows they say
        # nothing, and only the CRCs and counts do.
        self._mark: FileMark | None = self.stored.mark() if self.stored.complete else None
        self._looked_again = 0 if self._mark is None else self._blocks  # blocks, once the whole is here

    @property
    def hashed(self) -> int:
        """Bytes so far."""
        return self._hasher.hashed

    @property
    def next_block(self) -> int:
        """The first block that is not hashed."""
        return len(self._counts)

    @contextlib.contextmanager
    def acquire(self, patience: float | None = None) -> Iterator[bool]:
        """To hash, alone; False when another did for all of ``patience`` seconds (TURN_S)."""
        with self._free:
            mine = self._free.wait_for(lambda: not self._taken, TURN_S if patience is None else patience)
            self._taken = self._taken or mine
        try:
            yield mine
        finally:
            if mine:
                with self._free:
                    self._taken = False
                    self._free.notify()

    def rebind(self, stored: StoredBlob) -> None:
        """Go on with the blob after it was closed and opened again; what has been hashed counts if all of it passes,
        and is hashed again if the whole is here. Have a ``turn``."""
        if self.stored is not stored:
            self.stored = stored
            self._moved = self._moved or bool(self._counts)
            self.subscribe()

    def subscribe(self) -> None:
        """Hash what is about to be evicted; one for each blob that is open."""
        self.stored.on_evict = self.hash_before_evict

    def hash_before_evict(self, blocks: range) -> None:
        """These blocks are about to be evicted: they are hashed first, if it is nearly their turn. Never raises."""
        following = self.next_block
        if not blocks.start - MOST_BEHIND <= following < blocks.stop:
            return
        try:
            if following < blocks.start and self.stored.missing(range(following, blocks.start)):
                return
            with self.acquire() as mine:
                if mine:
                    self.advance(limit=blocks.stop * BLOCK_SIZE)
        except CacheUnusable as error:
            _log.debug("event=not-hashed-before-it-went error=%s", error)

    def advance(self, cancelled: Callable[[], bool] = lambda: False, *, limit: int | None = None) -> bool:
        """Hash on; True when all is hashed and still right, False at the first byte that is not here, at ``limit``
        (bytes), or when ``cancelled`` (asked before each MiB). Raises CacheUnusable."""
        size = self.stored.size
        ends = size if limit is None else min(limit, size)
        while self.hashed < ends:
            if cancelled():
                return False
            start, stop = self.hashed, min(self.hashed + STEP, ends)
            first, last = start // BLOCK_SIZE, -(-stop // BLOCK_SIZE)
            absent = self.stored.missing(range(first, last))
            if absent:
                last = absent[0].start
                stop = min(stop, last * BLOCK_SIZE)
                if stop <= start:
                    unstored = self.memory_block(first)
                    if unstored is None:
                        return False
                    self._hasher.update(unstored)
                    self._counts += b"\0"  # as no publication is: it is hashed again when the whole is here
                    continue
            counts = self.stored.publications(range(first, last))  # before the bytes: a new one afterwards shows
            try:
                self._hasher.update(self.stored.bytes_at(start, stop))
            except BlockAbsent:
                return False
            self._counts += counts
        return self.hashed == size and (limit is not None or self._recheck(cancelled))

    def _recheck(self, cancelled: Callable[[], bool]) -> bool:
        """What was hashed while it came: whether each block is still what was written, now that the whole is here. A
        GiB takes 0.1 s, where hashing takes 0.6. What has been evicted cannot be looked at again, and need not be."""
        stored, blocks = self.stored, self._blocks
        if self._moved or not stored.complete:
            return True
        if self._mark is None:
            self._mark = stored.mark()
        while self._looked_again < blocks:
            if cancelled():
                return False
            some = range(self._looked_again, min(self._looked_again + STEP // BLOCK_SIZE, blocks))
            if not stored.recheck(some):
                self._mark, self._looked_again = None, 0
                return False
            self._looked_again = some.stop
        return True

    def finish(self, now: float) -> HashOutcome:
        """All is hashed: record at ``now`` (seconds since the epoch) that the blob is right, if it is here. It begins
        again after whatever is no lasting record. Raises IntegrityError (what to drop is the caller's decision),
        CacheUnusable."""
        stored = self.stored
        whole = stored.complete
        if whole and (self._moved or self._counts != stored.publications(range(len(self._counts)))):
            self._begin()
            return "again"
        got = self._hasher.hexdigest()
        if got != self._digest.hex:
            kind, promised = self._digest.algorithm, self._digest.hex
            raise IntegrityError(
                f"{stored.blob.etag}: the bytes have {kind} {got} where {promised} was promised",
                "fetch it again",
                expected=self._digest.hex,
                got=got,
            )
        if whole and stored.record_verified(self._digest, bytes(self._counts), self._mark, now):
            return "verified"
        self._begin()
        return "again" if whole else "passed"
