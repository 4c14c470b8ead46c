"""Repos without a mount: the files of a commit, their sizes, how much of them is local.

Used by programs and by ``hffs ls``, ``info`` and ``du``. Asks the Hub for listings only, never for file data, and
changes nothing on disk; offline the metadata index answers. The rooms that know the Hub and the cache are imported when
first needed: they cost 0.5 s. Any thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..config import Settings
from ..errors import EntryNotFound, Offline
from ..model import Commit, Entry, RepoRef
from .inventory import last_listing
from .options import settings_from
from .usage import LocalShare, Usage, by_type, total

if TYPE_CHECKING:
    from ..sources.base import Source

UNSET: Final = "to ask the Hub leave out --offline, or unset HF_HUB_OFFLINE"


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """A commit in short. ``date`` is seconds since the epoch; ``gated`` is False or how access is granted. Both it
    and ``private`` are None when the Hub was not asked."""

    repo: str
    type: str
    revision: str
    commit: str
    date: float
    private: bool | None
    gated: bool | str | None
    files: int
    bytes_total: int
    bytes_local: int
    by_type: tuple[Usage, ...]


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
    """Commit, date, access and sizes of a repo; ``include``/``exclude`` among the options select the files. With the
    option ``offline`` (or HF_HUB_OFFLINE) as of the last time the Hub was asked, and no server is asked.

    Raises RepoNotFound, RevisionNotFound, EntryNotFound, AccessDenied, HubUnreachable, UsageError.
    """
    settings = settings_from(options)
    private: bool | None = None
    gated: bool | str | None = None
    ref = _parse(repo, type, revision, subfolder)
    if settings.offline:
        found = _last_listing(settings, ref)
    else:
        source = _source(settings)
        about = source.resolve(ref)
        private, gated = about.private, about.gated
        found = _list_all(source, about.commit, ref.subfolder, settings)
    files = local_shares(found, settings)
    every = total(files)
    commit = found.commit
    return RepoInfo(
        repo=commit.id,
        type=commit.type.value,
        revision=commit.revision,
        commit=commit.sha,
        date=commit.date,
        private=private,
        gated=gated,
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
    return list_ref(settings_from(options), _parse(repo, type, revision, subfolder), recursive=recursive)


def list_ref(settings: Settings, ref: RepoRef, *, recursive: bool = True) -> Listing:
    """As ``listing``."""
    if settings.offline:
        return _last_listing(settings, ref, recursive=recursive)
    source = _source(settings)
    commit = source.resolve(ref).commit
    if recursive:
        return _list_all(source, commit, ref.subfolder, settings)
    try:
        entries = source.list_directory(commit, ref.subfolder)
    except EntryNotFound:
        entries = _single(source, commit, ref.subfolder)
    return _select(source, commit, ref.subfolder, entries, settings)


def local_shares(listing: Listing, settings: Settings) -> list[LocalShare]:
    """The files of a listing with the local bytes of each; a cache that does not exist is not created."""
    files = [entry for entry in listing.entries if entry.kind == "file"]
    if not os.path.isdir(os.path.join(settings.cache_dir, "blobs")):
        return [LocalShare(file.path, file.size, 0) for file in files]
    from ..cache import BlobStore, Layout

    with closing(BlobStore(Layout(settings.cache_dir))) as store:
        blobs = [file.blob(listing.commit) for file in files]
        local = [0 if blob is None else store.local_bytes(blob) for blob in blobs]
    return [LocalShare(file.path, file.size, size) for file, size in zip(files, local, strict=True)]


def _parse(repo: str, kind: str | None, revision: str | None, subfolder: str | None) -> RepoRef:
    from ..sources.hub.repo_id import parse_repo

    return parse_repo(repo, type=kind, revision=revision, subfolder=subfolder)


def _source(settings: Settings) -> Source:
    from ..engine.sources import hub_source

    return hub_source(settings)


def _last_listing(settings: Settings, ref: RepoRef, *, recursive: bool = True) -> Listing:
    """As of the last time the Hub was asked. Raises Offline where that is not known."""
    from ..vfs import Patterns

    known = last_listing(settings, ref)
    if known is None:
        raise Offline(f"the files of {ref} were never listed on this machine, and hffs is offline", UNSET)
    commit, files = known
    if not files and ref.subfolder:
        raise EntryNotFound(f"{ref} does not exist", f"see hffs ls {commit.type.prefix}{commit.id}")
    patterns = Patterns(settings.include, settings.exclude)
    chosen = [file for file in files if patterns.match(file.path)]
    above = ref.subfolder.count("/") + 1 if ref.subfolder else 0
    folders = [Entry(path, "directory") for path in _parents(file.path for file in chosen) if path.count("/") >= above]
    every = sorted([*chosen, *folders], key=lambda entry: entry.path)
    if not recursive:
        every = [entry for entry in every if ref.subfolder in (entry.parent, entry.path)]
    return Listing(commit, ref.subfolder, tuple(every))


def _list_all(source: Source, commit: Commit, path: str, settings: Settings) -> Listing:
    try:
        page = source.list_tree(commit, path)
        entries = [*page.entries, *(page.rest or ())]
    except EntryNotFound:
        entries = _single(source, commit, path)
    return _select(source, commit, path, entries, settings)


def _single(source: Source, commit: Commit, path: str) -> list[Entry]:
    """The file that a path names which is no directory. Raises EntryNotFound."""
    found = [entry for entry in source.stat(commit, [path]) if entry.path == path] if path else []
    if not found:
        name = f"{commit.type.prefix}{commit.id}{'' if commit.revision == 'main' else f'@{commit.revision}'}"
        raise EntryNotFound(f"{name} has no {path or 'file'!r}", f"see hffs ls {name}")
    return found


def _select(source: Source, commit: Commit, path: str, entries: Iterable[Entry], settings: Settings) -> Listing:
    """The entries that include and exclude select, each file with its size."""
    from ..vfs import Patterns

    patterns = Patterns(settings.include, settings.exclude)
    kept = [entry for entry in entries if entry.kind == "directory" or patterns.match(entry.path)]
    sized = [
        source.complete_size(commit, entry) if entry.kind == "file" and entry.size is None else entry for entry in kept
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
