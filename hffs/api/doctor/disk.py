"""Whether the cache directory can be used, how much space it has, and whether its blobs are intact."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from typing import Final

from ...cache import Layout, blob_info, min_free_bytes
from ...cache.store.layout import file_system_of, is_unsupported
from ...config import Settings
from ...errors import HffsError
from .finding import Area, DoctorFinding

_AREA: Final = Area("cache")
_MIB: Final = 1 << 20
# A mount keeps a data, a state and a lock file open for each blob in use, and loaders open a few hundred at once.
_FEW_FILES: Final = 4096


def check(settings: Settings) -> Iterator[DoctorFinding]:
    layout = Layout(settings.cache_dir)
    exists = (layout.root / "version").exists()
    yield _usable(layout) if exists else _creatable(str(layout.root))
    yield from _space(str(layout.root), settings)
    if exists:
        yield _intact(layout)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < _FEW_FILES:
        yield _AREA.warn(f"at most {most} files may be open at once", "raise the limit: ulimit -Hn 65536, as root")


def _usable(layout: Layout) -> DoctorFinding:
    try:
        layout.prepare()
    except HffsError as error:
        return _AREA.fail(error.what, error.remedy)
    return _AREA.ok(f"{layout.root} works: locks and sparse files are supported")


def _creatable(root: str) -> DoctorFinding:
    """Checks the folder it would be created in, and creates nothing."""
    above = _existing(root)
    if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
        remedy = f"mkdir -p {root} as a user with that permission, or choose another --cache-dir"
        return _AREA.fail(f"{root} does not exist, and {above} cannot be written to", remedy)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        kind = file_system_of(os.path.realpath(above), file.read())
    if is_unsupported(kind):
        remedy = "choose a --cache-dir on a local disk (ext4, xfs, btrfs, tmpfs)"
        return _AREA.fail(f"{root} would be on {kind}, where locks and sparse files are not reliable", remedy)
    return _AREA.ok(f"{root} will be created by the first mount, on {kind or 'a local disk'}")


def _existing(path: str) -> str:
    """The path itself, or the first folder above it that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _space(root: str, settings: Settings) -> Iterator[DoctorFinding]:
    disk = os.statvfs(_existing(root))
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    keep = min_free_bytes(settings.min_free, total)
    space = f"{_size(free)} free, of which {_size(keep)} stay free"
    if free <= keep:
        remedy = "free some disk space, lower --min-free, or choose another --cache-dir"
        yield _AREA.warn(f"the disk is full: {space}", remedy)
    else:
        yield _AREA.ok(space)
    if settings.cache_size is not None:
        yield _AREA.ok(f"the cache is limited to {_size(settings.cache_size)}")


def _intact(layout: Layout) -> DoctorFinding:
    blobs = wrong = newer = size = 0
    for blob in blob_info.scan(layout):
        blobs += 1
        size += blob.bytes_disk
        newer += blob.newer
        wrong += bool(blob.unusable) and not blob.newer
    if wrong:
        return _AREA.warn(f"{wrong} of {blobs} blobs are damaged or unfinished", "hffs cache check --repair")
    if newer:
        return _AREA.warn(f"{newer} of {blobs} blobs were written by a newer hffs", "upgrade hffs")
    return _AREA.ok(f"{blobs} {'blob' if blobs == 1 else 'blobs'}, {_size(size)} on disk")


def _size(count: int) -> str:
    """Bytes as the command line writes them."""
    return f"{count / (1 << 30):.1f}G" if count >= 1 << 30 else f"{count / _MIB:.1f}M"
