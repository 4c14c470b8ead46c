"""Adopting a blob of another cache: shared with it where the file system can, else read in place.

All of it is hashed first; content that does not match its name is not used. Then the blob is stored in one of two ways:

- a reflink (copy-on-write: a write to either file leaves the other unchanged); or
- a symbolic link in place of the data file, with its own state file beside it. Such a file is opened for reading only,
  so the kernel itself refuses every write and hole, and it is trusted only while its device, inode, size and times are
  those it was hashed with (``is_unchanged``).

Called by BlobStore. Any thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from ...model import Blob, Digest
from ...ranges import BLOCK_SIZE, block_count
from . import blob_files
from .checksum import crc32
from .digest import hash_file
from .extents import reflink
from .layout import BlobPaths
from .locks import HEADER, RangeLocks
from .state_file import GROUP, Damaged, FileMark, StateFile, StateHeader, VerificationRecord
from .stored_blob import StoredBlob

# ``held``: it is stored already; ``busy``: a process fetches it at this moment, or writes the other file;
# ``stopped``: cancelled.
AdoptOutcome = Literal["reflink", "in place", "held", "absent", "wrong", "busy", "stopped"]
# A fetch of 16 MiB at 10 MB/s takes 1.6 s; a reader that waits as long for a block that is free notices a hiccup.
_LOCK_S: Final = 2.0
_PAUSE_S: Final = 0.05  # between two attempts, as of a fetcher that finds blocks busy


@dataclass(frozen=True, slots=True)
class ForeignBlob:
    """An open blob of another cache, for the caller to close, and its path with all links resolved."""

    fd: int
    path: str
    mark: FileMark


class ForeignRepo(Protocol):
    """A repo in another cache, from which blobs are adopted."""

    def open(self, etag: str, size: int) -> ForeignBlob | None: ...

    def has(self, etag: str, size: int) -> bool: ...


def adopt(
    paths: BlobPaths,
    blob: Blob,
    digest: Digest,
    found: ForeignBlob,
    *,
    boot_id: str,
    now: float,
    held: Callable[[], StoredBlob | None],
    cancelled: Callable[[], bool],
    patience: float,
) -> AdoptOutcome:
    """Hashes ``found`` and makes it the blob at ``paths``. ``held`` returns that blob, held open, where this process
    uses it; it continues with the new files. ``patience``: seconds to wait for processes that fetch some of it.

    Raises CacheUnusable, OSError."""
    os.makedirs(paths.folder, mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        clone = _clone(paths.folder, found.fd)
        if clone is not None:
            stack.callback(os.close, clone)
        data = found.fd if clone is None else clone
        before, crcs = FileMark.of(data), array("I")

        def sum_up(chunk: memoryview) -> None:
            crcs.extend(crc32(chunk[at : at + BLOCK_SIZE]) for at in range(0, len(chunk), BLOCK_SIZE))

        if hash_file(data, digest, blob.size, cancelled, sum_up) != digest.hex:
            return "stopped" if cancelled() else "busy" if FileMark.of(data) != before else "wrong"
        os.fdatasync(data)
        if FileMark.of(data) != before:
            return "busy"
        locks = stack.enter_context(contextlib.closing(blob_files.open_locks(paths)))
        if not _lock_all(locks, block_count(blob.size), patience, cancelled):
            return "stopped" if cancelled() else "busy"
        with locks.holding(HEADER):
            pinned = _pinned(paths, blob)
            if pinned is None:
                return "held"
            state = _create(paths, blob, found.path if clone is None else None, data, boot_id)
            try:
                _fill(state, crcs, now)
                # A clone has just got its name, which changes ctime; no other program can have written to it.
                mark = before if clone is None else FileMark.of(data)
                header = StateHeader.of(blob, boot_id, pinned, VerificationRecord(digest, int(now), mark))
                state.write_header(header)
                opened = held()  # only now: it may have been opened while this was hashed
                if opened is not None:
                    with contextlib.closing(opened):
                        opened.swap_files(state.fd, data)
            finally:
                state.close()
    return "in place" if clone is None else "reflink"


def is_unchanged(paths: BlobPaths, header: StateHeader) -> bool:
    """Whether the data file is the one that was verified, not written to since."""
    record = header.verification
    if record is None:
        return False
    try:
        fd = os.open(paths.data, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return FileMark.of(fd) == record.mark
    finally:
        os.close(fd)


def _lock_all(locks: RangeLocks, blocks: int, patience: float, cancelled: Callable[[], bool]) -> bool:
    """Locks every block, for the caller to close ``locks``: nothing is published, dropped or punched from then on.

    A reader that reads ahead has some of them locked at every moment. So the free ones are kept while the others are
    released by the fetches under way, of which no new one can begin; a fetch that holds blocks waits for no other, so
    this ends. But it keeps them for a moment only: a server may have stopped sending, and readers wait for the rest."""
    deadline = time.monotonic() + patience
    while True:
        left, until = [range(blocks)], time.monotonic() + min(patience, _LOCK_S)
        acquired: list[range] = []
        while True:
            tried = [locks.try_acquire(run) for run in left]
            acquired += [run for got, _ in tried for run in got]
            left = [run for _, busy in tried for run in busy]
            if not left:
                return True
            if time.monotonic() >= until or cancelled():
                break
            time.sleep(_PAUSE_S)
        for run in acquired:
            locks.release(run)
        if time.monotonic() >= deadline or cancelled():
            return False
        time.sleep(_PAUSE_S)


def _clone(folder: str, source: int) -> int | None:
    """Creates an unnamed file that shares all blocks of ``source``; None where the file system cannot do that."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    if reflink(source, fd):
        return fd
    os.close(fd)
    return None


def _pinned(paths: BlobPaths, blob: Blob) -> bool | None:
    """Whether the blob that is to be replaced is pinned; None when it is complete already. HEADER is locked."""
    try:
        state, header = StateFile.open(paths.state, writing=False)
    except (FileNotFoundError, Damaged):
        return False
    with contextlib.closing(state):
        if not header.matches(blob):
            return False
        complete = not state.missing(range(state.blocks))
        if complete and (is_unchanged(paths, header) if os.path.islink(paths.data) else os.path.exists(paths.data)):
            return None
        return header.pinned


def _create(paths: BlobPaths, blob: Blob, link: str | None, data: int, boot_id: str) -> StateFile:
    """Creates the files, with every block absent; processes that have old ones open continue with those. HEADER is
    locked."""
    blob_files.remove(paths)
    if link is not None:
        os.symlink(link, paths.data)
    else:
        folder = os.open(paths.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # with a descriptor of the folder Python calls linkat(2), which can give an unnamed file a name
            os.link(f"/proc/self/fd/{data}", os.path.basename(paths.data), dst_dir_fd=folder)
        finally:
            os.close(folder)
    return StateFile.create(paths.state, blob, boot_id)


def _fill(state: StateFile, crcs: array[int], now: float) -> None:
    """Makes every block present."""
    counts = state.next_counts(range(state.blocks))
    state.set_crcs(0, crcs)
    for group in range(-(-state.blocks // GROUP)):  # else it seems never used, and is evicted first
        state.record_use(group, int(now))
    state.set_present(0, counts)
    os.fdatasync(state.fd)
