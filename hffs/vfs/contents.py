"""The content of a node: a directory, or one of five kinds of file.

A file of a snapshot, a literal (bytes made by hffs), a symbolic link, a member of an archive, or a file of the local
disk. Small frozen values with the same methods: how large they are, how they are opened, what extended attributes they
have. ``may_wait`` is whether one of these could ask the network; the kernel binding keeps such requests off the threads
that serve everything else.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Protocol

from ..errors import AccessDenied, EntryNotFound, HffsError, IsDirectory, NotFound
from ..model import Entry
from ..transfer import BlobReader
from .snapshot import MountedSnapshot


class PendingRead(Protocol):
    """A read that waits. ``result`` blocks; ``take``, after the callback, returns the bytes, or None when the callback
    is to come again. Raises what the read failed with. The callback runs on another thread and must only hand over."""

    def add_done_callback(self, callback: Callable[[PendingRead], None], /) -> None: ...
    def take(self) -> bytes | None: ...
    def result(self, timeout: float | None = None) -> bytes: ...
    def cancel(self) -> None: ...


class FileReader(Protocol):
    """An open file. ``read`` returns fewer bytes than asked for only at the end of the file. ``dup_fd`` returns a
    descriptor that the kernel may read the whole content from, for the caller to close; None: there is none."""

    def read(self, offset: int, length: int, /) -> bytes | PendingRead: ...
    def dup_fd(self) -> int | None: ...
    def close(self) -> None: ...


class PageCache(Enum):
    """What the kernel may keep of a content: pages, names and attributes for as long as it likes; pages until the next
    open and attributes not at all; or nothing (FOPEN_DIRECT_IO: each handle reads what its own open found)."""

    KEEP = "keep"
    DROP_AT_OPEN = "drop at open"
    BYPASS = "bypass"


@dataclass(frozen=True, slots=True)
class ContentStat:
    """``local`` counts bytes on this disk; ``lasting``: nothing of this can change any more."""

    size: int
    local: int
    mtime: float
    lasting: bool


class Content(Protocol):
    """What a node is. ``format`` is its S_IFMT bits."""

    format: ClassVar[int]

    @property
    def page_cache(self) -> PageCache: ...
    @property
    def may_wait(self) -> bool: ...
    def stat(self) -> ContentStat: ...
    def open(self) -> FileReader: ...
    def xattrs(self) -> Mapping[str, str]:
        """By name, without the prefix ``user.hffs.``."""


class _LocalContent:
    """What contents have in common that need no network."""

    __slots__ = ()
    format: ClassVar[int] = stat.S_IFREG

    @property
    def page_cache(self) -> PageCache:
        return PageCache.KEEP

    @property
    def may_wait(self) -> bool:
        return False

    def xattrs(self) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True, slots=True)
class Directory(_LocalContent):
    """``snapshot``: the one it is a directory of, if any. ``fixed``: its names, and the names it does not have, never
    change, so that the kernel may keep both; else it sends LOOKUP for each use of a name."""

    snapshot: MountedSnapshot | None = None
    fixed: bool = True
    mtime: float = 0.0

    format: ClassVar[int] = stat.S_IFDIR

    @property
    def page_cache(self) -> PageCache:
        return PageCache.KEEP if self.fixed else PageCache.DROP_AT_OPEN

    def stat(self) -> ContentStat:
        mtime = self.mtime if self.snapshot is None else self.snapshot.commit.date
        return ContentStat(0, 0, mtime, self.fixed)

    def open(self) -> FileReader:
        raise IsDirectory("a directory cannot be opened as a file")

    def xattrs(self) -> Mapping[str, str]:
        return {} if self.snapshot is None else {"commit": self.snapshot.commit.sha}


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A file of a commit. Waits for the network where the listing lacks its size or etag, once."""

    snapshot: MountedSnapshot
    entry: Entry

    format: ClassVar[int] = stat.S_IFREG
    page_cache: ClassVar[PageCache] = PageCache.KEEP

    @property
    def may_wait(self) -> bool:
        return self.entry.size is None or self.entry.etag is None

    def stat(self) -> ContentStat:
        files = self.snapshot.files
        entry = files.sized(self.entry)
        size, local = entry.size or 0, files.local_bytes(entry)
        return ContentStat(size, local, files.commit.date, local >= size)

    def open(self) -> BlobReader:
        return self.snapshot.files.open(self.entry)

    def xattrs(self) -> Mapping[str, str]:
        files = self.snapshot.files
        entry = files.sized(self.entry)
        digest, state = entry.digest(), files.state(entry)
        found = {"commit": files.commit.sha}
        if entry.etag is not None:
            found["etag"] = entry.etag
        if digest is not None and digest.algorithm == "sha256":
            found["sha256"] = digest.hex
        found["local_bytes"] = str(files.local_bytes(entry))
        found["state"] = state
        found["hash"] = "none" if digest is None else f"{digest.algorithm} {entry.etag_from}"
        if state in ("verified", "failed"):
            found["verification"] = state
        elif digest is None:
            found["verification"] = "none"
        else:
            found["verification"] = "passed" if files.stream_verified(entry) else "pending"
        return found


@dataclass(frozen=True, slots=True)
class LiteralFile(_LocalContent):
    """Bytes made by hffs. ``changing``: a later open may find others, as of a branch that moves; a handle reads to its
    end what its own open found."""

    data: bytes
    changing: bool = False
    mtime: float = 0.0

    @property
    def page_cache(self) -> PageCache:
        return PageCache.BYPASS if self.changing else PageCache.KEEP

    def stat(self) -> ContentStat:
        return ContentStat(len(self.data), len(self.data), self.mtime, not self.changing)

    def open(self) -> BytesReader:
        return BytesReader(self.data)


@dataclass(frozen=True, slots=True)
class Symlink(_LocalContent):
    target: str
    mtime: float = 0.0

    format: ClassVar[int] = stat.S_IFLNK

    def stat(self) -> ContentStat:
        size = len(os.fsencode(self.target))
        return ContentStat(size, size, self.mtime, True)

    def open(self) -> FileReader:
        raise NotFound("a symbolic link cannot be opened as a file")  # the kernel follows links by itself


@dataclass(frozen=True, slots=True)
class ArchiveMember(_LocalContent):
    """A member of an archive: ``opener`` returns a reader of its bytes, of which ``size`` is the number."""

    size: int
    opener: Callable[[], FileReader]
    mtime: float = 0.0

    def stat(self) -> ContentStat:
        return ContentStat(self.size, self.size, self.mtime, True)

    def open(self) -> FileReader:
        return self.opener()


@dataclass(frozen=True, slots=True)
class DiskFile(_LocalContent):
    """A regular file of this machine's disk, by its absolute path. It belongs to the user and may change."""

    path: str

    @property
    def page_cache(self) -> PageCache:
        return PageCache.DROP_AT_OPEN

    def stat(self) -> ContentStat:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise _unreadable(self.path, error) from None
        return ContentStat(found.st_size, found.st_size, found.st_mtime, lasting=False)

    def open(self) -> DiskReader:
        return DiskReader(self.path)


class BytesReader:
    """Reads bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def dup_fd(self) -> int | None:
        return None

    def close(self) -> None:
        """Nothing to release."""


class DiskReader:
    """Reads a file of the disk by a descriptor. Raises EntryNotFound, AccessDenied, HffsError when it is made."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            # O_NONBLOCK: opening a FIFO that took the file's place must not wait.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _unreadable(path, error) from None
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.close()
            raise HffsError(f"{path} is not a regular file")

    def read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise _unreadable(self._path, error) from None

    def dup_fd(self) -> int | None:
        return os.dup(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def _unreadable(path: str, error: OSError) -> HffsError:
    what = f"{path} cannot be read: {error.strerror}"
    if error.errno == errno.ENOENT:
        return EntryNotFound(what)
    return AccessDenied(what) if error.errno == errno.EACCES else HffsError(what)
