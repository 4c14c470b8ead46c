"""Hashing a blob in order while it grows, until it is verified.

The hash worker makes one for each blob it handles, before any block of it can be evicted. So a file of any size is
verified a moment after its last byte. Blocks are hashed before they are evicted (``hash_before_evict``), so even a file
larger than the cache is verified when it is read in order. Each block's CRC is checked when it is hashed; when the blob
is complete, blocks hashed while it grew are checked once more, since a bit may have flipped on the disk. A block
published again after it was hashed restarts the hash when the blob is complete.

Only one thread hashes at a time (``acquire``): the hash worker's, or one that evicts. Used only while the blob is open.
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
from .digest import STEP, Hasher

if TYPE_CHECKING:
    from .state_file import FileMark
    from .stored_blob import StoredBlob

_log = logging.getLogger(__name__)
# How long an evicting thread waits for the hash worker to end its step, which takes half a millisecond, or a hundred
# times that on a busy machine. After that the blocks are evicted unhashed: the file is hashed when it is complete, or
# read again.
TURN_S: Final = 1.0
# Blocks before the evicted ones that the evicting thread hashes as well: 64 MiB take 35 ms. A worker that is further
# behind gets no processor at all.
MOST_BEHIND: Final = 256

# ``verified``: recorded. ``passed``: right, but a part of it has been evicted since. ``again``: what was hashed is no
# longer what is stored.
HashOutcome = Literal["verified", "passed", "again"]


class IncrementalHash:
    """The hash of a ``stored`` blob whose listing names a ``digest``."""

    def __init__(self, stored: StoredBlob, digest: Digest) -> None:
        self.stored = stored
        self._digest = digest
        self._blocks = block_count(stored.size)
        # Returns the bytes of a block that is not on disk, where they are in memory.
        self.memory_block: Callable[[int], bytes | None] = lambda _: None
        self._free = threading.Condition()
        self._acquired = False  # guarded by _free
        self._restart()

    def _restart(self) -> None:
        self._hasher = Hasher(self._digest, self.stored.size)
        self._counts = bytearray()  # of each block hashed, its publication
        self._rebound = False  # the blob was closed in between: its counts may be of other files
        self.started_at = time.time()
        # hffs does not write to a complete blob: its times tell whether another program did. While it still grows they
        # mean nothing, and only the CRCs and counts do.
        self._mark: FileMark | None = self.stored.mark() if self.stored.complete else None
        self._rechecked = 0 if self._mark is None else self._blocks  # blocks, once the blob is complete

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
        """Yields whether this thread may hash; False when another one did for all of ``patience`` seconds (TURN_S)."""
        with self._free:
            mine = self._free.wait_for(lambda: not self._acquired, TURN_S if patience is None else patience)
            self._acquired = self._acquired or mine
        try:
            yield mine
        finally:
            if mine:
                with self._free:
                    self._acquired = False
                    self._free.notify()

    def rebind(self, stored: StoredBlob) -> None:
        """Continues with the blob after it was closed and opened again; what has been hashed counts if all of it passes
        through, and is hashed again if the blob is complete. The caller has it acquired."""
        if self.stored is not stored:
            self.stored = stored
            self._rebound = self._rebound or bool(self._counts)
            self.subscribe()

    def subscribe(self) -> None:
        """Hashes blocks before they are evicted; one hash for each blob that is open."""
        self.stored.on_evict = self.hash_before_evict

    def hash_before_evict(self, blocks: range) -> None:
        """Hashes blocks that are about to be evicted, if the hash has nearly reached them. Never raises."""
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
        """Hashes on. Returns True when all is hashed and still right; False at the first byte that is not present, at
        ``limit`` (bytes), or when ``cancelled`` (called before each MiB) returned True. Raises CacheUnusable."""
        size = self.stored.size
        end = size if limit is None else min(limit, size)
        while self.hashed < end:
            if cancelled():
                return False
            start, stop = self.hashed, min(self.hashed + STEP, end)
            first, last = start // BLOCK_SIZE, -(-stop // BLOCK_SIZE)
            absent = self.stored.missing(range(first, last))
            if absent:
                last = absent[0].start
                stop = min(stop, last * BLOCK_SIZE)
                if stop <= start:
                    in_memory = self.memory_block(first)
                    if in_memory is None:
                        return False
                    self._hasher.update(in_memory)
                    self._counts += b"\0"  # the number of no publication: hashed again when the blob is complete
                    continue
            counts = self.stored.publications(range(first, last))  # before the bytes: a later one shows
            try:
                self._hasher.update(self.stored.bytes_at(start, stop))
            except BlockAbsent:
                return False
            self._counts += counts
        return self.hashed == size and (limit is not None or self._recheck(cancelled))

    def _recheck(self, cancelled: Callable[[], bool]) -> bool:
        """Whether each block that was hashed while the blob grew is still what was written, once it is complete. A GiB
        takes 0.1 s, where hashing takes 0.6. Evicted blocks cannot be checked again, and need not be."""
        stored, blocks = self.stored, self._blocks
        if self._rebound or not stored.complete:
            return True
        if self._mark is None:
            self._mark = stored.mark()
        while self._rechecked < blocks:
            if cancelled():
                return False
            some = range(self._rechecked, min(self._rechecked + STEP // BLOCK_SIZE, blocks))
            if not stored.recheck(some):
                self._mark, self._rechecked = None, 0
                return False
            self._rechecked = some.stop
        return True

    def finish(self, now: float) -> HashOutcome:
        """Compares the digest when all is hashed, and records at ``now`` (seconds since the epoch) that the blob is
        verified, if it is complete; otherwise restarts. Raises IntegrityError (the caller decides what to drop),
        CacheUnusable."""
        stored = self.stored
        complete = stored.complete
        if complete and (self._rebound or self._counts != stored.publications(range(len(self._counts)))):
            self._restart()
            return "again"
        got, expected = self._hasher.hexdigest(), self._digest.hex
        if got != expected:
            raise IntegrityError(
                f"{stored.blob.etag}: {self._digest.algorithm} mismatch: expected {expected}, got {got}",
                "fetch it again",
                expected=expected,
                got=got,
            )
        if complete and stored.record_verified(self._digest, bytes(self._counts), self._mark, now):
            return "verified"
        self._restart()
        return "again" if complete else "passed"
