"""Repos looked at without mounting them: what a commit holds, how much of it is here.

Used by programs and by ``hffs ls``, ``info`` and ``du``. Asks the Hub for listings only, never for file data, and
changes nothing on disk. The rooms that know the Hub and the cache are imported when first needed: they cost 0.5 s. Any
thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import Settings
from ..errors import EntryNotFound
from ..model import Blob, Commit, Entry, RepoRef
from .mounting import settings_from
from .shares import Held, Share, by_type, total

if TYPE_CHECKING:
    from ..cache import BlobStore
    from ..remote import Catalog


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """A commit at a glance. ``date`` is seconds since the epoch; ``gated`` is False or how access is granted."""

    repo: str
    type: str
    revision: str
    commit: str
    date: float
    private: bool
    gated: bool | str
    files: int
    bytes_total: int
    bytes_local: int
    by_type: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """Entries of one commit, at or below ``path``, in path order."""

    commit: Commit
    path: str
    entries: tuple[Entry, ...]


def repo_info(
    repo: str,
    *,
    type: str | None = None,  # noqa: A002 - the word of the command line and of huggingface_hub
    revision: str | None = None,
    subfolder: str | None = None,
    **options: Any,
) -> RepoInfo:
    """Commit, date, access and sizes of a repo; ``include``/``exclude`` among the options say of which files.

    Raises RepoNotFound, RevisionNotFound, EntryNotFound, AccessDenied, HubUnreachable, UsageError.
    """
    settings = settings_from(options)
    catalog, ref = _asked(settings, repo, type, revision, subfolder)
    about = catalog.info(ref)
    listing = _whole(catalog, about.commit, ref.subfolder, settings)
    files = held(listing, settings)
    every = total(files)
    return RepoInfo(
        repo=about.commit.id,
        type=about.commit.type.value,
        revision=about.commit.revision,
        commit=about.commit.sha,
        date=about.commit.date,
        private=about.private,
        gated=about.gated,
        files=every.files,
        bytes_total=every.bytes_total,
        bytes_local=every.bytes_local,
        by_type=tuple(by_type(files)),
    )


def list_files(
    repo: str,
    *,
    type: str | None = None,  # noqa: A002 - as in repo_info
    revision: str | None = None,
    subfolder: str | None = None,
    **options: Any,
) -> list[Entry]:
    """Every file of a repo, or of the folder that ``repo`` or ``subfolder`` names, in path order.

    Raises as ``repo_info``.
    """
    return [entry for entry in listing(repo, type, revision, subfolder, **options).entries if entry.kind == "file"]


def listing(
    repo: str,
    type: str | None = None,  # noqa: A002 - as in repo_info
    revision: str | None = None,
    subfolder: str | None = None,
    *,
    recursive: bool = True,
    **options: Any,
) -> Listing:
    """Files and directories of a repo, with the commit they are of; not ``recursive``: of one directory alone."""
    settings = settings_from(options)
    catalog, ref = _asked(settings, repo, type, revision, subfolder)
    commit = catalog.resolve(ref)
    if recursive:
        return _whole(catalog, commit, ref.subfolder, settings)
    try:
        entries = catalog.directory(commit, ref.subfolder)
    except EntryNotFound:
        entries = _single(catalog, commit, ref.subfolder)
    return _chosen(catalog, commit, ref.subfolder, entries, settings)


def held(listing: Listing, settings: Settings) -> list[Held]:
    """The files of a listing with what is on this disk of each; a cache that does not exist is not made."""
    files = [entry for entry in listing.entries if entry.kind == "file"]
    if not os.path.isdir(os.path.join(settings.cache_dir, "blobs")):
        return [Held(file.path, file.size, 0) for file in files]
    from ..cache import BlobStore, Layout

    store = BlobStore(Layout(settings.cache_dir))
    try:
        return [Held(file.path, file.size, _local(store, file, listing.commit.endpoint)) for file in files]
    finally:
        store.close()


def _asked(
    settings: Settings, repo: str, kind: str | None, revision: str | None, subfolder: str | None
) -> tuple[Catalog, RepoRef]:
    from ..remote import Auth, Catalog, parse_repo

    ref = parse_repo(repo, type=kind, revision=revision, subfolder=subfolder)
    return Catalog(settings.endpoint, Auth(settings.token_file)), ref


def _whole(catalog: Catalog, commit: Commit, path: str, settings: Settings) -> Listing:
    try:
        page = catalog.first_page(commit, path)
        entries = [*page.entries, *(page.rest or ())]
    except EntryNotFound:
        entries = _single(catalog, commit, path)
    return _chosen(catalog, commit, path, entries, settings)


def _single(catalog: Catalog, commit: Commit, path: str) -> list[Entry]:
    """A path that is no directory: the file it may be. Raises EntryNotFound."""
    found = [entry for entry in catalog.lookup(commit, [path]) if entry.path == path] if path else []
    if not found:
        name = f"{commit.type.prefix}{commit.id}{'' if commit.revision == 'main' else f'@{commit.revision}'}"
        raise EntryNotFound(f"{name} has no {path or 'file'!r}", f"see hffs ls {name}")
    return found


def _chosen(catalog: Catalog, commit: Commit, path: str, entries: Iterable[Entry], settings: Settings) -> Listing:
    """The entries that include and exclude leave, each file with its size."""
    from ..vfs import Patterns

    patterns = Patterns(settings.include, settings.exclude)
    kept = [entry for entry in entries if entry.kind == "directory" or patterns.match(entry.path)]
    sized = [
        catalog.complete_size(commit, entry) if entry.kind == "file" and entry.size is None else entry for entry in kept
    ]
    if patterns:
        folders = _parents(entry.path for entry in sized if entry.kind == "file")
        sized = [entry for entry in sized if entry.kind == "file" or entry.path in folders]
    return Listing(commit, path, tuple(sorted(sized, key=lambda entry: entry.path)))


def _parents(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def _local(store: BlobStore, file: Entry, origin: str) -> int:
    if file.etag is None or file.size is None:
        return 0
    return store.local_bytes(Blob(file.etag, file.size, origin, file.digest()))
