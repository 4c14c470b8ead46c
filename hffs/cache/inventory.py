"""Joining blobs and listings: which repos and revisions are local, to what extent, and which blobs are unreferenced.

Pure: the caller has scanned the disk (``blob_info``) and read the known listings. A blob that has several names is
counted once wherever sizes on disk are added up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..model import Commit, Entry
from .blob_info import BlobInfo, allocated
from .store.layout import BlobPaths, etag_name


@dataclass(frozen=True, slots=True)
class ListedCommit:
    """A commit and its known files, ``complete`` when these are all. ``revisions`` are the names that point to it now,
    ``seen`` when the Hub last confirmed that (seconds since the epoch)."""

    commit: Commit
    revisions: tuple[str, ...]
    seen: float
    files: tuple[Entry, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of a commit as it is on this machine; ``bytes_local`` of ``size`` bytes can be read."""

    path: str
    size: int | None
    bytes_local: int
    state: Literal["remote", "partial", "local", "verified"]
    pinned: bool


@dataclass(frozen=True, slots=True)
class LocalRevision:
    """A commit of which something is local. ``revisions`` are the names that pointed to it when the Hub was asked last,
    at ``seen``. ``files`` and ``bytes_total`` are None while not all of its files are known; ``bytes_disk`` is the disk
    space of its blobs. ``complete``: every file is complete. Times are seconds since the epoch."""

    commit: str
    revisions: tuple[str, ...]
    date: float
    seen: float
    files: int | None
    files_complete: int
    files_partial: int
    files_verified: int
    files_pinned: int
    bytes_total: int | None
    bytes_local: int
    bytes_disk: int
    last_used: float

    @property
    def complete(self) -> bool:
        return self.files == self.files_complete


@dataclass(frozen=True, slots=True)
class LocalRepo:
    """A repo of which something is local; ``bytes_disk`` counts what its revisions share once."""

    repo: str
    type: str
    endpoint: str
    revisions: tuple[LocalRevision, ...]
    bytes_disk: int
    last_used: float


@dataclass(frozen=True, slots=True)
class Inventory:
    """All local data. ``others`` are blobs that no known listing names; ``bytes_disk`` counts every blob once."""

    repos: tuple[LocalRepo, ...]
    others: tuple[BlobInfo, ...]
    blobs: int
    bytes_disk: int


class BlobIndex:
    """The local blobs, found by a listing's entry."""

    def __init__(self, blobs: Iterable[BlobInfo]) -> None:
        self.blobs = tuple(blobs)
        self._by_name: dict[str, list[BlobInfo]] = {}
        for info in self.blobs:
            self._by_name.setdefault(os.path.basename(info.paths.folder), []).append(info)

    def find(self, commit: Commit, file: Entry) -> BlobInfo | None:
        """Returns the copy that a reader of this file gets: its own server's, unless only another's is verified."""
        copies = [each for each in self._of(commit, file) if each.size == file.size and not each.unusable]
        own = next((each for each in copies if each.origin == commit.source), None)
        digest = file.digest()
        if digest is None or (own is not None and own.verified == digest):
            return own
        return next((each for each in copies if each.verified == digest), own)

    def all_copies(self, listed: ListedCommit) -> set[BlobPaths]:
        """Returns every copy of the commit's blobs, in any state and of any origin."""
        return {each.paths for file in listed.files for each in self._of(listed.commit, file)}

    def file(self, commit: Commit, file: Entry) -> LocalFile:
        info = self.find(commit, file)
        if file.size == 0:
            return LocalFile(file.path, 0, 0, "verified", pinned=False)
        if info is None or not info.bytes_local:
            return LocalFile(file.path, file.size, 0, "remote", pinned=info is not None and info.pinned)
        whole: Literal["local", "verified"] = "verified" if info.verified is not None else "local"
        state = whole if info.complete else "partial"
        return LocalFile(file.path, file.size, info.bytes_local, state, info.pinned)

    def local_blobs(
        self, listed: ListedCommit, wanted: Callable[[str], bool] = lambda _: True
    ) -> dict[BlobPaths, BlobInfo]:
        """Returns the blobs of a commit's files that have files here."""
        found = (self.find(listed.commit, file) for file in listed.files if file.size and wanted(file.path))
        return {each.paths: each for each in found if each is not None}

    def _of(self, commit: Commit, file: Entry) -> list[BlobInfo]:
        blob = file.blob(commit)  # an etag that is not a hash needs the commit to identify a blob
        return [] if blob is None else self._by_name.get(etag_name(blob.etag), [])


def build(blobs: BlobIndex, commits: Iterable[ListedCommit]) -> Inventory:
    """Returns the inventory, repos in the order of their names."""
    repos: dict[tuple[str, str, str], list[tuple[LocalRevision, Mapping[BlobPaths, BlobInfo]]]] = {}
    named: set[BlobPaths] = set()
    for listed in commits:
        held = blobs.local_blobs(listed)
        named.update(held)
        if any(each.bytes_local for each in held.values()):
            key = listed.commit.type.value, listed.commit.id, listed.commit.source
            repos.setdefault(key, []).append((_revision(blobs, listed, held), held))
    others = tuple(each for each in blobs.blobs if each.paths not in named)
    return Inventory(
        tuple(_repo(key, found) for key, found in sorted(repos.items())),
        others,
        len(blobs.blobs),
        allocated(blobs.blobs),
    )


def unreferenced(
    blobs: BlobIndex, needed: Iterable[ListedCommit], *, now: float, older: float | None = None
) -> list[BlobInfo]:
    """Returns the blobs that none of the ``needed`` commits names, and, with ``older`` (seconds), those that were not
    used for that long. Pinned ones and those of a newer hffs are never among them."""
    named = {place for listed in needed for place in blobs.local_blobs(listed)}
    return [
        each
        for each in blobs.blobs
        if not each.pinned
        and not each.newer
        and (each.paths not in named or (older is not None and now - each.last_used > older))
    ]


def _repo(key: tuple[str, str, str], found: list[tuple[LocalRevision, Mapping[BlobPaths, BlobInfo]]]) -> LocalRepo:
    kind, name, endpoint = key
    every = {place: each for _, held in found for place, each in held.items()}
    revisions = tuple(sorted((revision for revision, _ in found), key=lambda each: (not each.revisions, -each.seen)))
    last_used = max(each.last_used for each in revisions)
    return LocalRepo(name, kind, endpoint, revisions, allocated(every.values()), last_used)


def _revision(blobs: BlobIndex, listed: ListedCommit, held: Mapping[BlobPaths, BlobInfo]) -> LocalRevision:
    files = [blobs.file(listed.commit, file) for file in listed.files]
    states = [file.state for file in files]
    sizes = [file.size for file in files]
    whole = listed.complete and None not in sizes
    return LocalRevision(
        commit=listed.commit.sha,
        revisions=listed.revisions,
        date=listed.commit.date,
        seen=listed.seen,
        files=len(files) if listed.complete else None,
        files_complete=states.count("local") + states.count("verified"),
        files_partial=states.count("partial"),
        files_verified=states.count("verified"),
        files_pinned=sum(file.pinned for file in files),
        bytes_total=sum(size or 0 for size in sizes) if whole else None,
        bytes_local=sum(file.bytes_local for file in files),
        bytes_disk=allocated(held.values()),
        last_used=max((each.last_used for each in held.values() if each.bytes_local), default=0.0),
    )
