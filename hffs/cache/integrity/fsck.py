"""A cache looked through: every state file and every block that is said to be here, and what was left lying about.

A block is checked by its CRC, which tells damage of the disk; whether the bytes are those of the Hub only a whole
blob's hash tells (``StoredBlob.verify``). Mending is making absent: what is not here is fetched again. Other processes
may be at work meanwhile; a block that they publish or drop while it is looked at is looked at again. Any thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from ...ranges import BLOCK_SIZE, block_length, runs
from ..blob_info import BlobFiles, blob_locks, evict, inspect, list_paths
from ..store.layout import BlobPaths, Layout, disk_error
from ..store.locks import HEADER, RangeLocks
from ..store.state_file import Damaged, FileMark

# Nothing that is being made takes longer: such files live for a few system calls.
_LEFT_SECONDS: Final = 3600
_TEMPORARY: Final = re.compile(r"\.(version|CACHEDIR\.TAG|probe)\..+")
_SET_ASIDE: Final = re.compile(r"cache\.db(-wal|-shm)?\.damaged-\d+")
_ROUNDS: Final = 3  # somebody at work on this very block twice in a row is already unheard of

Kind = Literal["damage", "leftover", "mark", "newer"]


@dataclass(frozen=True, slots=True)
class FsckFinding:
    """Something that is not as it should be. ``damage``: content that is said to be here and cannot be read; the others
    harm nobody. ``mended``: it is no longer so."""

    path: str
    kind: Kind
    what: str
    mended: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One more blob looked at: how many blobs, blocks and bytes of blocks so far, and what was found with this one."""

    blobs: int
    blocks: int
    bytes: int
    findings: tuple[FsckFinding, ...]


def check(layout: Layout, *, repair: bool = False, now: float | None = None) -> Iterator[Step]:
    """Look through all of it. Raises CacheUnusable for a cache of a newer version, or one that cannot be listed."""
    blobs = blocks = size = 0
    layout.check_version()
    for place in list_paths(layout):
        looked = _Looked(place, repair)
        try:
            looked.inspect()
        except OSError as error:
            looked.found("damage", f"it cannot be read: {error.strerror}", mended=False)
        except Damaged as damaged:  # just now: it was read before
            looked.found("damage", f"its state file is damaged: {damaged}", mended=False)
        blobs, blocks, size = blobs + looked.is_blob, blocks + looked.blocks, size + looked.bytes
        yield Step(blobs, blocks, size, tuple(looked.findings))
    findings = tuple(_leftovers(layout, repair, time.time() if now is None else now))
    yield Step(blobs, blocks, size, findings)


class _Looked:
    """One blob, looked at."""

    def __init__(self, place: BlobPaths, repair: bool) -> None:
        self.place = place
        self.is_blob = False
        self.blocks = 0
        self.bytes = 0
        self.findings: list[FsckFinding] = []
        self._repair = repair

    def found(self, kind: Kind, what: str, *, mended: bool, path: str = "") -> None:
        self.findings.append(FsckFinding(path or self.place.state, kind, what, mended))

    def inspect(self) -> None:
        holding = inspect(self.place)
        half_made = f"{self.place.folder}/{self.place.origin_id}.new"
        if os.path.exists(half_made):
            self.found(
                "leftover", "a state file that was never finished", mended=self._remove(half_made), path=half_made
            )
        if holding is None:
            return
        self.is_blob = True
        if holding.newer:
            self.found("newer", f"{holding.unusable}: left alone", mended=False)
        elif holding.unusable:
            bare = not os.path.exists(self.place.state)
            gone = self._repair and evict(holding).kept == "" and inspect(self.place) is None
            path = self.place.data if bare else self.place.state
            self.found("leftover" if bare else "damage", holding.unusable, mended=gone, path=path)
        else:
            with blob_locks(self.place) as locks:
                self._look_inside(locks)

    def _look_inside(self, locks: RangeLocks) -> None:
        try:
            with locks.holding(HEADER):
                opened = BlobFiles(self.place, locks)
        except (FileNotFoundError, Damaged):
            return  # it has just been let go, or begun anew
        with contextlib.closing(opened):
            bad = []
            for block in range(opened.state.blocks):
                if opened.state.presence(block, 1)[0]:
                    self.blocks += 1
                    self.bytes += block_length(block, opened.state.size)
                    if not _right(opened, block):
                        bad.append(block)
            for run in runs(bad):
                if self._repair:
                    opened.stored.discard(run)
                mended = self._repair and opened.state.missing(run) == [run]
                which = f"block {run.start}" if len(run) == 1 else f"blocks {run.start} to {run.stop - 1}"
                verb = "is" if len(run) == 1 else "are"
                what = f"{which} of {opened.state.blocks} {verb} not what was written"
                self.found("damage", what, mended=mended, path=self.place.data)
            self._look_at_mark(opened, locks)

    def _look_at_mark(self, opened: BlobFiles, locks: RangeLocks) -> None:
        """A note of verification that no longer fits is heeded by nobody: the blob is hashed again when it is used."""
        with locks.holding(HEADER):
            header = opened.state.header()
            if header.verification is None or header.verification.mark == FileMark.of(opened.data):
                return
            if self._repair:
                opened.state.write_header(replace(header, verification=None))
        what = "it was touched after it was verified, and is verified again when it is used"
        self.found("mark", what, mended=self._repair)

    def _remove(self, path: str) -> bool:
        if not self._repair:
            return False
        with blob_locks(self.place) as locks, locks.holding(HEADER), contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # whoever makes one holds HEADER
        return True


def _right(opened: BlobFiles, block: int) -> bool:
    """Whether a block's bytes are those of its CRC; one that changes under our eyes passes for right."""
    length = block_length(block, opened.state.size)
    for _ in range(_ROUNDS):
        before = opened.state.presence(block, 1) + opened.state.counts(block, 1)
        if not before[0]:
            return True
        try:
            data = os.pread(opened.data, length, block * BLOCK_SIZE)
        except OSError:
            data = b""  # an unreadable sector
        right = len(data) == length and (zlib.crc32(data),) == opened.state.crcs(block, 1)
        if opened.state.presence(block, 1) + opened.state.counts(block, 1) == before:
            return right
    return True


def _leftovers(layout: Layout, repair: bool, now: float) -> Iterator[FsckFinding]:
    """What killed processes left in the cache's own folders, and databases that were set aside."""
    for folder, pattern in ((str(layout.root), _TEMPORARY), (str(layout.index), _SET_ASIDE)):
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise disk_error(error, f"the cache directory {folder}") from error
        for name in names:
            path = os.path.join(folder, name)
            if not pattern.fullmatch(name):
                continue
            with contextlib.suppress(OSError):
                if now - os.stat(path).st_mtime > _LEFT_SECONDS or pattern is _SET_ASIDE:
                    if repair:
                        os.unlink(path)
                    what = "a damaged metadata index, set aside" if pattern is _SET_ASIDE else "a temporary file"
                    yield FsckFinding(path, "leftover", what, repair)
