"""The files of a blob as they are found, opened and made; and what a folder of files takes on the disk.

``blobs`` calls these with the blob's HEADER locked. Whatever is no good is begun anew, with a warning; what belongs to
somebody else (given away, or in huggingface_hub's cache) is opened for reading only. Any thread.
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
from .state_file import Damaged, FileMark, StateFile

_log = logging.getLogger(__name__)


def is_shared(seen: os.stat_result) -> bool:
    """Whether a data file is, or was, somebody else's file too; then it is never written or punched again.

    ``naming`` leaves it read-only, and that stays when the other name is gone: its user may have the file open."""
    return seen.st_nlink > 1 or not seen.st_mode & stat.S_IWUSR


def is_read_only(data: int) -> bool:
    """Whether a data file was opened for reading only, as one is that was given away, or that lies in somebody else's
    cache (``adopting``): the kernel itself refuses to write or punch it."""
    return fcntl.fcntl(data, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def open_existing(blob: Blob, place: BlobPaths, boot_id: str) -> tuple[StateFile, int] | None:
    """The files of a blob as they are; None, with a warning, where they are no good. HEADER is locked."""
    state: StateFile | None = None
    data = -1
    elsewhere = os.path.islink(place.data)
    try:
        state, header = StateFile.open(place.state)
        seen = os.stat(place.data)
        data = open_data(place, seen, elsewhere)
        length = os.fstat(data).st_size
        if not header.matches(blob):
            raise Damaged(f"it is of {header.size} bytes of {header.etag}")
        if length != blob.size and not elsewhere:
            raise Damaged(f"its data file has {length} bytes instead of {blob.size}")
        record = header.verification
        trusted = not elsewhere or (record is not None and record.mark == FileMark.of(data))
        if not trusted or ((elsewhere or is_shared(seen)) and state.missing(range(state.blocks))):
            _log.debug("event=blob-begun-anew state=%s why=%s", place.state, "its data file is also that of a folder")
            close(state, data)
            return None
        if header.boot_id != boot_id:
            # Whatever this boot finds written may have been lost with the last one's memory. Nothing is trusted
            # before its CRC was seen in this process anyway; the id tells other tools that a reboot lies between.
            state.write_header(replace(header, boot_id=boot_id))
        return state, data
    except (FileNotFoundError, Damaged) as reason:
        if (state is not None and not elsewhere) or isinstance(reason, Damaged):
            _log.warning("event=blob-begun-anew state=%s why=%s", place.state, reason)
    except BaseException:
        close(state, data)
        raise
    close(state, data)
    return None


def open_data(place: BlobPaths, seen: os.stat_result, elsewhere: bool) -> int:
    """Open a data file as its mode allows: one that was given away, or lies elsewhere, is never written. Raises
    Damaged, OSError."""
    try:
        if elsewhere:
            return os.open(place.data, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.O_RDWR if seen.st_mode & stat.S_IWUSR else os.O_RDONLY
        return os.open(place.data, mode | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError as error:
        if not (elsewhere or is_shared(seen)):
            raise
        raise Damaged("its data file was made unreadable under another name") from error


def create(blob: Blob, place: BlobPaths, boot_id: str) -> tuple[StateFile, int]:
    """New, empty files; a process that has the old ones open goes on with those. HEADER is locked.

    The state file comes last and goes first: where there is one, it speaks of the data file beside it."""
    for path in (place.state, place.data):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    data = os.open(place.data, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(data, blob.size)
        return StateFile.create(place.state, blob, boot_id), data
    except BaseException:
        os.close(data)
        with contextlib.suppress(OSError):
            os.unlink(place.data)
        raise


def close(state: StateFile | None, data: int) -> None:
    if state is not None:
        state.close()
    if data >= 0:
        os.close(data)


def allocated(folder: str) -> int:
    """Bytes of disk of all that is below a folder, folders included; what disappears meanwhile or may not be read
    counts nothing."""
    total, folders = 0, [folder]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
