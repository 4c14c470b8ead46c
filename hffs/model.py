"""Values shared by all rooms: repos, commits, entries, blobs. Immutable, without I/O."""

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
        """The prefix of an id in URLs and in names typed by users: "" for models."""
        return "" if self is RepoType.MODEL else f"{self.value}s/"


@dataclass(frozen=True, slots=True)
class RepoRef:
    """A repo as named by the user: at a revision (None: the default branch), limited to ``subfolder`` ("": all)."""

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
    """A resolved revision, whose content never changes. ``date`` is in seconds since the epoch; ``source`` is the id of
    the source that resolved it and has its files, for a Hub its endpoint (``https://huggingface.co``)."""

    type: RepoType
    id: str
    revision: str
    sha: str
    date: float
    source: str


@dataclass(frozen=True, slots=True)
class Digest:
    """A hash of content: ``sha256`` of the bytes, or ``git-sha1`` of ``blob <size>\\0`` and the bytes."""

    algorithm: Literal["sha256", "git-sha1"]
    hex: str


@dataclass(frozen=True, slots=True)
class Blob:
    """The identity of content, shared by every path, revision and repo with the same content: its ``digest``, or an
    opaque ``etag`` if the listing has no digest. Unverified content is trusted for ``origin`` only, the id of its
    source."""

    etag: str
    size: int
    origin: str
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A blob and where to fetch it: ``path`` (from the repo's root) in a commit of a source. ``etag`` is the source's
    if it differs from the blob's, which it does if it is no hash."""

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
    """A file or directory of a snapshot. ``path`` is relative to the repo's root. ``size`` of a file is None until the
    listing or a HEAD gives it; directories have neither size nor etag."""

    path: str
    kind: Literal["file", "directory"]
    size: int | None = None
    etag: str | None = None
    lfs: bool = False
    etag_from: Literal["listing", "server"] = "listing"  # server: of a HEAD response

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        return self.path.rpartition("/")[0]

    def blob(self, commit: Commit) -> Blob | None:
        """Returns the content; None until size and etag are known. An etag that is no hash identifies content within
        its file only, since other files may have the same: the blob's etag then includes commit and path."""
        if self.size is None or self.etag is None:
            return None
        digest, name = self.digest(), self.etag
        if digest is None:
            name = f"{self.etag} {commit.type.prefix}{commit.id}@{commit.sha}/{self.path}"
        return Blob(name, self.size, commit.source, digest)

    def remote(self, commit: Commit) -> RemoteFile | None:
        """Returns the file at its source; None until size and etag are known."""
        blob = self.blob(commit)
        if blob is None or self.etag is None:
            return None
        return RemoteFile(commit, self.path, blob, self.lfs, "" if blob.etag == self.etag else self.etag)

    def digest(self) -> Digest | None:
        """Returns the hash in the etag: 64 hex digits of an LFS file are its sha256, 40 of a git file its git-sha1."""
        if self.etag is None or not _HEX.fullmatch(self.etag):
            return None
        if self.lfs and len(self.etag) == 64:
            return Digest("sha256", self.etag)
        if not self.lfs and len(self.etag) == 40:
            return Digest("git-sha1", self.etag)
        return None
