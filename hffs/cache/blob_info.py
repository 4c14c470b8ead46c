"""What lies in a cache directory, blob by blob, and the ways to let it go or keep it.

For whoever looks at a whole cache: inventory, eviction by hand, checking. Looking makes and mends nothing.
Other processes may be at work on the very blobs: what is changed is changed under the locks of decision 3, and files go
only when nobody has them open. Any thread.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from ..errors import CacheUnusable
from ..model import Blob, Digest
from ..ranges import block_count
from .store.blob_files import is_shared
from .store.layout import BlobPaths, Layout, disk_error
from .store.locks import HEADER, OPEN_FLAGS, RangeLocks, try_exclusive
from .store.state_file import Damaged, FileMark, StateFile, StateHeader
from .store.stored_blob import StoredBlob

Kept = Literal["", "pinned", "in use", "elsewhere", "unreadable"]
_SUFFIXES: Final = (".data", ".state", ".lock")


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One copy of a blob. ``bytes_local`` are those of present blocks, ``bytes_disk`` what its files take on the disk;
    ``last_used`` is seconds since the epoch, of the data file's last write where no use was noted. ``verified`` is the
    digest that the whole was found to have and still has. ``elsewhere``: the data file has, or had, another name.
    ``wrong`` says why nothing of it can be used; then etag, origin and size may be unknown."""

    paths: BlobPaths
    etag: str
    origin: str
    size: int
    bytes_local: int
    bytes_disk: int
    last_used: float
    pinned: bool = False
    verified: Digest | None = None
    shared: bool = False
    unusable: str = ""
    newer: bool = False

    @property
    def complete(self) -> bool:
        return not self.unusable and self.bytes_local == self.size


@dataclass(frozen=True, slots=True)
class Freed:
    """Bytes of disk given back, and why some are kept: other processes or names have the file, as far as is known."""

    bytes: int
    kept: Kept = ""


def scan(layout: Layout) -> Iterator[BlobInfo]:
    """Every blob that has a data or state file here, in the order of their folders. Raises CacheUnusable."""
    for place in list_paths(layout):
        found = inspect(place)
        if found is not None:
            yield found


def list_paths(layout: Layout) -> Iterator[BlobPaths]:
    """Wherever a file of a blob lies. Raises CacheUnusable when the blobs' folder itself cannot be listed."""
    try:
        firsts = sorted(os.listdir(layout.blobs))
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(error, f"the cache directory {layout.blobs}") from error
    for first in firsts:
        for etag in _names(f"{layout.blobs}/{first}"):
            folder = f"{layout.blobs}/{first}/{etag}"
            stems = {name.rpartition(".")[0] for name in _names(folder) if name.endswith(_SUFFIXES)}
            yield from (BlobPaths(folder, stem) for stem in sorted(stems) if stem)


def inspect(place: BlobPaths) -> BlobInfo | None:
    """One blob as it is; None where there is neither data nor state."""
    seen = {path: _stat(path) for path in (place.data, place.state, place.lock)}
    data, state = seen[place.data], seen[place.state]
    if data is None and state is None:
        return None
    disk = sum(map(_disk, seen))
    name = os.path.basename(place.folder)
    written = max(each.st_mtime for each in (data, state) if each is not None)
    nothing = BlobInfo(place, name, "", data.st_size if data else 0, 0, disk, written)
    if state is None:
        return replace(nothing, unusable="there is no state file beside its data")
    try:
        file, header = StateFile.open(place.state, writing=False)
    except FileNotFoundError:
        return None  # it has just gone
    except CacheUnusable as newer:
        return replace(nothing, unusable=newer.what, newer=True)
    except Damaged as damaged:
        return replace(nothing, unusable=f"its state file is damaged: {damaged}")
    except OSError as error:
        return replace(nothing, unusable=f"its state file cannot be read: {error.strerror}")
    with contextlib.closing(file):
        return _read(nothing, file, header, data, written)


def _read(
    nothing: BlobInfo, file: StateFile, header: StateHeader, data: os.stat_result | None, written: float
) -> BlobInfo:
    known = replace(nothing, etag=header.etag, origin=header.origin, size=header.size, pinned=header.pinned)
    if data is None or data.st_size != header.size:
        found = "is missing" if data is None else f"has {data.st_size} bytes instead of {header.size}"
        return replace(known, unusable=f"its data file {found}")
    try:
        local, used = file.local_bytes(), max(file.last_uses(), default=0) & ~1  # the lowest bit says: used again
    except OSError as error:
        return replace(known, unusable=f"its state file cannot be read: {error.strerror}")
    record = header.verification
    fits = record is not None and local == header.size and record.mark == _mark(data)
    return replace(
        known,
        bytes_local=local,
        last_used=float(used) or written,
        verified=record.digest if record is not None and fits else None,
        shared=is_shared(data) or os.path.islink(nothing.paths.data),
    )


def open_files(layout: Layout) -> frozenset[str]:
    """The files below the blobs' folder that are open in any process, as far as those may be looked at (proc(5))."""
    below = f"{os.path.realpath(layout.blobs)}/"
    found = set()
    for pid in _names("/proc"):
        if pid.isdigit():
            for number in _names(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    path = os.readlink(f"/proc/{pid}/fd/{number}")
                    if path.startswith(below):
                        found.add(path)
    return frozenset(found)


def evict(holding: BlobInfo, in_use: frozenset[str] = frozenset()) -> Freed:
    """Let a blob go, whole: its blocks at once, its files unless ``in_use`` (of ``busy``) names them. Pinned ones stay.

    What is being fetched just now stays, too, as does all of one that the kernel reads directly. Raises CacheUnusable.
    """
    place = holding.paths
    if holding.newer:
        return Freed(0, "unreadable")
    try:
        with blob_locks(place) as locks:
            if holding.unusable:
                return Freed(_remove_wrong(place, locks))
            with contextlib.closing(_stored(place, locks)) as opened:
                if opened.header.pinned:
                    return Freed(0, "pinned")
                with try_exclusive(opened.data) as alone:
                    if not alone:
                        return Freed(0, "in use")
                opened.stored.discard(range(block_count(opened.state.size)))
                if _real(place.state) not in in_use and _real(place.data) not in in_use:
                    opened.remove_empty()
                if holding.shared and os.fstat(opened.data).st_nlink:
                    return Freed(0, "elsewhere")
                left = sum(_disk(path) for path in (place.data, place.state))
                return Freed(max(0, holding.bytes_disk - left), "in use" if opened.state.local_bytes() else "")
    except FileNotFoundError:
        return Freed(0)  # somebody else was faster
    except Damaged:
        return Freed(0, "unreadable")
    except OSError as error:
        raise disk_error(error, f"the cache file {place.state}") from error


def pin(holding: BlobInfo, pinned: bool) -> bool:
    """Protect a blob from every eviction, or no longer; whether that was a change. Raises CacheUnusable."""
    try:
        with blob_locks(holding.paths) as locks, locks.holding(HEADER):
            state, header = StateFile.open(holding.paths.state)
            with contextlib.closing(state):
                if header.pinned == pinned:
                    return False
                state.write_header(replace(header, pinned=pinned))
                return True
    except (FileNotFoundError, Damaged):
        return False
    except OSError as error:
        raise disk_error(error, f"the cache file {holding.paths.state}") from error


class BlobFiles:
    """The files of one blob, as they are. Close it."""

    def __init__(self, place: BlobPaths, locks: RangeLocks) -> None:
        """Raises OSError, Damaged, CacheUnusable."""
        self.paths = place
        self._locks = locks
        self.state, self.header = StateFile.open(place.state)
        try:
            # As its mode allows: one that was given away is never written, nor what lies in another cache.
            seen = os.lstat(place.data)
            ours = stat.S_ISREG(seen.st_mode)
            mode = os.O_RDWR | os.O_NOFOLLOW if ours and seen.st_mode & stat.S_IWUSR else os.O_RDONLY | os.O_NONBLOCK
            self.data = os.open(place.data, mode | os.O_CLOEXEC)
        except BaseException:
            self.state.close()
            raise
        blob = Blob(self.header.etag, self.header.size, self.header.origin)
        ignore = lambda _: None  # noqa: E731 - nobody counts in this process
        self.stored = StoredBlob(blob, self.state, self.data, locks, clock=time.time, changed=ignore, closed=ignore)

    def clear_verified(self) -> None:
        """It was found wrong, so whoever wrote that it is verified erred: the kernel may not read it by itself any
        more, and it is hashed when it is used next."""
        with self._locks.holding(HEADER), contextlib.suppress(Damaged):
            header = self.state.header()
            if header.verification is not None:
                self.state.write_header(replace(header, verification=None))

    def remove_empty(self) -> None:
        """The files of a blob of which nothing is here; state first, as BlobStore makes it last."""
        with self._locks.holding(HEADER):
            if self.state.local_bytes():
                return
            for path, fd in ((self.paths.state, self.state.fd), (self.paths.data, self.data)):
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(path), os.fstat(fd)):
                        os.unlink(path)

    def close(self) -> None:
        self.stored.force_close()


def _stored(place: BlobPaths, locks: RangeLocks) -> BlobFiles:
    with locks.holding(HEADER):
        return BlobFiles(place, locks)


@contextlib.contextmanager
def blob_locks(place: BlobPaths) -> Iterator[RangeLocks]:
    """The locks of a blob, for as long as the block lasts. Raises OSError."""
    locks = RangeLocks(os.open(place.lock, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600))
    try:
        yield locks
    finally:
        locks.close()


def _remove_wrong(place: BlobPaths, locks: RangeLocks) -> int:
    """Files of which nothing can be used; looked at once more, for somebody may just have begun it anew."""
    with locks.holding(HEADER):
        found = inspect(place)
        if found is not None and (not found.unusable or found.newer):
            return 0
        before = sum(_disk(path) for path in (place.state, place.data))
        for path in (place.state, place.data, f"{place.folder}/{place.origin_id}.new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return before


def allocated(holdings: Iterable[BlobInfo]) -> int:
    """Bytes of disk that these take together, each counted once."""
    return sum({holding.paths: holding.bytes_disk for holding in holdings}.values())


def _mark(seen: os.stat_result) -> FileMark:
    return FileMark(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def _disk(path: str) -> int:
    """What a file of ours takes: a link to another cache's takes nothing of it."""
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _real(path: str) -> str:
    return str(Path(path).resolve())


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
