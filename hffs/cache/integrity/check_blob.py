"""One copy of a blob looked at as it is on the disk: every block by its CRC, the whole by its hash, in one pass.

Nothing that was found out before is believed, and nothing is dropped, so that whoever asked can tell first. What is
right is marked as verified, what is wrong no longer passes for it. Other processes may be at work on it: what they
changed meanwhile is not judged. Any thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ...errors import BlockAbsent
from ...model import Digest
from ...ranges import BLOCK_SIZE, block_count, block_length, runs
from ..blob_info import BlobFiles, blob_locks
from ..store.checksum import crc32
from ..store.digest import Hasher
from ..store.layout import BlobPaths, disk_error
from ..store.locks import HEADER
from ..store.state_file import Damaged, FileMark

_ROUNDS: Final = 3  # somebody at work on this very block twice in a row is already unheard of


@dataclass(frozen=True, slots=True)
class BlobCheck:
    """What came of it. ``bytes`` are those of the blocks that were here; ``bad`` the runs of blocks that are not what
    was written; ``got`` the hash of the whole, in hex, where all of it was here and sound. ``judged`` is False when
    somebody else worked on it, or ``cancelled``: then nothing can be said of the whole."""

    bytes: int
    blocks: int
    bad: tuple[range, ...]
    got: str
    judged: bool


def check_blob(
    place: BlobPaths,
    digest: Digest | None,
    cancelled: Callable[[], bool] = lambda: False,
    counted: Callable[[int], None] = lambda _: None,
) -> BlobCheck:
    """Check everything stored of a blob. ``cancelled`` is asked before each block, ``counted`` hears the bytes of each.

    Raises CacheUnusable for a state file of a newer version, or one that cannot be read."""
    try:
        with _opened(place) as opened:
            return _examined(opened, digest, cancelled, counted)
    except (FileNotFoundError, Damaged):  # it has just been let go, or begun anew
        return BlobCheck(0, 0, (), "", judged=False)
    except OSError as error:
        raise disk_error(error, f"the cache file {place.state}") from error


def drop_blocks(place: BlobPaths, bad: tuple[range, ...] = ()) -> bool:
    """Make these blocks absent, all of them where none are named; whether they are. Raises CacheUnusable."""
    try:
        with _opened(place) as opened:
            for run in bad or (range(block_count(opened.state.size)),):
                opened.stored.discard(run)
            return all(opened.state.missing(run) == [run] for run in bad) if bad else not opened.state.local_bytes()
    except (FileNotFoundError, Damaged):
        return True
    except OSError as error:
        raise disk_error(error, f"the cache file {place.state}") from error


def is_record_outdated(place: BlobPaths, *, clear: bool) -> bool:
    """Whether the data file was written after its content was verified: it is verified again when it is used. ``clear``
    removes such a record. Raises CacheUnusable."""
    try:
        with _opened(place) as opened:
            record = opened.state.header().verification
            outdated = record is not None and record.mark != FileMark.of(opened.data)
            if outdated and clear:
                opened.clear_verified()
            return outdated
    except (FileNotFoundError, Damaged):  # it was evicted, or begun anew
        return False
    except OSError as error:
        raise disk_error(error, f"the cache file {place.state}") from error


@contextlib.contextmanager
def open_reader(place: BlobPaths) -> Iterator[Callable[[int, int], bytes]]:
    """What reads bytes [start, stop) of what is here, and raises BlockAbsent where they are not; not for blocks that
    are known to be bad. Raises BlockAbsent, CacheUnusable."""
    try:
        with _opened(place) as opened:
            yield opened.stored.bytes_at
    except (FileNotFoundError, Damaged):
        raise BlockAbsent(f"{place.state} has just been let go") from None
    except OSError as error:
        raise disk_error(error, f"the cache file {place.state}") from error


@contextlib.contextmanager
def _opened(place: BlobPaths) -> Iterator[BlobFiles]:
    if not os.path.exists(place.folder):
        raise FileNotFoundError(place.folder)
    with blob_locks(place) as locks:
        with locks.holding(HEADER):
            opened = BlobFiles(place, locks)
        with contextlib.closing(opened):
            yield opened


def _examined(
    opened: BlobFiles, digest: Digest | None, cancelled: Callable[[], bool], counted: Callable[[int], None]
) -> BlobCheck:
    state = opened.state
    mark = FileMark.of(opened.data)
    hasher = Hasher(digest, state.size) if digest is not None else None
    bad, counts, seen, blocks = list[int](), bytearray(), 0, 0
    for block in range(state.blocks):
        if cancelled():
            return BlobCheck(seen, blocks, tuple(runs(bad)), "", judged=False)
        count, data = _block(opened, block)
        if count:
            blocks += 1
            seen += block_length(block, state.size)
            counted(block_length(block, state.size))
        if count and data is None:
            bad.append(block)
        if hasher is not None and count and data is not None and len(counts) == block:
            hasher.update(data)
            counts.append(count)
    if bad:
        opened.clear_verified()
    whole = hasher is not None and len(counts) == state.blocks
    if not whole or hasher is None or digest is None:
        return BlobCheck(seen, blocks, tuple(runs(bad)), "", judged=True)
    if bytes(counts) != state.counts(0, state.blocks) or not opened.stored.complete:
        return BlobCheck(seen, blocks, (), "", judged=False)
    got = hasher.hexdigest()
    if got != digest.hex:
        opened.clear_verified()
    elif not opened.stored.verified:
        opened.stored.record_verified(digest, bytes(counts), mark, time.time())
    return BlobCheck(seen, blocks, (), got, judged=True)


def _block(opened: BlobFiles, block: int) -> tuple[int, bytes | None]:
    """A block's publication, 0 where it is absent, and its bytes, None where they are not those of its CRC."""
    state, length = opened.state, block_length(block, opened.state.size)
    for _ in range(_ROUNDS):
        before = state.presence(block, 1)
        if not before[0]:
            return 0, None
        try:
            data = os.pread(opened.data, length, block * BLOCK_SIZE)
        except OSError:
            data = b""  # an unreadable sector
        right = len(data) == length and (crc32(data),) == state.crcs(block, 1)
        if state.presence(block, 1) == before:
            return before[0], data if right else None
    return 0, None
