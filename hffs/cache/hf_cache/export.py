"""Plain files out of the cache: a blob's content under a name of the user's, shared with the cache where it can be.

Reflinked where the file system can (the two part ways at the first write), else a big file is one more name of the
cache's data file, read-only, which nobody here writes or punches from then on (``stored.given_away``); else copied.
Called for blobs that are whole and verified. It fetches and verifies nothing and chooses no names. Any thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Final, Literal

from ...errors import BlockAbsent, HffsError, NameRefused, NoSpace
from ..store.blob_files import is_read_only
from ..store.layout import disk_error
from ..store.stored_blob import StoredBlob

ExportMethod = Literal["reflink", "link", "copy", "same"]
# People edit configs and tokenizers in place, and an edit of a linked file is one of the cache; 16 MiB holds all of
# those, and copying as much takes some 10 ms. Weights are above it, and nobody edits those by hand.
COPY_BELOW: Final = 16 << 20
_FICLONE: Final = 0x40049409  # linux/fs.h, _IOW(0x94, 9, int); ioctl_ficlonerange(2)
_STEP: Final = 1 << 20  # 1 MiB a read, as for hashing: more gains nothing, and readers get their turn at the GIL
# As many processes may lay one file at once. One that was killed leaves its place to the next, so no more names than
# these are ever left over.
_PLACES: Final = 16
_LONGEST: Final = 236  # bytes of a name that leave room for the sign of a temporary one within NAME_MAX (255)
_TEMPORARY: Final = re.compile(r"\..*\.hffs-[0-9]+(\.link)?\Z", re.DOTALL)


def export_file(stored: StoredBlob, destination: str, *, copy_below: int = COPY_BELOW) -> ExportMethod:
    """Put a plain file of the blob's content at ``destination``, at once or not at all; how that was done.

    Folders above it are made; a file or link that is there is replaced, unless it is the cache's own file already
    ("same"). Blobs of fewer than ``copy_below`` bytes are not linked. Raises BlockAbsent for a blob that is not whole
    or was changed meanwhile, HffsError for one not verified, NoSpace, CacheUnusable."""
    try:
        before = stored.fingerprint()
        with stored.linking() as ready:  # alone, or it seems changed while another gives it a name
            data = None if ready is None else stored.dup_fd()  # nobody punches it as long as we have that
        if data is None:
            raise _unready(stored)
        try:
            return _put(stored, data, before, destination, copy_below)
        finally:
            os.close(data)
    except OSError as error:
        raise _failed(error, destination) from error


def safe_below(root: str, name: str) -> str:
    """Where a file that somebody else named lies below the folder ``root``, symbolic links on the way resolved.

    Raises NameRefused for what is no plain relative path, for what leads outside, through a link inside ``root`` too,
    and for names of our temporary files. The last part may be a link: ``export_file`` replaces it."""
    parts = name.split("/")
    if "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise NameRefused(f"{name!r} cannot be laid in a folder", "it must be a plain relative path")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise NameRefused(f"{name!r} is not valid Unicode") from None
    if any(_TEMPORARY.match(part) for part in parts):
        raise NameRefused(f"{name!r} is what hffs calls its temporary files")
    inside = os.path.realpath(root)
    folder = os.path.realpath(os.path.join(inside, *parts[:-1]))
    if folder != inside and not folder.startswith(inside.rstrip("/") + "/"):
        raise NameRefused(f"{name!r} leads out of {root} through a symbolic link", "remove that link")
    return os.path.join(folder, parts[-1])


# The three ways


def _put(stored: StoredBlob, data: int, before: object, destination: str, copy_below: int) -> ExportMethod:
    """``before`` is the stamp of the blob that is to be laid, ``data`` its file."""
    folder, name = os.path.split(os.path.abspath(destination))
    _make_folders(folder)
    with _opened(folder) as place:
        if _same(place, name, os.fstat(data)):
            return "same"
        with _temporary(place, name) as (file, temporary):
            reflinked = reflink(data, file)
            if not reflinked:
                if stored.size >= copy_below and _link(stored, place, name, temporary, file):
                    return "link"
                _copy(stored, file)
            if stored.fingerprint() != before:
                raise BlockAbsent(f"{stored.blob.etag} was changed while it was copied", "ask for it again")
            _remove(place, temporary + ".link")  # of a killed process; while that name is still ours
            os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
            return "reflink" if reflinked else "copy"


def reflink(data: int, file: int) -> bool:
    """Let ``file`` share all blocks of ``data``, each to part at the first write; False where that cannot be."""
    try:
        fcntl.ioctl(file, _FICLONE, data)
    except OSError:  # most file systems cannot, none can across disks; what is really wrong the other ways find too
        return False
    return True


def _link(stored: StoredBlob, place: int, name: str, temporary: str, file: int) -> bool:
    """False where no link can be made. ``file``, ours under the name ``temporary``, keeps others from that of the link
    and knows the umask, which only the kernel can be asked for safely."""
    link = temporary + ".link"
    with stored.linking() as data:
        if data is None:
            raise _unready(stored)
        if is_read_only(data) and os.fstat(data).st_mode & 0o222:
            return False  # it lies in somebody else's cache, whose modes are not ours to change
        _remove(place, link)  # of a killed process
        try:
            # By the descriptor, not by the path: another process may have put another file there.
            os.link(f"/proc/self/fd/{data}", link, dst_dir_fd=place)
        except OSError:  # another file system, one without links, or too many of them
            return False
        mode = stat.S_IMODE(os.fstat(data).st_mode)
        try:
            # Read-only so that no editor changes the cache unasked; never less than an earlier link has.
            os.fchmod(data, (mode | os.fstat(file).st_mode) & 0o444)
            os.rename(link, name, src_dir_fd=place, dst_dir_fd=place)
        except BaseException:
            os.fchmod(data, mode)
            raise
        finally:
            _remove(place, link)  # still there when ``name`` came to be a link too: rename(2) then does nothing
    return True


def _copy(stored: StoredBlob, file: int) -> None:
    """By ours and not the kernel's reading, which would not see that a block is damaged; across file systems, where
    big files come here, copy_file_range(2) does not work anyway."""
    os.ftruncate(file, 0)
    for offset in range(0, stored.size, _STEP):
        left = memoryview(stored.read(offset, _STEP))
        while left:
            left = left[os.write(file, left) :]


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
        with contextlib.suppress(FileExistsError):  # by another thread; a file there is found out at opening
            os.mkdir(each, 0o755)


@contextlib.contextmanager
def _temporary(place: int, name: str) -> Iterator[tuple[int, str]]:
    """A new file beside the final one and its name; gone in the end, unless it was renamed.

    It is locked (flock(2)) while its process lives: what is not locked was left by one that was killed."""
    stem = name if len(os.fsencode(name)) <= _LONGEST else hashlib.sha256(os.fsencode(name)).hexdigest()
    for number in range(_PLACES):
        temporary = f".{stem}.hffs-{number}"
        file = _take(place, temporary)
        if file is not None:
            break
    else:
        raise HffsError(
            f"{_PLACES} others are writing the file {name} at this moment",
            f"wait for them, or remove .{stem}.hffs-* where none is running",
        )
    try:
        yield file, temporary
    finally:
        try:
            if _same(place, temporary, os.fstat(file)):
                _remove(place, temporary)
        finally:
            os.close(file)


def _take(place: int, temporary: str) -> int | None:
    """A new file of this name, locked; None when a living process has it."""
    for _ in range(3):  # another comes between creation and lock; twice in a row is already unheard of
        try:
            file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=place)
        except FileExistsError:
            if not _clear(place, temporary):
                return None
            continue
        try:
            if _lock(file, without=True) and _same(place, temporary, os.fstat(file)):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    return None


def _clear(place: int, temporary: str) -> bool:
    """Remove a file whose process died; False when it lives, or that cannot be known."""
    try:
        left = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    except FileNotFoundError:
        return True
    except OSError:  # a symbolic link, or somebody else's
        return False
    try:
        if not stat.S_ISREG(os.fstat(left).st_mode) or not _lock(left, without=False):
            return False
        if _same(place, temporary, os.fstat(left)):
            _remove(place, temporary)
        return True
    finally:
        os.close(left)


def _lock(file: int, *, without: bool) -> bool:
    """Whether it is locked for us; ``without`` where the file system has no such locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without
    return True


def _same(place: int, name: str, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=place, follow_symlinks=False), file)
    except FileNotFoundError:
        return False


def _remove(place: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place)


# Failures


def _unready(stored: StoredBlob) -> HffsError:
    if not stored.complete:
        return BlockAbsent(f"{stored.blob.etag} is not wholly in the cache", "hydrate it first")
    return HffsError(f"{stored.blob.etag} in the cache has not been verified", "verify it first")


def _failed(error: OSError, destination: str) -> HffsError:
    failure = disk_error(error, f"the file {destination}")
    if isinstance(failure, NoSpace):
        return NoSpace(failure.what, "free some disk space or choose another folder")
    return type(failure)(failure.what, "see that its folder can be written, or choose another")
