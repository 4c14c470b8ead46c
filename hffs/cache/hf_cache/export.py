"""Exporting blobs as plain files: a blob's content under a name of the user's, shared with the cache where possible.

Reflinked where the file system can (the two part at the first write), else a big file is a further name of the cache's
data file, read-only, which hffs never writes or punches again (``blob_files.is_shared``); else copied. Blobs must be
complete and verified. It fetches and verifies nothing and chooses no names. Any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Final, Literal

from ...errors import BlockAbsent, HffsError, NameRefused, NoSpace
from ...files import write_all
from ..store.blob_files import is_read_only
from ..store.digest import STEP
from ..store.extents import reflink
from ..store.layout import disk_error
from ..store.locks import try_flock
from ..store.stored_blob import StoredBlob

ExportMethod = Literal["reflink", "link", "copy", "same"]
# Users edit configs and tokenizers in place, and an edit of a linked file edits the cache; 16 MiB covers all of those,
# and copying as much takes some 10 ms. Weights are bigger, and not edited by hand.
COPY_BELOW: Final = 16 << 20
# This many processes may export one file at once. The name of a killed one is reused, so no more are ever left over.
_PARALLEL: Final = 16
_LONGEST: Final = 236  # bytes of a name that leave NAME_MAX (255) space for the marks of a temporary one
_TEMPORARY: Final = re.compile(r"\..*\.hffs-[0-9]+(\.link)?\Z", re.DOTALL)


def export_file(stored: StoredBlob, destination: str, *, copy_below: int = COPY_BELOW) -> ExportMethod:
    """Writes a plain file of the blob's content at ``destination``, atomically; returns how.

    Folders above it are created; an existing file or link is replaced, unless it is the cache's own file already
    ("same"). Blobs of fewer than ``copy_below`` bytes are not linked. Raises BlockAbsent for a blob that is not
    complete or was changed meanwhile, HffsError for one not verified, NoSpace, CacheUnusable."""
    try:
        before = stored.fingerprint()
        with stored.linking() as ready:  # HEADER is held: else it seems changed while another process links it
            data = None if ready is None else stored.dup_fd()  # no process punches it while that is open
        if data is None:
            raise _unready(stored)
        try:
            return _put(stored, data, before, destination, copy_below)
        finally:
            os.close(data)
    except OSError as error:
        raise _failed(error, destination) from error


def safe_below(root: str, name: str) -> str:
    """Returns the path of the untrusted ``name`` below the folder ``root``, symbolic links on the way resolved.

    Raises NameRefused for anything but a plain relative path, for a path that leads outside, also through a link inside
    ``root``, and for names of temporary files. The last part may be a link: ``export_file`` replaces it."""
    parts = name.split("/")
    if "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise NameRefused(f"{name!r} cannot be written to a folder", "it must be a plain relative path")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise NameRefused(f"{name!r} is not valid Unicode") from None
    if any(_TEMPORARY.match(part) for part in parts):
        raise NameRefused(f"{name!r} is reserved for temporary files of hffs")
    inside = os.path.realpath(root)
    folder = os.path.realpath(os.path.join(inside, *parts[:-1]))
    if folder != inside and not folder.startswith(inside.rstrip("/") + "/"):
        raise NameRefused(f"{name!r} leads out of {root} through a symbolic link", "remove that link")
    return os.path.join(folder, parts[-1])


# Reflink, link or copy


def _put(stored: StoredBlob, data: int, before: object, destination: str, copy_below: int) -> ExportMethod:
    """``before`` is the fingerprint of the blob, ``data`` its file."""
    folder, name = os.path.split(os.path.abspath(destination))
    _make_folders(folder)
    with _opened(folder) as folder_fd:
        if _same(folder_fd, name, os.fstat(data)):
            return "same"
        with _temporary(folder_fd, name) as (file, temporary):
            reflinked = reflink(data, file)
            if not reflinked:
                if stored.size >= copy_below and _link(stored, folder_fd, name, temporary, file):
                    return "link"
                _copy(stored, file)
            if stored.fingerprint() != before:
                raise BlockAbsent(f"{stored.blob.etag} was changed while it was copied", "ask for it again")
            _remove(folder_fd, temporary + ".link")  # of a killed process; while that name is still ours
            os.rename(temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
            return "reflink" if reflinked else "copy"


def _link(stored: StoredBlob, folder_fd: int, name: str, temporary: str, file: int) -> bool:
    """Returns False where no link can be made. ``file``, locked under the name ``temporary``, reserves the link's name,
    and its mode shows the umask, which only the kernel can tell safely."""
    link = temporary + ".link"
    with stored.linking() as data:
        if data is None:
            raise _unready(stored)
        if is_read_only(data) and os.fstat(data).st_mode & 0o222:
            return False  # a file of another cache, whose mode must not change
        _remove(folder_fd, link)  # of a killed process
        try:
            # By the descriptor, not by the path: another process may have replaced the file.
            os.link(f"/proc/self/fd/{data}", link, dst_dir_fd=folder_fd)
        except OSError:  # another file system, one without links, or too many of them
            return False
        mode = stat.S_IMODE(os.fstat(data).st_mode)
        try:
            # Read-only so that no editor changes the cache unasked; never less than an earlier link has.
            os.fchmod(data, (mode | os.fstat(file).st_mode) & 0o444)
            os.rename(link, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except BaseException:
            os.fchmod(data, mode)
            raise
        finally:
            _remove(folder_fd, link)  # still there when ``name`` came to be a link too: rename(2) then does nothing
    return True


def _copy(stored: StoredBlob, file: int) -> None:
    """Copies by ``read``, which detects damaged blocks as the kernel does not; across file systems, the usual case for
    big files, copy_file_range(2) does not work anyway."""
    os.ftruncate(file, 0)
    for offset in range(0, stored.size, STEP):
        write_all(file, stored.read(offset, STEP))


# Names


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _make_folders(folder: str) -> None:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # by another thread; opening fails where it is a file
            os.mkdir(each, 0o755)


@contextlib.contextmanager
def _temporary(folder_fd: int, name: str) -> Iterator[tuple[int, str]]:
    """Yields a new file beside the final one and its name; removed at the end, unless it was renamed.

    It is locked (flock(2)) while its process lives: an unlocked one was left by a killed process."""
    stem = name if len(os.fsencode(name)) <= _LONGEST else hashlib.sha256(os.fsencode(name)).hexdigest()
    for number in range(_PARALLEL):
        temporary = f".{stem}.hffs-{number}"
        file = _take(folder_fd, temporary)
        if file is not None:
            break
    else:
        raise HffsError(
            f"{_PARALLEL} other processes are writing the file {name}",
            f"wait for them, or remove .{stem}.hffs-* where none is running",
        )
    try:
        yield file, temporary
    finally:
        try:
            if _same(folder_fd, temporary, os.fstat(file)):
                _remove(folder_fd, temporary)
        finally:
            os.close(file)


def _take(folder_fd: int, temporary: str) -> int | None:
    """Creates and locks a file of this name; None when a living process has it."""
    for _ in range(3):  # another process may interfere between creation and lock; twice in a row has never been seen
        try:
            file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder_fd)
        except FileExistsError:
            if not _clear(folder_fd, temporary):
                return None
            continue
        try:
            if _lock(file, without=True) and _same(folder_fd, temporary, os.fstat(file)):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    return None


def _clear(folder_fd: int, temporary: str) -> bool:
    """Removes the file of a dead process; False when it lives, or that cannot be known."""
    try:
        left = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except FileNotFoundError:
        return True
    except OSError:  # a symbolic link, or another user's file
        return False
    try:
        if not stat.S_ISREG(os.fstat(left).st_mode) or not _lock(left, without=False):
            return False
        if _same(folder_fd, temporary, os.fstat(left)):
            _remove(folder_fd, temporary)
        return True
    finally:
        os.close(left)


def _lock(file: int, *, without: bool) -> bool:
    """Whether the file is locked now; ``without`` where the file system has no such locks."""
    try:
        return try_flock(file)
    except OSError:
        return without


def _same(folder_fd: int, name: str, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=folder_fd, follow_symlinks=False), file)
    except FileNotFoundError:
        return False


def _remove(folder_fd: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder_fd)


# Failures


def _unready(stored: StoredBlob) -> HffsError:
    if not stored.complete:
        return BlockAbsent(f"{stored.blob.etag} is not complete in the cache", "hydrate it first")
    return HffsError(f"{stored.blob.etag} in the cache has not been verified", "verify it first")


def _failed(error: OSError, destination: str) -> HffsError:
    failure = disk_error(error, f"the file {destination}")
    if isinstance(failure, NoSpace):
        return NoSpace(failure.what, "free some disk space or choose another folder")
    return type(failure)(failure.what, "check that its folder can be written, or choose another")
