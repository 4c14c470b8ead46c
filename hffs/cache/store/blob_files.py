"""The files of one blob: opening and creating them; and the disk use of a folder.

The blob's HEADER is locked by the callers. Files that other programs own (linked into a folder, or in huggingface_hub's
cache) are opened for reading only. Any thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
from dataclasses import replace

from ...model import Blob
from .layout import BlobPaths
from .locks import OPEN_FLAGS, RangeLocks
from .state_file import Damaged, FileMark, StateFile, StateHeader

_log = logging.getLogger(__name__)


def is_shared(seen: os.stat_result) -> bool:
    """Whether a data file has, or had, another name; then it is never written or punched again.

    ``StoredBlob.linking`` makes it read-only, and it stays so when the other name is removed: the user may have the
    file open."""
    return seen.st_nlink > 1 or not seen.st_mode & stat.S_IWUSR


def is_read_only(data: int) -> bool:
    """Whether a data file was opened for reading only, as one that is shared, or in another cache (``adopt``): the
    kernel itself refuses to write or punch it."""
    return fcntl.fcntl(data, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def open_locks(paths: BlobPaths) -> RangeLocks:
    """Opens, or creates, a blob's lock file. Raises OSError."""
    return RangeLocks(os.open(paths.lock, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600))


def open_files(paths: BlobPaths) -> tuple[StateFile, StateHeader, int]:
    """Opens the state and data file as they are. Raises FileNotFoundError, Damaged, CacheUnusable, OSError."""
    state, header = StateFile.open(paths.state)
    try:
        return state, header, _open_data(paths)
    except BaseException:
        state.close()
        raise


def open_existing(blob: Blob, paths: BlobPaths, boot_id: str) -> tuple[StateFile, int] | None:
    """Opens the files of a blob; None, with a warning, where they cannot be used. Raises CacheUnusable, OSError."""
    try:
        state, header, data = open_files(paths)
    except (FileNotFoundError, Damaged) as reason:
        # Without a data file the state is of no use; where that is a link, its target was removed by its owner.
        if isinstance(reason, Damaged) or (os.path.exists(paths.state) and not os.path.islink(paths.data)):
            _log.warning("event=blob-begun-anew state=%s why=%s", paths.state, reason)
        return None
    try:
        linked, seen = os.path.islink(paths.data), os.fstat(data)
        if not header.matches(blob):
            raise Damaged(f"it is of {header.size} bytes of {header.etag}")
        if seen.st_size != blob.size and not linked:
            raise Damaged(f"its data file has {seen.st_size} bytes instead of {blob.size}")
        record = header.verification
        trusted = not linked or (record is not None and record.mark == FileMark.of(seen))
        if not trusted or ((linked or is_shared(seen)) and state.missing(range(state.blocks))):
            _log.debug("event=blob-begun-anew state=%s why=%s", paths.state, "its data file is also that of a folder")
        else:
            if header.boot_id != boot_id:
                # Data written before a reboot may be lost. Each block's CRC is checked at its first read in a process
                # in any case; the id tells other tools that the machine was rebooted in between.
                state.write_header(replace(header, boot_id=boot_id))
            return state, data
    except Damaged as reason:
        _log.warning("event=blob-begun-anew state=%s why=%s", paths.state, reason)
    except BaseException:
        close(state, data)
        raise
    close(state, data)
    return None


def _open_data(paths: BlobPaths) -> int:
    """Opens a data file as its mode allows: one that is shared, or in another cache, is never written."""
    seen = os.lstat(paths.data)
    linked = stat.S_ISLNK(seen.st_mode)
    try:
        if linked:
            return os.open(paths.data, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.O_RDWR if seen.st_mode & stat.S_IWUSR else os.O_RDONLY
        return os.open(paths.data, mode | OPEN_FLAGS)
    except PermissionError as error:
        if not (linked or is_shared(seen)):
            raise
        raise Damaged("its data file was made unreadable under another name") from error


def create(blob: Blob, paths: BlobPaths, boot_id: str) -> tuple[StateFile, int]:
    """Creates new, empty files; a process that has the old ones open continues with those. Raises OSError.

    The state file is created last and removed first: where there is one, it describes the data file beside it."""
    remove(paths)
    data = os.open(paths.data, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(data, blob.size)
        return StateFile.create(paths.state, blob, boot_id), data
    except BaseException:
        os.close(data)
        with contextlib.suppress(OSError):
            os.unlink(paths.data)
        raise


def remove(paths: BlobPaths) -> None:
    """Removes the state file, then the data file, where they exist. Raises OSError."""
    for path in (paths.state, paths.data):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def close(state: StateFile, data: int) -> None:
    state.close()
    os.close(data)


def allocated(folder: str) -> int:
    """Returns the bytes of disk of everything below a folder, folders included; what disappears meanwhile or may not be
    read counts nothing."""
    total, folders = 0, [folder]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
