"""The paths of a cache directory, whether a directory can be a cache, and the translation of its I/O errors.

Etags come from servers and are never trusted as names. It opens no blob. No state, any thread.

    <cache dir>/version  CACHEDIR.TAG  index/
    <cache dir>/blobs/<first 2 of etag>/<etag>/<origin>.{data,state,lock}
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from ...errors import CacheUnusable, HffsError, NoSpace
from ...files import atomic_write
from . import extents, locks

FORMAT_VERSION: Final = 1
# https://bford.info/cachedir/: backup programs skip directories that hold this file.
_CACHEDIR_TAG: Final = "Signature: 8a477f597d28d172789f06886806bc55\n# This directory is the cache of hffs.\n"
_PLAIN_ETAG: Final = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,127}\Z")
# Their locks are local to one machine, not kept, or emulated; those of FUSE depend on its server.
_UNSUPPORTED: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse", "fuseblk", "virtiofs"})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_ESCAPED: Final = re.compile(r"\\([0-3][0-7]{2})")  # blanks, tabs and backslashes in mountinfo (proc(5))


@dataclass(frozen=True, slots=True)
class BlobPaths:
    """The files of one blob of one origin."""

    folder: str
    origin_id: str

    @property
    def data(self) -> str:
        return f"{self.folder}/{self.origin_id}.data"

    @property
    def state(self) -> str:
        return f"{self.folder}/{self.origin_id}.state"

    @property
    def lock(self) -> str:
        return f"{self.folder}/{self.origin_id}.lock"

    @property
    def partial(self) -> str:
        """A state file that is being created."""
        return f"{self.folder}/{self.origin_id}.new"


class Layout:
    """The paths of one cache directory."""

    def __init__(self, cache_dir: str | os.PathLike[str]) -> None:
        self.root = Path(cache_dir).absolute()
        self.blobs = self.root / "blobs"
        self.index = self.root / "index"

    def prepare(self, mountinfo: str | os.PathLike[str] = "/proc/self/mountinfo") -> None:
        """Creates the directories, version and tag. Raises CacheUnusable where this cannot be a cache, NoSpace."""
        with disk_errors(f"the cache directory {self.root}"):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            self._check_file_system(mountinfo)
            if not self._has_version():
                atomic_write(self.root / "version", f"{FORMAT_VERSION}\n")
            for folder in (self.blobs, self.index):
                folder.mkdir(mode=0o700, exist_ok=True)
            tag = self.root / "CACHEDIR.TAG"
            if not tag.exists():
                atomic_write(tag, _CACHEDIR_TAG)
            self._probe()

    def paths(self, etag: str, origin: str) -> BlobPaths:
        """Returns the paths of the blob that this origin lists with this etag, stored or not."""
        return BlobPaths(self.folder(etag), origin_id(origin))

    def folder(self, etag: str) -> str:
        """Returns the folder of all copies of an etag."""
        name = etag_name(etag)
        return f"{self.blobs}/{name[:2]}/{name}"

    def copies(self, etag: str) -> list[BlobPaths]:
        """Returns the copies of this etag of any origin that have a state file. Raises OSError but for absence."""
        folder = self.folder(etag)
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [BlobPaths(folder, name.removesuffix(".state")) for name in sorted(names) if name.endswith(".state")]

    def check_version(self) -> None:
        """Raises CacheUnusable when a newer hffs wrote this cache; for callers that only read it."""
        self._has_version()

    def _has_version(self) -> bool:
        """Whether the directory has a readable version. Raises CacheUnusable for a newer one, OSError."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            found = int((self.root / "version").read_text("ascii"))
            if found > FORMAT_VERSION:
                raise CacheUnusable(
                    f"the cache {self.root} was written by a newer hffs (format {found})",
                    "upgrade hffs or choose another --cache-dir",
                )
            return True
        return False

    def _check_owner(self) -> None:
        """Raises CacheUnusable where other users could change what the mounts show. Root may use another user's
        directory, which it was asked to."""
        found = self.root.stat()
        remedy = f"choose a --cache-dir of your own, for example {self.root}/hffs"
        if found.st_uid != os.geteuid() != 0:
            raise CacheUnusable(f"the cache directory {self.root} belongs to another user", remedy)
        if found.st_mode & stat.S_IWOTH:
            raise CacheUnusable(
                f"every user may write to the cache directory {self.root}", f"chmod o-w it, or {remedy}"
            )

    def _check_file_system(self, mountinfo: str | os.PathLike[str]) -> None:
        try:
            mounts = Path(mountinfo).read_text("utf-8", "surrogateescape")
        except OSError:  # no /proc: only the probe can tell
            return
        kind = file_system_of(os.path.realpath(self.root), mounts)
        if is_unsupported(kind):
            raise _unsupported(self.root, kind)

    def _probe(self) -> None:
        """Tries a lock and a hole on an unlinked file. A full disk proves nothing and is accepted."""
        try:
            fd, temporary = tempfile.mkstemp(dir=self.root, prefix=".probe.")
        except OSError as error:
            if error.errno in _FULL:
                return
            raise
        try:
            os.unlink(temporary)
            os.truncate(fd, 1 << 16)
            if not locks.try_lock(fd, 0, 1):
                raise CacheUnusable(f"a lock on a new file in {self.root} is refused", "choose another --cache-dir")
            extents.punch(fd, 0, 1 << 12)
        except OSError as error:
            if error.errno in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK}:
                raise _unsupported(self.root, "one without range locks or holes") from error
            raise
        finally:
            os.close(fd)


def is_unsupported(kind: str) -> bool:
    """Whether a file system of this type, as named in mountinfo, cannot hold a cache."""
    return kind in _UNSUPPORTED or kind.startswith("fuse.")


def _unsupported(root: Path, kind: str) -> CacheUnusable:
    return CacheUnusable(
        f"the cache directory {root} is on a file system of type {kind}, where locks and holes cannot be relied on",
        "choose a --cache-dir on a local disk (ext4, xfs, btrfs, tmpfs)",
    )


def etag_name(etag: str) -> str:
    """Returns a file name for an etag: itself where harmless, else ``=`` (in no harmless one) and its sha256."""
    if _PLAIN_ETAG.match(etag):
        return etag
    return "=" + hashlib.sha256(etag.encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache(maxsize=64)  # one or two endpoints, needed with every file
def origin_id(origin: str) -> str:
    """Returns a file name for an origin (scheme://host[:port]): the first 16 hex digits of its sha256."""
    return hashlib.sha256(origin.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def file_system_of(path: str, mountinfo: str) -> str:
    """Returns the type of the file system that holds an absolute, resolved path: of the deepest mount, the latest of
    equals; empty when none fits. ``mountinfo`` is the text of /proc/self/mountinfo (proc(5))."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        before, found, after = line.partition(" - ")
        fields = before.split(" ")
        if not found or len(fields) < 5:
            continue
        where = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if len(where) >= best and (where in {"/", path} or path.startswith(where + "/")):
            best, kind = len(where), after.split(" ", 1)[0]
    return kind


def disk_error(error: OSError, what: str) -> HffsError:
    """Translates an OSError of the local disk; ``what`` names the file or directory."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return NoSpace(f"no space left for {what}", "free some disk space or choose another --cache-dir")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return CacheUnusable(f"{what} cannot be written: {reason}", "fix its permissions or choose another --cache-dir")
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return CacheUnusable(f"{what} cannot be opened: {reason}", "raise the limit of open files (ulimit -n)")
    return CacheUnusable(f"{what} cannot be used: {reason}", "check the disk, or choose another --cache-dir")


class disk_errors:  # noqa: N801 - used as a function
    """A context that raises OSErrors as ``disk_error`` translates them; may be entered again, by any thread."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if isinstance(error, OSError):
            raise self.translate(error) from error

    def translate(self, error: OSError) -> HffsError:
        return disk_error(error, self._what)
