"""The local cache: what it holds, evicting and pinning it. Answered from disk, no server is asked.

Used by programs (``hffs.list_local``, ``hffs.is_available_locally``) and by ``hffs cache``. A TARGET is a repo
(``ORG/NAME[@REVISION][/PATH]``: without a revision all that is known of it) or a path in a mount. Mounts may be running
meanwhile. The rooms below are imported when first needed. Any thread.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from .. import config
from ..cache.inventory import LocalRepo, LocalRevision
from ..config import Settings
from ..errors import NotFound
from ..model import Commit, Entry, RepoRef, RepoType
from ..names import is_below
from . import mounts
from .options import settings_from

if TYPE_CHECKING:
    from ..cache import Index
    from ..cache.blob_info import BlobInfo
    from ..cache.inventory import BlobIndex, Inventory, ListedCommit

__all__ = [
    "EvictResult",
    "LocalRepo",
    "LocalRevision",
    "PinResult",
    "evict",
    "is_available_locally",
    "list_local",
    "pin",
    "prune",
    "take",
]
_LEAST_SHA: Final = 7  # digits of a commit that are taken for one, as git does


@dataclass(frozen=True, slots=True)
class EvictResult:
    """How many blobs were evicted, bytes of disk freed, and how many stay for which reason: ``pinned``, ``shared``
    (another revision or file has the same content), ``in use`` (a mount reads or fetches it just now), ``elsewhere``
    (the file also has a name in a folder of the user's: it is out of the cache, its space is not free), ``unreadable``
    (of a newer hffs)."""

    blobs: int
    bytes_freed: int
    stay: dict[str, int]


@dataclass(frozen=True, slots=True)
class PinResult:
    """Of ``blobs`` that are local, ``changed`` were not pinned or unpinned before; nothing of ``absent`` files is."""

    blobs: int
    changed: int
    absent: int


def list_local(**options: Any) -> list[LocalRepo]:
    """Every repo with local data, by name, with its revisions. Raises CacheUnusable."""
    return list(take(settings_from(options)).repos)


def is_available_locally(
    repo: str,
    *,
    type: str | None = None,  # noqa: A002 - the word of the command line and of huggingface_hub
    revision: str | None = None,
    subfolder: str | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    **options: Any,
) -> bool:
    """Whether every file of the repo, or those that ``include``/``exclude`` select, is whole on this machine, at the
    commit that the revision was when the Hub was asked last. False where no file is selected, or the files are unknown.

    Asks no server. Raises UsageError for what cannot be a repo's name."""
    from ..sources.hub.repo_id import parse_repo
    from ..vfs import Patterns

    settings = settings_from(options)
    ref = parse_repo(repo, type=type, revision=revision, subfolder=subfolder)
    wanted = Patterns(_as_tuple(include), _as_tuple(exclude)).match
    return _is_cached(settings, ref, wanted) or _is_in_hub_cache(settings, ref, wanted)


def _is_cached(settings: Settings, ref: RepoRef, wanted: Callable[[str], bool]) -> bool:
    """In hffs's own cache, some files perhaps in huggingface_hub's, by what the Hub listed when it was last asked."""
    from ..cache import BlobStore, HubCache, Layout

    known = last_listing(settings, ref)
    if known is None:
        return False
    commit, files = known
    chosen = [file for file in files if wanted(file.path)]
    blobs = [file.blob(commit) for file in chosen if file.size]
    hub = HubCache(settings.hf_cache).repo(ref.type, commit.id) if settings.hf_cache else None
    with closing(BlobStore(Layout(settings.cache_dir))) as store:
        return bool(chosen) and all(
            blob is not None
            and (store.local_bytes(blob) == blob.size or (hub is not None and hub.has(blob.etag, blob.size)))
            for blob in blobs
        )


def _is_in_hub_cache(settings: Settings, ref: RepoRef, wanted: Callable[[str], bool]) -> bool:
    """In huggingface_hub's cache, as its own tools would find it offline."""
    from ..cache import HubCache

    if not settings.hf_cache:
        return False
    found = HubCache(settings.hf_cache).repo(ref.type, ref.id).snapshot(ref.revision or "main")
    chosen = [whole for path, whole in (found or {}).items() if is_below(path, ref.subfolder) and wanted(path)]
    return bool(chosen) and all(chosen)


def take(settings: Settings) -> Inventory:
    """The whole inventory. Raises CacheUnusable."""
    from ..cache import inventory

    return inventory.build(*scan(settings))


def evict(target: str, *, shared: bool = False, settings: Settings | None = None) -> EvictResult:
    """Evicts the blobs of a repo, revision, folder or file; with ``shared`` also those that other revisions or files
    have. Raises NotFound (nothing is known of it), MountNotFound, CacheUnusable, UsageError."""
    selector = _select(target, settings or config.load())
    blobs, commits = scan(selector.settings)
    mine, others = dict[Any, Any](), set[Any]()
    for listed in commits:
        selected = selector.names(listed.commit, listed.revisions)
        if selected:
            mine |= blobs.local_blobs(listed, selector.inside)
        if listed.revisions or selected:
            others |= set(blobs.local_blobs(listed, lambda path, own=selected: not (own and selector.inside(path))))  # type: ignore[misc]
    _require_known(selector, commits)
    stay = {} if shared else {place: each for place, each in mine.items() if place in others}
    return _evict(selector.settings, [each for place, each in mine.items() if place not in stay], len(stay))


def prune(*, older: float | None = None, settings: Settings | None = None) -> EvictResult | None:
    """Evicts what no revision needs as it was when the Hub was asked last, nor any mount; with ``older`` (seconds) also
    what was not used for so long. Returns None where no revision is known and thus none can be unneeded.

    Raises CacheUnusable."""
    from ..cache import inventory

    settings = settings or config.load()
    blobs, commits = scan(settings)
    if not commits and older is None and blobs.blobs:
        return None
    mounted = {record["commit"] for record in mounts.records_of(settings.runtime_dir)}
    needed = [each for each in commits if each.revisions or each.commit.sha in mounted]
    now = time.time()
    unneeded = inventory.unreferenced(blobs, needed, now=now, older=older)
    if not commits:
        unneeded = [each for each in unneeded if older is not None and now - each.last_used > older]
    return _evict(settings, unneeded, 0)


def pin(target: str, pinned: bool = True, *, settings: Settings | None = None) -> PinResult:
    """Protects the cached data of a repo, revision, folder or file from every eviction, or no longer. What is fetched
    later is not protected. Raises as ``evict``."""
    from ..cache import blob_info

    selector = _select(target, settings or config.load())
    blobs, commits = scan(selector.settings)
    mine, absent = dict[Any, Any](), set[str]()
    for listed in commits:
        if selector.names(listed.commit, listed.revisions):
            mine |= blobs.local_blobs(listed, selector.inside)
            for file in listed.files:
                if file.size and selector.inside(file.path) and blobs.find(listed.commit, file) is None:
                    absent.add(file.etag or file.path)
    _require_known(selector, commits)
    return PinResult(len(mine), sum(blob_info.pin(each, pinned) for each in mine.values()), len(absent))


def bytes_of_files(commit: Commit, entries: Sequence[Entry], settings: Settings) -> int:
    """Bytes that files of a commit take on the disk, each content once."""
    files = [entry for entry in entries if entry.kind == "file"]
    return _allocated(settings, commit, files) if files else 0


def bytes_of_mount(where: str, paths: Collection[str], settings: Settings) -> int:
    """Bytes that files of a mount take on the disk; ``paths`` are seen from its root. 0 where its cache is unknown."""
    from ..cache import revisions
    from ..transfer import cached_files

    if not paths:
        return 0
    selector = _select_mount(where, settings)
    above = f"{selector.path}/" if selector.path else ""
    with open_index(selector.settings) as index:
        known = (each.commit for each in revisions.records(index)) if index is not None else ()
        commit = next((each for each in known if selector.names(each, ())), None)
        files = cached_files(index, commit, selector.path)[0] if index is not None and commit else []
    chosen = [file for file in files if file.path.removeprefix(above) in paths]
    return _allocated(selector.settings, commit, chosen) if commit and chosen else 0


def _allocated(settings: Settings, commit: Commit, files: Sequence[Entry]) -> int:
    """Looks at the blobs of these files only."""
    from ..cache import Layout, blob_info, inventory

    layout = Layout(settings.cache_dir)
    etags = {blob.etag for file in files if file.size and (blob := file.blob(commit)) is not None}
    copies = [blob_info.inspect(place) for etag in etags for place in layout.copies(etag)]
    blobs = inventory.BlobIndex(each for each in copies if each is not None)
    found = (blobs.find(commit, file) for file in files if file.size)
    return blob_info.allocated(each for each in found if each is not None and each.bytes_local)


@dataclass(frozen=True, slots=True)
class TargetSelector:
    """What a TARGET names: commits, and in them a path ("" for all)."""

    target: str
    settings: Settings
    names: Callable[[Commit, Sequence[str]], bool]
    path: str

    def inside(self, path: str) -> bool:
        return is_below(path, self.path)


def _select(target: str, settings: Settings) -> TargetSelector:
    if mounts.is_path(target):
        return _select_mount(target, settings)
    from ..sources.hub.repo_id import parse_repo

    return _select_repo(target, parse_repo(target), settings)


def _select_repo(target: str, ref: RepoRef, settings: Settings) -> TargetSelector:
    def names(commit: Commit, revisions: Sequence[str]) -> bool:
        if (commit.type, commit.id) != (ref.type, ref.id):
            return False
        asked = ref.revision
        return asked is None or asked in revisions or (len(asked) >= _LEAST_SHA and commit.sha.startswith(asked))

    return TargetSelector(target, settings, names, ref.subfolder)


def _select_mount(target: str, settings: Settings) -> TargetSelector:
    where, path = mounts.place(target, settings.runtime_dir)
    status = mounts.status_of(where, settings.runtime_dir)[0]
    shown = status["commit"], status["repo"], RepoType(status["type"])
    return TargetSelector(
        target,
        replace(settings, cache_dir=status["cache"]["dir"] or settings.cache_dir),
        lambda commit, _: (commit.sha, commit.id, commit.type) == shown,
        "/".join(part for part in (status["root"], path) if part),
    )


def known_of(target: str, ref: RepoRef, settings: Settings) -> tuple[list[ListedCommit], Callable[[str], bool]]:
    """The known commits that a repo's name stands for, and which of their paths it means.

    Raises NotFound (nothing is known of it), CacheUnusable."""
    selector = _select_repo(target, ref, settings)
    commits = scan(settings)[1]
    _require_known(selector, commits)
    return [each for each in commits if selector.names(each.commit, each.revisions)], selector.inside


def _require_known(selector: TargetSelector, commits: list[ListedCommit]) -> None:
    """Raises NotFound where nothing is known of what a target names."""
    for listed in commits:
        if selector.names(listed.commit, listed.revisions) and any(selector.inside(file.path) for file in listed.files):
            return
    raise NotFound(f"nothing of {selector.target} is known in this cache", "see hffs cache list")


def scan(settings: Settings) -> tuple[BlobIndex, list[ListedCommit]]:
    """All blobs on the disk, and all commits that are known. Raises CacheUnusable."""
    from ..cache import Layout, blob_info, inventory, revisions
    from ..transfer import cached_files

    layout = Layout(settings.cache_dir)
    layout.check_version()
    blobs = inventory.BlobIndex(blob_info.scan(layout))
    records: dict[tuple[str, str, str, str], list[revisions.RevisionRecord]] = {}
    found = []
    with open_index(settings) as index:
        if index is None:
            return blobs, []
        for each in revisions.records(index):
            commit = each.commit
            records.setdefault((commit.source, commit.type, commit.id, commit.sha), []).append(each)
        for group in records.values():
            files, complete = cached_files(index, group[0].commit)
            names = tuple(sorted({each.commit.revision for each in group if each.current}))
            seen = max(each.last_seen for each in group)
            found.append(inventory.ListedCommit(group[0].commit, names, seen, tuple(files), complete))
    return blobs, found


def last_listing(settings: Settings, ref: RepoRef) -> tuple[Commit, Sequence[Entry]] | None:
    """The commit that a revision was when the Hub was asked last, and its files at or below the subfolder; None where
    not all of them are known."""
    from ..cache import revisions
    from ..transfer import cached_files

    with open_index(settings) as index:
        seen = None if index is None else revisions.last_known(index, settings.endpoint, ref)
        if index is None or seen is None:
            return None
        files, complete = cached_files(index, seen.commit, ref.subfolder)
    return (seen.commit, files) if complete else None


@contextmanager
def open_index(settings: Settings) -> Iterator[Index | None]:
    """The metadata index; None where there is no cache, which is not created by looking at it."""
    from ..cache import Index, Layout

    folder = Layout(settings.cache_dir).index
    if not os.path.isdir(folder):
        yield None
        return
    with closing(Index(folder)) as index:
        yield index


def _evict(settings: Settings, blobs: Sequence[BlobInfo], shared: int) -> EvictResult:
    from ..cache import Layout, blob_info

    stay = Counter(shared=shared) if shared else Counter[str]()
    count = freed = 0
    in_use = blob_info.open_files(Layout(settings.cache_dir)) if blobs else frozenset()
    for each in blobs:
        result = blob_info.evict(each, in_use)
        freed += result.bytes
        if result.kept:
            stay[result.kept] += 1
        else:
            count += 1
    return EvictResult(count, freed, dict(stay))


def _as_tuple(patterns: str | Sequence[str] | None) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns or ())
