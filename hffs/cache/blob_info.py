"""The blobs of a cache directory one by one: what is stored of each, pinning and evicting them.

For operations on a whole cache: inventory, explicit eviction, checks. Reading creates and repairs nothing. Other
processes may use the same blobs: changes are made under the blobs' locks, and files are removed only when no process
has them open. Any thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from ..errors import CacheUnusable
from ..files import names_in
from ..model import Digest
from ..ranges import block_count
from .store import blob_files
from .store.blob_files import is_shared
from .store.layout import BlobPaths, Layout, disk_error
from .store.locks import HEADER
from .store.state_file import Damaged, FileMark, StateFile, StateHeader
from .store.stored_blob import StoredBlob

KeptReason = Literal["", "pinned", "in use", "elsewhere", "unreadable"]
_SUFFIXES: Final = (".data", ".state", ".lock")


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One copy of a blob. ``bytes_local`` counts its present blocks, ``bytes_disk`` the disk space of its files;
    ``last_used`` is in seconds since the epoch, the last write to its files where no use was recorded. ``verified`` is
    the digest it was verified to have. ``shared``: the data file has, or had, another name. ``unusable`` says why its
    files cannot be used; then etag, origin and size may be unknown. ``newer``: a newer hffs wrote them."""

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
    """Bytes of disk freed, and why some were kept: other processes use the file, or it has other names."""

    bytes: int
    kept: KeptReason = ""


def scan(layout: Layout) -> Iterator[BlobInfo]:
    """Yields every blob that has a data or state file, in the order of their folders. Raises CacheUnusable."""
    for paths in list_paths(layout):
        found = inspect(paths)
        if found is not None:
            yield found


def list_paths(layout: Layout) -> Iterator[BlobPaths]:
    """Yields the paths of every blob that has a file. Raises CacheUnusable when the blobs' folder cannot be listed."""
    try:
        firsts = sorted(os.listdir(layout.blobs))
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(error, f"the cache directory {layout.blobs}") from error
    for first in firsts:
        for etag in names_in(f"{layout.blobs}/{first}"):
            folder = f"{layout.blobs}/{first}/{etag}"
            stems = {name.rpartition(".")[0] for name in names_in(folder) if name.endswith(_SUFFIXES)}
            yield from (BlobPaths(folder, stem) for stem in sorted(stems) if stem)


def inspect(paths: BlobPaths) -> BlobInfo | None:
    """Reads what is stored of one blob; None where there is neither data nor state."""
    data, state = _stat(paths.data), _stat(paths.state)
    if data is None and state is None:
        return None
    disk = _allocated(paths.data, paths.state, paths.lock)
    written = max(each.st_mtime for each in (data, state) if each is not None)
    info = BlobInfo(paths, os.path.basename(paths.folder), "", data.st_size if data else 0, 0, disk, written)
    if state is None:
        return replace(info, unusable="there is no state file beside its data")
    try:
        file, header = StateFile.open(paths.state, writing=False)
    except FileNotFoundError:
        return None  # removed since
    except CacheUnusable as newer:
        return replace(info, unusable=newer.what, newer=True)
    except Damaged as damaged:
        return replace(info, unusable=f"its state file is damaged: {damaged}")
    except OSError as error:
        return replace(info, unusable=f"its state file cannot be read: {error.strerror}")
    with contextlib.closing(file):
        return _read(info, file, header, data)


def _read(info: BlobInfo, file: StateFile, header: StateHeader, data: os.stat_result | None) -> BlobInfo:
    info = replace(info, etag=header.etag, origin=header.origin, size=header.size, pinned=header.pinned)
    if data is None or data.st_size != header.size:
        problem = "is missing" if data is None else f"has {data.st_size} bytes instead of {header.size}"
        return replace(info, unusable=f"its data file {problem}")
    try:
        local, used = file.local_bytes(), max(file.last_uses(), default=0) & ~1  # the lowest bit: used repeatedly
    except OSError as error:
        return replace(info, unusable=f"its state file cannot be read: {error.strerror}")
    record = header.verification
    fits = record is not None and local == header.size and record.mark == FileMark.of(data)
    return replace(
        info,
        bytes_local=local,
        last_used=float(used) or info.last_used,
        verified=record.digest if record is not None and fits else None,
        shared=is_shared(data) or os.path.islink(info.paths.data),
    )


def open_files(layout: Layout) -> frozenset[str]:
    """Returns the files below the blobs' folder that any process has open, as far as /proc may be read (proc(5))."""
    below = f"{os.path.realpath(layout.blobs)}/"
    found = set()
    for pid in names_in("/proc"):
        if pid.isdigit():
            for number in names_in(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    path = os.readlink(f"/proc/{pid}/fd/{number}")
                    if path.startswith(below):
                        found.add(path)
    return frozenset(found)


def evict(info: BlobInfo, in_use: frozenset[str] = frozenset()) -> Freed:
    """Evicts a blob: all its blocks, and its files unless ``in_use`` (of ``open_files``) names them.

    Kept are pinned blobs, those that the kernel reads directly, and blocks being fetched. Raises CacheUnusable."""
    paths = info.paths
    if info.newer:
        return Freed(0, "unreadable")
    try:
        if info.unusable:
            return Freed(_remove_unusable(paths))
        with contextlib.closing(StoredBlob.open(paths)) as stored:
            if stored.pinned:
                return Freed(0, "pinned")
            if not stored.can_punch():
                return Freed(0, "in use")
            stored.discard(range(block_count(stored.size)))
            if in_use.isdisjoint(map(os.path.realpath, (paths.state, paths.data))):
                stored.remove_files()
            if info.shared and stored.linked:
                return Freed(0, "elsewhere")
            left = _allocated(paths.data, paths.state)
            return Freed(max(0, info.bytes_disk - left), "in use" if stored.local_bytes else "")
    except FileNotFoundError:
        return Freed(0)  # another process removed it
    except Damaged:
        return Freed(0, "unreadable")
    except OSError as error:
        raise disk_error(error, f"the cache file {paths.state}") from error


def pin(info: BlobInfo, pinned: bool) -> bool:
    """Protects a blob from eviction, or ends that; returns whether it changed. Raises CacheUnusable."""
    paths = info.paths
    try:
        with contextlib.closing(blob_files.open_locks(paths)) as locks, locks.holding(HEADER):
            state, header = StateFile.open(paths.state)
            with contextlib.closing(state):
                if header.pinned != pinned:
                    state.write_header(replace(header, pinned=pinned))
                return header.pinned != pinned
    except (FileNotFoundError, Damaged):
        return False
    except OSError as error:
        raise disk_error(error, f"the cache file {paths.state}") from error


def _remove_unusable(paths: BlobPaths) -> int:
    """Removes files that cannot be used, unless another process has created them anew; returns the bytes freed."""
    with contextlib.closing(blob_files.open_locks(paths)) as locks, locks.holding(HEADER):
        found = inspect(paths)
        if found is not None and (not found.unusable or found.newer):
            return 0
        before = _allocated(paths.state, paths.data)
        blob_files.remove(paths)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(paths.partial)
        return before


def allocated(infos: Iterable[BlobInfo]) -> int:
    """Returns the bytes of disk of these blobs, each counted once."""
    return sum({info.paths: info.bytes_disk for info in infos}.values())


def _allocated(*paths: str) -> int:
    """The disk space of files; a link to a file of another cache takes none."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += os.lstat(path).st_blocks * 512
    return total


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
