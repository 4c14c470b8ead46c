"""The values everything speaks about: repos, commits, entries, blobs. Frozen, no behaviour that touches a machine."""

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
        """What stands before the id in URLs and in names people write: nothing for models."""
        return "" if self is RepoType.MODEL else f"{self.value}s/"


@dataclass(frozen=True, slots=True)
class RepoRef:
    """What a user asked for: a repo, at a revision (None: its default branch), perhaps only a folder of it."""

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
    """How content can be checked: ``sha256`` of the bytes, or git's sha1 of ``blob <size>\\0`` and the bytes."""

    algorithm: Literal["sha256", "git-sha1"]
    hex: str


@dataclass(frozen=True, slots=True)
class Blob:
    """Content: shared by every path, revision and repo that names it. ``origin`` (scheme://host[:port]) vouches for it
    until it is verified. ``digest`` is None where the listing names no hash."""

    etag: str
    size: int
    origin: str
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A blob and one place it can be fetched from: ``path`` (from the repo's root) in a commit. ``etag``: what the
    server calls it, where that is no hash; else it calls it as we do."""

    commit: Commit
    path: str
    blob: Blob
    lfs: bool = False
    etag: str = ""

    @property
    def source(self) -> str:
        """The id of the source that has it."""
        return self.commit.source

    @property
    def validator(self) -> str:
        """The etag that answers about this file must carry."""
        return self.etag or self.blob.etag


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a snapshot. ``path`` counts from the repo's root, no leading slash. A file whose listing gave no size
    has ``size`` None until a HEAD told it; directories have neither size nor etag."""

    path: str
    kind: Literal["file", "directory"]
    size: int | None = None
    etag: str | None = None
    lfs: bool = False
    told_by: Literal["listing", "server"] = "listing"  # the etag: by the listing, or by the headers of a HEAD

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        return self.path.rpartition("/")[0]

    def blob(self, commit: Commit) -> Blob | None:
        """The content; None until size and etag are known. An etag that is no hash says nothing beyond its file: other
        files may have the same, so its blob is named by commit and path as well."""
        if self.size is None or self.etag is None:
            return None
        digest, name = self.digest(), self.etag
        if digest is None:
            name = f"{self.etag} {commit.type.prefix}{commit.id}@{commit.sha}/{self.path}"
        return Blob(name, self.size, commit.source, digest)

    def remote(self, commit: Commit) -> RemoteFile | None:
        """Where to fetch it; None until size and etag are known."""
        blob = self.blob(commit)
        if blob is None or self.etag is None:
            return None
        return RemoteFile(commit, self.path, blob, self.lfs, "" if blob.etag == self.etag else self.etag)

    def digest(self) -> Digest | None:
        """The hash the listing vouches with: 64 hex digits of an LFS file are its sha256, 40 of a git file its sha1."""
        if self.etag is None or not _HEX.fullmatch(self.etag):
            return None
        if self.lfs and len(self.etag) == 64:
            return Digest("sha256", self.etag)
        if not self.lfs and len(self.etag) == 40:
            return Digest("git-sha1", self.etag)
        return None
