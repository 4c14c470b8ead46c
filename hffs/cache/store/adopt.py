"""A blob of huggingface_hub's cache taken for ours: shared where the file system can, else read where it lies.

Hashed first, whole; what is not what its name says is not used. Then the blob is ours in one of two ways:

- a reflink, which parts from the other file at the first write of either side; or
- a symbolic link in place of the data file, and all that is known of the content beside it. Such a file is opened for
  reading only, so the kernel itself refuses every write and hole, and it is trusted only as long as device, inode, size
  and times are those it had when it was hashed (``unchanged``).

Called by BlobStore. Any thread.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from ...errors import CacheUnusable
from ...model import Blob, Digest
from ...ranges import BLOCK_SIZE, block_count
from ..hf_cache.export import reflink
from ..hf_cache.hub_cache import HubBlob
from .digest import Hasher
from .layout import BlobPaths
from .locks import HEADER, OPEN_FLAGS, RangeLocks
from .state_file import GROUP, Damaged, FileMark, StateFile, StateHeader, VerificationRecord
from .stored_blob import StoredBlob

# What came of it: ``held``: it is here already; ``busy``: somebody fetches it at this moment, or writes the other file;
# ``stopped``: given up on the way.
AdoptOutcome = Literal["reflink", "in place", "held", "absent", "wrong", "busy", "stopped"]
_STEP: Final = 4 * BLOCK_SIZE  # 1 MiB, as for hashing
# A fetch of 16 MiB at 10 MB/s takes 1.6 s; a reader who waits as long for a block that is free notices a hiccup.
_GRAB_S: Final = 2.0
_PAUSE_S: Final = 0.05  # between two looks, as of a fetcher who finds blocks busy


def adopt(
    place: BlobPaths,
    blob: Blob,
    digest: Digest,
    found: HubBlob,
    *,
    boot_id: str,
    now: float,
    held: Callable[[], StoredBlob | None],
    cancelled: Callable[[], bool],
    patience: float,
) -> AdoptOutcome:
    """Hash what was ``found`` and make it the blob at ``place``. ``held`` gives that blob, held open, where this
    process uses it; it goes on with the new files. ``patience`` is for whoever fetches some of it, in seconds.

    Raises CacheUnusable, OSError."""
    os.makedirs(place.folder, mode=0o700, exist_ok=True)
    clone = _cloned(place.folder, found.fd)
    data = found.fd if clone is None else clone
    try:
        before = FileMark.of(data)
        crcs = _hashed(data, blob.size, digest, cancelled)
        if crcs is None:
            return "stopped" if cancelled() else "busy" if FileMark.of(data) != before else "wrong"
        os.fdatasync(data)
        if FileMark.of(data) != before:
            return "busy"
        locks = RangeLocks(os.open(place.lock, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600))
        try:
            if not _all_locked(locks, block_count(blob.size), patience, cancelled):
                return "stopped" if cancelled() else "busy"
            with locks.holding(HEADER):
                pinned = _pinned(place, blob)
                if pinned is None:
                    return "held"
                state = _exchanged(place, blob, found.path if clone is None else None, data, boot_id)
                try:
                    _fill(state, crcs, now)
                    # A clone has just got its name, which changes ctime; nobody else can have written to it.
                    mark = before if clone is None else FileMark.of(data)
                    record = VerificationRecord(digest, int(now), mark)
                    state.write_header(replace(state.header(), verification=record, pinned=pinned))
                    opened = held()  # only now: it may have been opened while this was hashed
                    if opened is not None:
                        with contextlib.closing(opened):
                            opened.swap_files(state.fd, data)
                except Damaged as error:  # of what was written this moment
                    raise CacheUnusable(
                        f"the cache file {place.state} is damaged: {error}", "check the disk"
                    ) from error
                finally:
                    state.close()
        finally:
            locks.close()
    finally:
        if clone is not None:
            os.close(clone)
    return "in place" if clone is None else "reflink"


def is_unchanged(place: BlobPaths, header: StateHeader) -> bool:
    """Whether the data file is the one that was verified, and nobody has written to it since."""
    record = header.verification
    if record is None:
        return False
    try:
        fd = os.open(place.data, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return FileMark.of(fd) == record.mark
    finally:
        os.close(fd)


def _all_locked(locks: RangeLocks, blocks: int, patience: float, cancelled: Callable[[], bool]) -> bool:
    """Lock every block, for the caller to close ``locks``: nobody publishes, drops or punches any from then on.

    A reader who reads ahead has some of them locked at every moment. So what is free is kept while the others come free
    with the fetches that are under way, of which no new one can begin; nobody waits for a block while he has another,
    so this ends. But no longer than a moment: a server may have fallen silent, and readers wait for the rest."""
    ends = time.monotonic() + patience
    while True:
        left, until = [range(blocks)], time.monotonic() + min(patience, _GRAB_S)
        taken: list[range] = []
        while left:
            busy: list[range] = []
            for run in left:
                got, others = locks.try_acquire(run)
                taken += got
                busy += others
            left = busy
            if left and (time.monotonic() >= until or cancelled()):
                break
            if left:
                time.sleep(_PAUSE_S)
        if not left:
            return True
        for run in taken:
            locks.release(run)
        if time.monotonic() >= ends or cancelled():
            return False
        time.sleep(_PAUSE_S)


def _cloned(folder: str, source: int) -> int | None:
    """A file without a name that shares all blocks of ``source``; None where the file system cannot do that."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    if reflink(source, fd):
        return fd
    os.close(fd)
    return None


def _hashed(fd: int, size: int, digest: Digest, cancelled: Callable[[], bool]) -> array[int] | None:
    """The CRC of each block; None when the content is not the digest's, or was not looked at to the end."""
    hasher, crcs = Hasher(digest, size), array("I")
    buffer = memoryview(bytearray(_STEP))
    while hasher.hashed < size:
        want = min(_STEP, size - hasher.hashed)
        if cancelled() or os.preadv(fd, [buffer[:want]], hasher.hashed) != want:
            return None
        crcs.extend(zlib.crc32(buffer[at : min(at + BLOCK_SIZE, want)]) for at in range(0, want, BLOCK_SIZE))
        hasher.update(buffer[:want])
    return crcs if hasher.hexdigest() == digest.hex else None


def _pinned(place: BlobPaths, blob: Blob) -> bool | None:
    """Whether the blob that is to be replaced is pinned; None when it need not be replaced. HEADER is locked."""
    try:
        state, header = StateFile.open(place.state, writing=False)
    except (FileNotFoundError, Damaged):
        return False
    try:
        if not header.matches(blob):
            return False
        whole = not state.missing(range(state.blocks))
        if whole and (is_unchanged(place, header) if os.path.islink(place.data) else os.path.exists(place.data)):
            return None
        return header.pinned
    finally:
        state.close()


def _exchanged(place: BlobPaths, blob: Blob, link: str | None, data: int, boot_id: str) -> StateFile:
    """New files at the blob's place, of which nothing counts as present yet. HEADER is locked.

    The state file goes first and comes last, as in BlobStore; who has the old ones open goes on with those."""
    for path in (place.state, place.data):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    if link is not None:
        os.symlink(link, place.data)
    else:
        folder = os.open(place.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # with a descriptor of the folder Python calls linkat(2), which can name a file that has no name
            os.link(f"/proc/self/fd/{data}", os.path.basename(place.data), dst_dir_fd=folder)
        finally:
            os.close(folder)
    return StateFile.create(place.state, blob, boot_id)


def _fill(state: StateFile, crcs: array[int], now: float) -> None:
    every = range(state.blocks)
    counts = state.next_counts(every)
    state.set_crcs(0, crcs)
    for group in range(-(-state.blocks // GROUP)):  # else it seems never used, and goes first
        state.record_use(group, min(max(int(now), 0), 0xFFFF_FFFF))
    state.set_present(0, counts)
    os.fdatasync(state.fd)
