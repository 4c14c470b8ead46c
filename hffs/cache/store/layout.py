"""Where everything lies in a cache directory, whether the directory can be one, and what its I/O errors mean.

``prepare`` is called once by whoever opens the cache; the other rooms of the cache ask here for paths. Etags come from
servers and are never trusted as names. It never opens a blob. No state, any thread.

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
from . import holes, locks

FORMAT_VERSION: Final = 1
# https://bford.info/cachedir/: backup programs leave out directories that hold this file.
_CACHEDIR_TAG: Final = "Signature: 8a477f597d28d172789f06886806bc55\n# This directory is the cache of hffs.\n"
_PLAIN_ETAG: Final = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,127}\Z")
# Locks of these are local to one machine, or not kept, or emulated; FUSE servers each do as they like.
_UNFIT: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse", "fuseblk", "virtiofs"})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_ESCAPED: Final = re.compile(r"\\([0-3][0-7]{2})")  # how mountinfo writes blanks, tabs and backslashes (proc(5))


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


class Layout:
    """The paths of one cache directory."""

    def __init__(self, cache_dir: str | os.PathLike[str]) -> None:
        self.root = Path(cache_dir).absolute()
        self.blobs = self.root / "blobs"
        self.index = self.root / "index"

    def prepare(self, mountinfo: str | os.PathLike[str] = "/proc/self/mountinfo") -> None:
        """Make the directories and marks, or say why this cannot be a cache. Raises CacheUnusable, NoSpace."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._refuse_others()
            self._refuse_unfit_file_system(mountinfo)
            self._agree_on_version()
            for folder in (self.blobs, self.index):
                folder.mkdir(mode=0o700, exist_ok=True)
            tag = self.root / "CACHEDIR.TAG"
            if not tag.exists():
                self._write(tag, _CACHEDIR_TAG)
            self._probe()
        except OSError as error:
            raise disk_error(error, f"the cache directory {self.root}") from error

    def paths(self, etag: str, origin: str) -> BlobPaths:
        """Where the blob of this etag, vouched for by this origin, lies or would lie."""
        return BlobPaths(self.folder(etag), origin_id(origin))

    def folder(self, etag: str) -> str:
        """The folder of all copies of an etag."""
        name = etag_name(etag)
        return f"{self.blobs}/{name[:2]}/{name}"

    def copies(self, etag: str) -> list[BlobPaths]:
        """The copies of this etag that have a state file, whatever their origin. Raises OSError but for absence."""
        folder = self.folder(etag)
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [BlobPaths(folder, name.removesuffix(".state")) for name in sorted(names) if name.endswith(".state")]

    def check_version(self) -> None:
        """For who only looks, and makes nothing. Raises CacheUnusable when a newer hffs wrote this cache."""
        self._is_marked()

    def _agree_on_version(self) -> None:
        if not self._is_marked():
            self._write(self.root / "version", f"{FORMAT_VERSION}\n")

    def _is_marked(self) -> bool:
        """Whether a version is named here that we know. Raises CacheUnusable, OSError."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            found = int((self.root / "version").read_text("ascii"))
            if found > FORMAT_VERSION:
                raise CacheUnusable(
                    f"the cache {self.root} was written by a newer hffs (format {found})",
                    "upgrade hffs or choose another --cache-dir",
                )
            return True
        return False

    def _write(self, path: Path, text: str) -> None:
        """A small file that is there whole or not at all."""
        fd, temporary = tempfile.mkstemp(dir=self.root, prefix=f".{path.name}.")
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def _refuse_others(self) -> None:
        """Who can write here decides what the mounts of this user hold. Root may use another's: he asked for it."""
        found = self.root.stat()
        remedy = f"choose a --cache-dir of your own, {self.root}/hffs for one"
        if found.st_uid != os.geteuid() != 0:
            raise CacheUnusable(f"the cache directory {self.root} belongs to another user", remedy)
        if found.st_mode & stat.S_IWOTH:
            raise CacheUnusable(
                f"every user may write to the cache directory {self.root}", f"chmod o-w it, or {remedy}"
            )

    def _refuse_unfit_file_system(self, mountinfo: str | os.PathLike[str]) -> None:
        try:
            mounts = Path(mountinfo).read_text("utf-8", "surrogateescape")
        except OSError:  # no /proc: the probe is all there is to go by
            return
        kind = file_system_of(os.path.realpath(self.root), mounts)
        if is_unsupported(kind):
            raise _unfit(self.root, kind)

    def _probe(self) -> None:
        """Try a lock and a hole on a file of no name. A full disk proves nothing and is no reason to refuse."""
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
            holes.punch(fd, 0, 1 << 12)
        except OSError as error:
            if error.errno in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK}:
                raise _unfit(self.root, "one without range locks or holes") from error
            raise
        finally:
            os.close(fd)


def is_unsupported(kind: str) -> bool:
    """Whether a file system of this type, as mountinfo calls it, cannot hold a cache."""
    return kind in _UNFIT or kind.startswith("fuse.")


def _unfit(root: Path, kind: str) -> CacheUnusable:
    return CacheUnusable(
        f"the cache directory {root} is on a file system of type {kind}, where locks and holes cannot be relied on",
        "choose a --cache-dir on a local disk (ext4, xfs, btrfs, tmpfs)",
    )


def etag_name(etag: str) -> str:
    """A file name for an etag: itself where harmless, else its sha256 behind a sign that no harmless one contains."""
    if _PLAIN_ETAG.match(etag):
        return etag
    return "=" + hashlib.sha256(etag.encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache(maxsize=64)  # one or two endpoints, asked for with every file
def origin_id(origin: str) -> str:
    """A file name for an origin (scheme://host[:port]): the first 16 hex digits of its sha256."""
    return hashlib.sha256(origin.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def file_system_of(path: str, mountinfo: str) -> str:
    """The type of the file system an absolute, resolved path lies on: the deepest mount, the latest of equals.

    ``mountinfo`` is the text of /proc/self/mountinfo (proc(5)); empty when nothing fits."""
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
    """What an OSError of the local disk is in our words; ``what`` names the file or directory."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return NoSpace(f"no room for {what}", "free some disk space or choose another --cache-dir")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return CacheUnusable(
            f"{what} cannot be written: {reason}", "mend its permissions or choose another --cache-dir"
        )
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return CacheUnusable(f"{what} cannot be opened: {reason}", "raise the limit of open files (ulimit -n)")
    return CacheUnusable(f"{what} cannot be used: {reason}", "check the disk, or choose another --cache-dir")
