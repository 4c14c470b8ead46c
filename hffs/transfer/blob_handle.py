"""An attached blob: its source, its stored blocks, and the few blocks that the disk would not take.

``missing`` is the one predicate of readability: readers and the fetcher ask it and nothing else. Blocks that could not
be stored (full or failing disk) are kept in a small memory shared by all handles, so that a reader still gets its
bytes; the oldest are dropped first. Any thread may call anything here.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from .. import ranges
from ..cache import StoredBlob
from ..errors import BlockAbsent, HffsError, IntegrityError
from ..model import RemoteFile

Watcher = Callable[[HffsError | None], None]

# Enough for 64 readers waiting for 1 MiB each while nothing can be stored; small beside what a loader needs itself.
MEMORY_LIMIT = 64 * 1024 * 1024


class MemoryBlocks:
    """Blocks by (blob key, index), at most ``limit`` bytes; the least recently added are dropped first."""

    def __init__(self, limit: int = MEMORY_LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        # guarded by _lock
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._size = 0

    def put(self, key: str, block: int, data: bytes, *, expendable: bool = False) -> None:
        """``expendable``: kept only while the limit allows, and dropped before all others."""
        with self._lock:
            old = self._blocks.pop((key, block), b"")
            self._blocks[key, block] = data
            self._blocks.move_to_end((key, block), last=not expendable)
            self._size += len(data) - len(old)
            while self._size > self._limit:
                _, dropped = self._blocks.popitem(last=False)
                self._size -= len(dropped)

    def get(self, key: str, block: int) -> bytes | None:
        if not self._blocks:  # nearly always; the answer may be a moment old, as any answer of a cache
            return None
        with self._lock:
            return self._blocks.get((key, block))

    def remove(self, key: str, block: int) -> None:
        with self._lock:
            self._size -= len(self._blocks.pop((key, block), b""))

    def forget(self, key: str) -> None:
        """Removes all blocks of a blob."""
        with self._lock:
            for each in [place for place in self._blocks if place[0] == key]:
                self._size -= len(self._blocks.pop(each))

    def __bool__(self) -> bool:
        return bool(self._blocks)


@dataclass(frozen=True, slots=True)
class ContentRefusal:
    """Why content that proved wrong is not read."""

    what: str
    remedy: str
    expected: str
    got: str

    def error(self) -> IntegrityError:
        """A new one for each reader: one that is raised again and again would gather tracebacks without end."""
        return IntegrityError(self.what, self.remedy, expected=self.expected, got=self.got)


class BlobHandle:
    """A remote file and its stored blob, shared by all that read or fetch it; counted by the scheduler."""

    __slots__ = (
        "_held", "_lock", "file", "holders", "key", "memory", "readers", "refusal", "size", "store_error", "stored",
        "watchers",
    )  # fmt: skip

    def __init__(self, key: str, file: RemoteFile, stored: StoredBlob, memory: MemoryBlocks) -> None:
        self.key = key
        self.file = file
        self.size = file.blob.size
        self.stored = stored
        self.memory = memory
        self.store_error: HffsError | None = None  # why its last block was not stored; None: it was
        # Set while its content is in quarantine: nothing of it is read, whatever blocks are local.
        self.refusal: ContentRefusal | None = None
        # guarded by the scheduler's lock: how many readers use it, and how many fetches and hashings. Either keep it
        # open; demand and read-ahead are forgotten as soon as no reader is left.
        self.readers = 0
        self.holders = 0
        self.watchers: list[Watcher] = []  # guarded by the scheduler's lock
        self._lock = threading.Lock()
        # guarded by _lock: blocks to be kept in memory too, by how many reads hold them
        self._held: Counter[int] = Counter()

    def hold(self, blocks: range) -> None:
        """Keeps these blocks in memory too, those that are local from now on, the others when they come, until
        ``release``: for a read from which they were evicted before it could take them. Raises CacheUnusable."""
        with self._lock:
            self._held.update(blocks)
        for block in blocks:
            with contextlib.suppress(BlockAbsent):
                whole = ranges.bytes_of(range(block, block + 1), self.size)
                self.memory.put(self.key, block, self.read(whole))

    def release(self, blocks: range) -> None:
        with self._lock:
            self._held.subtract(blocks)
            unheld = [block for block in blocks if self._held[block] <= 0]
            for block in unheld:
                del self._held[block]
        for block in unheld:
            self.memory.remove(self.key, block)

    def holds(self, block: int) -> bool:
        return block in self._held

    def missing(self, blocks: range) -> list[range]:
        """The runs of ``blocks`` that cannot be read now. Raises CacheUnusable."""
        absent = self.stored.missing(blocks)
        if not absent or not self.memory:
            return absent
        return ranges.runs(block for run in absent for block in run if self.memory.get(self.key, block) is None)

    def read(self, asked: ranges.ByteRange) -> bytes:
        """All of these bytes. Raises BlockAbsent when a block is not local (any more), IntegrityError."""
        if self.refusal is not None:
            raise self.refusal.error()
        try:
            return self.stored.read(asked.start, asked.length)
        except BlockAbsent:
            if not self.memory:
                raise
        pieces = []
        for block in ranges.span_of(asked):
            whole = ranges.bytes_of(range(block, block + 1), self.size)
            start, stop = max(whole.start, asked.start), min(whole.stop, asked.stop)
            data = self.memory.get(self.key, block)
            if data is None:
                pieces.append(self.stored.read(start, stop - start))
            else:
                pieces.append(data[start - whole.start : stop - whole.start])
        return b"".join(pieces)
