"""Checking one copy of a blob on disk: every block by its CRC, the whole by its hash, in one pass.

Earlier results are not trusted, and nothing is dropped, so that the caller can report first. A right blob is recorded
as verified, a wrong one no longer counts as verified. What other processes change meanwhile is not judged. Any thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...errors import BlockAbsent
from ...model import Digest
from ...ranges import block_count, block_length, runs
from ..store.digest import Hasher
from ..store.layout import BlobPaths, disk_errors
from ..store.state_file import Damaged
from ..store.stored_blob import StoredBlob


@dataclass(frozen=True, slots=True)
class BlobCheck:
    """``bytes`` and ``blocks`` count what was present; ``bad`` are the runs of blocks that do not match their CRC;
    ``got`` is the hash of the whole, in hex, where all of it was present and sound. ``judged`` is False when other
    processes changed it meanwhile, or the check was cancelled: then nothing is known of the whole."""

    bytes: int = 0
    blocks: int = 0
    bad: tuple[range, ...] = ()
    got: str = ""
    judged: bool = True


def check_blob(
    paths: BlobPaths,
    digest: Digest | None,
    cancelled: Callable[[], bool] = lambda: False,
    counted: Callable[[int], None] = lambda _: None,
) -> BlobCheck:
    """Checks all present blocks. ``cancelled`` is called before each block, ``counted`` with the bytes of each.

    Raises CacheUnusable for a state file of a newer version, or one that cannot be read."""
    with _opened(paths) as stored:
        return BlobCheck(judged=False) if stored is None else _check(stored, digest, cancelled, counted)


def drop_blocks(paths: BlobPaths, bad: tuple[range, ...] = ()) -> bool:
    """Makes these blocks absent, or all where none are given; returns whether they are. Raises CacheUnusable."""
    with _opened(paths) as stored:
        if stored is None:
            return True
        for run in bad or (range(block_count(stored.size)),):
            stored.discard(run)
        return all(stored.missing(run) == [run] for run in bad) if bad else not stored.local_bytes


def is_record_outdated(paths: BlobPaths, *, clear: bool) -> bool:
    """Whether the data file was written after its content was verified: it is verified again when it is used. ``clear``
    removes such a record. Raises CacheUnusable."""
    with _opened(paths) as stored:
        return stored is not None and stored.is_record_outdated(clear=clear)


@contextlib.contextmanager
def open_reader(paths: BlobPaths) -> Iterator[Callable[[int, int], bytes]]:
    """Yields a function that reads bytes [start, stop), and raises BlockAbsent where they are not local; not for blocks
    known to be bad. Raises BlockAbsent, CacheUnusable."""
    with _opened(paths) as stored:
        if stored is None:
            raise BlockAbsent(f"{paths.state} has just been evicted")
        yield stored.bytes_at


@contextlib.contextmanager
def _opened(paths: BlobPaths) -> Iterator[StoredBlob | None]:
    """Yields the blob; None when it has just been evicted, or replaced."""
    with disk_errors(f"the cache file {paths.state}"):
        try:
            stored = StoredBlob.open(paths)
        except (FileNotFoundError, Damaged):
            yield None
        else:
            with contextlib.closing(stored):
                yield stored


def _check(
    stored: StoredBlob, digest: Digest | None, cancelled: Callable[[], bool], counted: Callable[[int], None]
) -> BlobCheck:
    mark, size = stored.mark(), stored.size
    hasher = Hasher(digest, size) if digest is not None else None
    bad, counts, seen, blocks = list[int](), bytearray(), 0, 0
    everything = range(block_count(size))
    for block in everything:
        if cancelled():
            return BlobCheck(seen, blocks, tuple(runs(bad)), judged=False)
        checked = stored.check_block(block)
        if not checked.publication:
            continue
        blocks += 1
        seen += block_length(block, size)
        counted(block_length(block, size))
        if checked.data is None:
            bad.append(block)
        elif hasher is not None and len(counts) == block:
            hasher.update(checked.data)
            counts.append(checked.publication)
    if bad:
        stored.clear_verified()
    if hasher is None or digest is None or len(counts) < len(everything):
        return BlobCheck(seen, blocks, tuple(runs(bad)))
    if counts != stored.publications(everything) or not stored.complete:
        return BlobCheck(seen, blocks, judged=False)
    got = hasher.hexdigest()
    if got != digest.hex:
        stored.clear_verified()
    elif not stored.verified:
        stored.record_verified(digest, bytes(counts), mark, time.time())
    return BlobCheck(seen, blocks, got=got)
