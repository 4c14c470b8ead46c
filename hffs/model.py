"""The values that all rooms share: repos, commits, entries, blobs. Frozen, and free of I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

_HEX: Final = re.compile("[0-9a-f]+")


class RepoType(StrEnum):
    MODEL = "model"
    DATASET = "dataset"
    SPACE = "space"

    @property
    def prefix(self) -> str:
        """The prefix of the id in URLs and in names that users write: none for models."""
        return "" if self is RepoType.MODEL else f"{self.value}s/"


@dataclass(frozen=True, slots=True)
class RepoRef:
    """A repo as the user names it: at a revision (None: its default branch), perhaps only a folder of it."""

    type: RepoType
    id: str
    revision: str | None = None
    subfolder: str = ""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        below = f"/{self.subfolder}" if self.subfolder else ""
        return f"{self.type.prefix}{self.id}{at}{below}"


@dataclass(frozen=True, slots=True)
class Commit:
    """A revision resolved: nothing of it ever changes. ``date`` is seconds since the epoch, ``source`` the id of the
    source that resolved it and has its files: of a Hub its endpoint (``https://huggingface.co``)."""

    type: RepoType
    id: str
    revision: str
    sha: str
    date: float
    source: str


@dataclass(frozen=True, slots=True)
class Digest:
    """A hash of content: ``sha256`` of the bytes, or git's sha1 of ``blob <size>\\0`` and the bytes."""

    algorithm: Literal["sha256", "git-sha1"]
    hex: str


@dataclass(frozen=True, slots=True)
class Blob:
    """The identity of content, shared by every path, revision and repo that has it: by its ``digest``, or where the
    listing has none by an opaque ``etag``. Until it is verified it belongs to ``origin``, the id of its source."""

    etag: str
    size: int
    origin: str
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A blob and a place to fetch it from: ``path`` (from the repo's root) in a commit of a source. ``etag`` is the
    source's, where it differs from the blob's, as it does when it is no hash."""

    commit: Commit
    path: str
    blob: Blob
    lfs: bool = False
    etag: str = ""

    @property
    def source(self) -> str:
        """The id of the source to fetch it from."""
        return self.commit.source

    @property
    def validator(self) -> str:
        """The etag that the source's responses about this file must have."""
        return self.etag or self.blob.etag


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a snapshot. ``path`` counts from the repo's root, no leading slash. A file whose listing gave no size
    has ``size`` None until a HEAD gave it; directories have neither size nor etag."""

    path: str
    kind: Literal["file", "directory"]
    size: int | None = None
    etag: str | None = None
    lfs: bool = False
    etag_from: Literal["listing", "server"] = "listing"  # a HEAD is the server's own answer

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        return self.path.rpartition("/")[0]

    def blob(self, commit: Commit) -> Blob | None:
        """The content; None until size and etag are known. An etag that is no hash identifies the content of its file
        only, other files may have the same: the blob's etag then includes commit and path."""
        if self.size is None or self.etag is None:
            return None
        digest, name = self.digest(), self.etag
        if digest is None:
            name = f"{self.etag} {commit.type.prefix}{commit.id}@{commit.sha}/{self.path}"
        return Blob(name, self.size, commit.source, digest)

    def remote(self, commit: Commit) -> RemoteFile | None:
        """The file at its source; None until size and etag are known."""
        blob = self.blob(commit)
        if blob is None or self.etag is None:
            return None
        return RemoteFile(commit, self.path, blob, self.lfs, "" if blob.etag == self.etag else self.etag)

    def digest(self) -> Digest | None:
        """The hash that the etag is: 64 hex digits of an LFS file are its sha256, 40 of a git file its sha1."""
        if self.etag is None or not _HEX.fullmatch(self.etag):
            return None
        if self.lfs and len(self.etag) == 64:
            return Digest("sha256", self.etag)
        if not self.lfs and len(self.etag) == 40:
            return Digest("git-sha1", self.etag)
        return None
