"""huggingface_hub's cache directory: reading blobs from it, and writing snapshots that its tools accept.

    <root>/<type>s--<org>--<name>/blobs/<etag>             a file, or a link to ../../blobs/<2 hex>/<64 hex>
    <root>/<type>s--<org>--<name>/snapshots/<commit>/<path> a relative link to the blob
    <root>/<type>s--<org>--<name>/refs/<revision>           the commit, 40 bytes, no newline
    <root>/.locks/<type>s--<org>--<name>/<etag>.lock        flock(2) of the process that writes that blob

The layout is that of huggingface_hub 2.4 (its file_download and utils/_shared_blobs). Its tools run at any time: files
found here may be deleted or replaced a moment later, and new ones appear whole, by rename. Existing files are never
written to. Any thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Final

from ...errors import CacheUnusable, HffsError, NameRefused
from ...files import atomic_write, names_in
from ...model import Blob, Digest, RepoType
from ...names import check_name
from ..store.adopt import ForeignBlob
from ..store.digest import hash_file
from ..store.layout import disk_errors
from ..store.locks import poll, try_flock
from ..store.state_file import FileMark

_SHARED: Final = re.compile(r"blobs/([0-9a-f]{2})/\1[0-9a-f]{62}\Z")
_REPO: Final = re.compile(r"(model|dataset|space)s--(.+)\Z")
_ETAG: Final = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,199}\Z")  # as the Hub sends them; the names of blobs
_DIGESTS: Final = {64: "sha256", 40: "git-sha1"}
_COMMIT: Final = re.compile(r"[0-9a-f]{40}\Z")
# https://bford.info/cachedir/: the first line is the mark, the rest is free.
_TAG: Final = "Signature: 8a477f597d28d172789f06886806bc55\n# This directory is a cache of Hugging Face repos.\n"
# A download of the same blob holds its lock from the first byte to the last. An export waits for a small one, and fails
# for a big one.
_PATIENCE_S: Final = 30.0
_PAUSE_S: Final = 0.05


class HubCache:
    """``root`` is HF_HUB_CACHE; it need not exist."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)

    def repo(self, kind: RepoType, name: str) -> HubRepo:
        return HubRepo(self.root, f"{kind.value}s--{name.replace('/', '--')}")

    def repos(self) -> list[HubRepo]:
        """Returns every repo that has a folder here."""
        return [HubRepo(self.root, name) for name in names_in(self.root) if _REPO.match(name)]


class HubRepo:
    """The folder ``name`` of one repo."""

    def __init__(self, root: str, name: str) -> None:
        self.root = root
        self.name = name
        self.folder = os.path.join(root, name)

    @property
    def title(self) -> str:
        """The repo as users write it: ``org/name``, ``datasets/org/name``."""
        match = _REPO.match(self.name)
        kind, rest = (match[1], match[2]) if match else ("model", self.name)
        return ("" if kind == "model" else f"{kind}s/") + rest.replace("--", "/")

    def exists(self) -> bool:
        return os.path.isdir(self.folder)

    # Reading

    def open(self, etag: str, size: int) -> ForeignBlob | None:
        """Opens the blob of this name and size; None where there is none. Only regular files inside the cache directory
        are opened, for reading only, and the only link followed is the one into the shared store."""
        if not _ETAG.match(etag):
            return None
        path = os.path.join(self.folder, "blobs", etag)
        try:
            real = os.path.realpath(path, strict=True)
            if real != path and not _SHARED.match(os.path.relpath(real, self.root)):
                return None
            # Without blocking: a pipe may have replaced it.
            fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            seen = os.fstat(fd)
            if stat.S_ISREG(seen.st_mode) and seen.st_size == size:
                return ForeignBlob(fd, real, FileMark.of(fd))
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def has(self, etag: str, size: int) -> bool:
        found = self.open(etag, size)
        if found is not None:
            os.close(found.fd)
        return found is not None

    def snapshot(self, revision: str) -> dict[str, bool] | None:
        """Returns the files of a revision or commit and whether each is local, as huggingface_hub finds offline: by the
        commit's listing where it kept one, else by the snapshot's folder. None for an unknown revision."""
        if any(part in {"", ".", ".."} for part in revision.split("/")):
            return None
        try:
            with open(os.path.join(self.folder, "refs", revision), encoding="ascii") as file:
                commit = file.read(41).strip()
        except (OSError, UnicodeDecodeError):
            commit = revision
        if not _COMMIT.match(commit):
            return None
        below = os.path.join(self.folder, "snapshots", commit)
        try:
            with open(os.path.join(self.folder, "trees", f"{commit}.json"), encoding="utf-8") as file:
                listed = {check_name(path): int(about["size"]) for path, about in json.load(file)["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, NameRefused):
            found = [os.path.join(folder, name) for folder, _, names in os.walk(below) for name in names]
            here = {os.path.relpath(path, below): os.path.isfile(path) for path in found}
            return here or None
        return {path: _has_size(os.path.join(below, path), size) for path, size in listed.items()}

    def hashed_blobs(self, origin: str) -> list[Blob]:
        """Returns the blobs that are named by a hash, the smallest first, as a listing of ``origin`` would name them.

        Partial downloads have longer names. The content is not compared with the name."""
        blobs = []
        with contextlib.suppress(OSError), os.scandir(os.path.join(self.folder, "blobs")) as entries:
            for entry in entries:
                algorithm = _DIGESTS.get(len(entry.name))
                if algorithm and re.fullmatch("[0-9a-f]+", entry.name):
                    with contextlib.suppress(OSError):  # a dangling link
                        digest = Digest("sha256" if algorithm == "sha256" else "git-sha1", entry.name)
                        blobs.append(Blob(entry.name, entry.stat().st_size, origin, digest))
        return sorted(blobs, key=lambda blob: blob.size)

    # Writing

    def put_blob(self, blob: Blob, data: FileMark, export: Callable[[str], object]) -> bool:
        """Calls ``export(path)`` to write the blob, unless a right one exists; returns whether it was written.

        ``data`` is of the file to be exported: an existing blob that is this very file is right. Raises what ``export``
        raises, CacheUnusable, and HffsError while another process writes it."""
        if not _ETAG.match(blob.etag):
            raise NameRefused(f"the etag {blob.etag!r} is not a valid file name in {self.root}")
        self._prepare()
        with self._locked(blob.etag):
            if self._has_right(blob, data):
                return False
            export(os.path.join(self.folder, "blobs", blob.etag))
            return True

    def link(self, commit: str, path: str, etag: str, safe: Callable[[str, str], str]) -> None:
        """Links a blob at ``path`` of a commit; ``safe`` is ``export.safe_below``. Raises NameRefused,
        CacheUnusable."""
        snapshot = os.path.join(self.folder, "snapshots", self._commit(commit))
        with disk_errors(f"the Hugging Face cache folder {snapshot}"):
            os.makedirs(snapshot, exist_ok=True)
            where = safe(snapshot, path)
            folder = os.path.dirname(where)
            os.makedirs(folder, exist_ok=True)
            target = os.path.relpath(os.path.join(self.folder, "blobs", etag), folder)
            for _ in range(3):  # another process links it, too
                with contextlib.suppress(FileExistsError):
                    os.symlink(target, where)  # atomic
                    return
                with contextlib.suppress(FileNotFoundError):
                    if os.path.islink(where) and os.readlink(where) == target:
                        return
                    os.unlink(where)
            raise CacheUnusable(f"another program keeps replacing {where}", "end that program first")

    def write_ref(self, revision: str, commit: str, safe: Callable[[str, str], str]) -> None:
        """Points a branch or tag to a commit whose files are all here. Raises NameRefused, CacheUnusable."""
        if revision == self._commit(commit):
            return
        refs = os.path.join(self.folder, "refs")
        with disk_errors(f"the Hugging Face cache folder {refs}"):
            os.makedirs(refs, exist_ok=True)
            where = safe(refs, revision)
            with contextlib.suppress(FileNotFoundError), open(where, encoding="ascii", errors="replace") as file:
                if file.read() == commit:
                    return
            os.makedirs(os.path.dirname(where), exist_ok=True)
            # The temporary file is elsewhere: every file in refs/ counts as a revision.
            temporary = os.path.join(self.folder, "blobs", ".hffs-ref-")
            atomic_write(where, commit, mode=os.stat(refs).st_mode & 0o666, temporary=temporary)

    def _commit(self, commit: str) -> str:
        if not _COMMIT.match(commit):
            raise NameRefused(f"{commit!r} is not a full commit hash, which huggingface_hub needs")
        return commit

    def _prepare(self) -> None:
        blobs = os.path.join(self.folder, "blobs")
        with disk_errors(f"the Hugging Face cache {self.root}"):
            os.makedirs(blobs, exist_ok=True)
            for folder in (self.folder, blobs):
                if os.path.realpath(folder) != folder:
                    raise CacheUnusable(f"{folder} is a link to another folder", "pass the real path as --hf-cache")
            with contextlib.suppress(FileExistsError):
                tag = os.open(os.path.join(self.root, "CACHEDIR.TAG"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                with open(tag, "w", encoding="ascii") as file:
                    file.write(_TAG)

    def _has_right(self, blob: Blob, data: FileMark) -> bool:
        """Whether the existing blob need not be written; the caller has it locked."""
        found = self.open(blob.etag, blob.size)
        if found is None:
            return False
        try:
            same = (found.mark.dev, found.mark.inode) == (data.dev, data.inode)
            return same or blob.digest is None or hash_file(found.fd, blob.digest, blob.size) == blob.digest.hex
        except OSError:  # an unreadable sector
            return False
        finally:
            os.close(found.fd)

    @contextlib.contextmanager
    def _locked(self, etag: str) -> Iterator[None]:
        """Locks a blob as huggingface_hub does (filelock): flock(2) of a file that stays."""
        path = os.path.join(self.root, ".locks", self.name, f"{etag}.lock")
        with contextlib.ExitStack() as stack:
            with disk_errors(f"the lock {path}"):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o664)
                stack.callback(os.close, fd)
                locked = poll(lambda: try_flock(fd), _PATIENCE_S, _PAUSE_S)
            if not locked:
                raise HffsError(
                    f"another process has been writing {etag} of {self.title} for {_PATIENCE_S:.0f} s",
                    "wait for that download to end and run this again",
                )
            yield


def _has_size(path: str, size: int) -> bool:
    try:
        return os.path.isfile(path) and os.path.getsize(path) == size
    except OSError:
        return False
