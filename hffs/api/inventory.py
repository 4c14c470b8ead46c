"""What this machine holds, and letting it go, keeping it, looking it through: answered from disk, no server is asked.

Used by programs (``hffs.list_local``, ``hffs.is_available_locally``) and by ``hffs cache``. A TARGET is a repo
(``ORG/NAME[@REVISION][/PATH]``: without a revision all that is known of it) or a path in a mount. Mounts may be running
meanwhile. The rooms below are imported when first needed. Any thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .. import config
from ..cache.inventory import LocalRepo, LocalRevision
from ..config import Settings
from ..errors import NotFound
from ..model import Commit, Entry, RepoRef, RepoType
from . import mounts
from .options import settings_from

if TYPE_CHECKING:
    from ..cache.blob_info import BlobInfo
    from ..cache.integrity.fsck import Step
    from ..cache.inventory import BlobIndex, Inventory, Listed
    from .repo_info import Listing

__all__ = [
    "EvictResult",
    "LocalRepo",
    "LocalRevision",
    "PinResult",
    "check",
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
    """What came of letting blobs go: how many went, bytes of disk given back, and how many stay for which reason:
    ``pinned``, ``shared`` (another revision or file has the same content), ``in use`` (a mount reads or fetches it just
    now), ``elsewhere`` (the file also lies in a folder of the user's: it is out of the cache, its space is not free),
    ``unreadable`` (of a newer hffs)."""

    blobs: int
    bytes_freed: int
    stay: dict[str, int]


@dataclass(frozen=True, slots=True)
class PinResult:
    """``changed`` of ``blobs`` that are here were not so before; ``absent`` files of the target are not here at all."""

    blobs: int
    changed: int
    absent: int


def list_local(**options: Any) -> list[LocalRepo]:
    """Every repo of which something is on this machine, by name, with its revisions. Raises CacheUnusable."""
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
    """Whether every file of the repo, or of those that the patterns leave, is whole on this machine, at the commit that
    the revision was when the Hub was asked last. False where none fits, or it is not known which there are.

    Asks no server. Raises UsageError for what cannot be a repo's name."""
    from ..sources.hub import parse_repo
    from ..vfs import Patterns

    settings = settings_from(options)
    ref = parse_repo(repo, type=type, revision=revision, subfolder=subfolder)
    patterns = Patterns(_several(include), _several(exclude))
    return any(has_all(settings, ref, patterns.match) for has_all in _PLACES)


def _in_blocks(settings: Settings, ref: RepoRef, wanted: Callable[[str], bool]) -> bool:
    """In hffs's own cache, or for a part of it in huggingface_hub's, by what the Hub listed when it was last asked."""
    from ..cache import BlobStore, HubCache, Layout, revisions
    from ..model import Blob
    from ..transfer import kept

    with _index(settings) as index:
        if index is None:
            return False
        seen = revisions.last_known(index, settings.endpoint, ref)
        if seen is None:
            return False
        files, complete = kept(index, seen.commit, ref.subfolder)
    chosen = [file for file in files if wanted(file.path)]
    if not complete or not chosen:
        return False
    store = BlobStore(Layout(settings.cache_dir))
    nearby = HubCache(settings.hf_cache).repo(ref.type, seen.commit.id) if settings.hf_cache else None

    def here(blob: Blob) -> bool:
        return store.local_bytes(blob) == blob.size or (nearby is not None and nearby.has(blob.etag, blob.size))

    try:
        return all(file.size == 0 or ((blob := file.blob(seen.commit)) is not None and here(blob)) for file in chosen)
    finally:
        store.close()


def _in_hub_cache(settings: Settings, ref: RepoRef, wanted: Callable[[str], bool]) -> bool:
    """In huggingface_hub's cache, as it would tell itself without a network."""
    from ..cache import HubCache

    if not settings.hf_cache:
        return False
    found = HubCache(settings.hf_cache).repo(ref.type, ref.id).snapshot(ref.revision or "main")
    folder = f"{ref.subfolder}/" if ref.subfolder else ""
    chosen = [
        here
        for path, here in (found or {}).items()
        if (path == ref.subfolder or path.startswith(folder)) and wanted(path)
    ]
    return bool(chosen) and all(chosen)


# Where files may be whole on this machine, asked in this order: (settings, ref, wanted) → whether all are.
_PLACES: Final[list[Callable[[Settings, RepoRef, Callable[[str], bool]], bool]]] = [_in_blocks, _in_hub_cache]


def take(settings: Settings) -> Inventory:
    """The whole inventory. Raises CacheUnusable."""
    from ..cache import inventory

    shelf, commits = _looked(settings)
    return inventory.take(shelf, commits)


def evict(target: str, *, shared: bool = False, settings: Settings | None = None) -> EvictResult:
    """Let the blobs of a repo, revision, folder or file go, whole; with ``shared`` also those that other revisions or
    files have. Raises NotFound (nothing is known of it), MountNotFound, CacheUnusable, UsageError."""
    aim = _aim(target, settings or config.load())
    shelf, commits = _looked(aim.settings)
    mine, others = dict[Any, Any](), set[Any]()
    for listed in commits:
        named = aim.names(listed.commit, listed.revisions)
        mine |= shelf.held(listed, aim.inside) if named else {}
        if listed.revisions or named:
            others |= set(shelf.held(listed, lambda path, named=named: not (named and aim.inside(path))))  # type: ignore[misc]
    _insist(aim, commits)
    stay = {} if shared else {place: each for place, each in mine.items() if place in others}
    return _let_go(aim.settings, [each for place, each in mine.items() if place not in stay], len(stay))


def prune(*, older: float | None = None, settings: Settings | None = None) -> EvictResult | None:
    """Let go what no revision needs as it was when the Hub was asked last, nor any mount; with ``older`` (seconds) also
    what nobody has used for so long. None: nothing is known of any revision, so that this cannot be told.

    Raises CacheUnusable."""
    from ..cache import inventory

    settings = settings or config.load()
    shelf, commits = _looked(settings)
    if not commits and older is None and shelf.holdings:
        return None
    mounted = {record["commit"] for record in mounts.records_of(settings.runtime_dir)}
    needed = [each for each in commits if each.revisions or each.commit.sha in mounted]
    now = time.time()
    gone = inventory.needless(shelf, needed, now=now, older=older)
    if not commits:
        gone = [each for each in gone if older is not None and now - each.last_used > older]
    return _let_go(settings, gone, 0)


def pin(target: str, pinned: bool = True, *, settings: Settings | None = None) -> PinResult:
    """Protect what is here of a repo, revision, folder or file from every eviction, or no longer. What is fetched later
    is not protected. Raises as ``evict``."""
    from ..cache import blob_info

    aim = _aim(target, settings or config.load())
    shelf, commits = _looked(aim.settings)
    mine, absent = dict[Any, Any](), set[str]()
    for listed in commits:
        if aim.names(listed.commit, listed.revisions):
            mine |= shelf.held(listed, aim.inside)
            for file in listed.files:
                if file.size and aim.inside(file.path) and shelf.find(listed.commit, file) is None:
                    absent.add(file.etag or file.path)
    _insist(aim, commits)
    return PinResult(len(mine), sum(blob_info.pin(each, pinned) for each in mine.values()), len(absent))


def check(*, repair: bool = False, settings: Settings | None = None) -> Iterator[Step]:
    """Looks through the cache, blob by blob. Raises CacheUnusable."""
    from ..cache import Layout
    from ..cache.integrity import fsck

    return fsck.check(Layout((settings or config.load()).cache_dir), repair=repair)


def bytes_of_files(listing: Listing, settings: Settings) -> int:
    """What the files of a listing take on the disk, each content once."""
    files = [entry for entry in listing.entries if entry.kind == "file"]
    return _disk(settings, listing.commit, files) if files else 0


def bytes_of_mount(where: str, paths: Collection[str], settings: Settings) -> int:
    """The same for files of a mount, whose ``paths`` are seen from its root; 0 where its cache cannot be looked at."""
    from ..transfer import kept

    if not paths:
        return 0
    aim = _mounted(where, settings)
    above = f"{aim.path}/" if aim.path else ""
    with _index(aim.settings) as index:
        if index is None:
            return 0
        commits = {seen.commit.sha: seen.commit for seen in _sightings(index)}
        commit = next((each for each in commits.values() if aim.names(each, ())), None)
        files = kept(index, commit, aim.path)[0] if commit else []
    chosen = [file for file in files if file.path.removeprefix(above) in paths]
    return _disk(aim.settings, commit, chosen) if commit and chosen else 0


def _sightings(index: Any) -> list[Any]:
    from ..cache import revisions

    return revisions.sightings(index)


def _disk(settings: Settings, commit: Commit, files: Sequence[Entry]) -> int:
    """Looks at the blobs of these files only."""
    from ..cache import Layout, blob_info, inventory

    layout = Layout(settings.cache_dir)
    blobs = (file.blob(commit) for file in files if file.size)
    etags = {blob.etag for blob in blobs if blob is not None}
    copies = [blob_info.look(place) for etag in etags for place in layout.copies(etag)]
    shelf = inventory.BlobIndex(each for each in copies if each is not None)
    found = (shelf.find(commit, file) for file in files if file.size)
    return blob_info.allocated(each for each in found if each is not None and each.bytes_local)


@dataclass(frozen=True, slots=True)
class TargetSelector:
    """What a TARGET names: commits, and in them a path ("" for all)."""

    target: str
    settings: Settings
    names: Callable[[Commit, Sequence[str]], bool]
    path: str

    def inside(self, path: str) -> bool:
        return not self.path or path == self.path or path.startswith(f"{self.path}/")


def _aim(target: str, settings: Settings) -> TargetSelector:
    if mounts.is_path(target):
        return _mounted(target, settings)
    from ..sources.hub import parse_repo

    return _aim_at(target, parse_repo(target), settings)


def _aim_at(target: str, ref: RepoRef, settings: Settings) -> TargetSelector:
    def names(commit: Commit, revisions: Sequence[str]) -> bool:
        if (commit.type, commit.id) != (ref.type, ref.id):
            return False
        asked = ref.revision
        return asked is None or asked in revisions or (len(asked) >= _LEAST_SHA and commit.sha.startswith(asked))

    return TargetSelector(target, settings, names, ref.subfolder)


def known_of(target: str, ref: RepoRef, settings: Settings) -> tuple[list[Listed], Callable[[str], bool]]:
    """The commits that a repo's name stands for, of all that is known here, and which of their paths it means.

    Raises NotFound (nothing is known of it), CacheUnusable."""
    aim = _aim_at(target, ref, settings)
    _, commits = _looked(settings)
    _insist(aim, commits)
    return [each for each in commits if aim.names(each.commit, each.revisions)], aim.inside


def everything_known(settings: Settings) -> tuple[BlobIndex, list[Listed]]:
    """All blobs that lie here, and all commits that are known. Raises CacheUnusable."""
    return _looked(settings)


def _mounted(target: str, settings: Settings) -> TargetSelector:
    from dataclasses import replace

    where, path = mounts.place(target, settings.runtime_dir)
    status = mounts.status_of(where, settings.runtime_dir)[0]
    sha, repo, kind = status["commit"], status["repo"], RepoType(status["type"])
    cache = status["cache"]["dir"] or settings.cache_dir
    inside = "/".join(part for part in (status["root"], path) if part)
    return TargetSelector(
        target,
        replace(settings, cache_dir=cache),
        lambda commit, _: (commit.sha, commit.id, commit.type) == (sha, repo, kind),
        inside,
    )


def _insist(aim: TargetSelector, commits: list[Listed]) -> None:
    """Raises NotFound where nothing is known of what a target names."""
    for listed in commits:
        if aim.names(listed.commit, listed.revisions) and any(aim.inside(file.path) for file in listed.files):
            return
    raise NotFound(f"nothing is known here of {aim.target}", "hffs cache list shows what is")


def _looked(settings: Settings) -> tuple[BlobIndex, list[Listed]]:
    """What lies on the disk, and what is known of the commits it is of."""
    from ..cache import Layout, blob_info, inventory, revisions
    from ..transfer import kept

    layout = Layout(settings.cache_dir)
    layout.refuse_newer()
    shelf = inventory.BlobIndex(blob_info.scan(layout))
    commits: dict[tuple[str, str, str, str], list[revisions.RevisionRecord]] = {}
    with _index(settings) as index:
        if index is None:
            return shelf, []
        for each in revisions.sightings(index):
            commit = each.commit
            commits.setdefault((commit.endpoint, commit.type, commit.id, commit.sha), []).append(each)
        found = []
        for group in commits.values():
            files, complete = kept(index, group[0].commit)
            names = tuple(sorted({each.commit.revision for each in group if each.current}))
            seen = max(each.last_seen for each in group)
            found.append(inventory.Listed(group[0].commit, names, seen, tuple(files), complete))
    return shelf, found


@contextmanager
def _index(settings: Settings) -> Iterator[Any]:
    """The metadata index, if there is one: a cache that does not exist is not made by looking."""
    from ..cache import Index, Layout

    folder = Layout(settings.cache_dir).index
    if not os.path.isdir(folder):
        yield None
        return
    index = Index(folder)
    try:
        yield index
    finally:
        index.close()


def _let_go(settings: Settings, gone: Sequence[BlobInfo], shared: int) -> EvictResult:
    from ..cache import Layout, blob_info

    stay = {"shared": shared} if shared else {}
    blobs = freed = 0
    in_use = blob_info.busy(Layout(settings.cache_dir)) if gone else frozenset()
    for each in gone:
        let = blob_info.free(each, in_use)
        freed += let.bytes
        if let.kept:
            stay[let.kept] = stay.get(let.kept, 0) + 1
        else:
            blobs += 1
    return EvictResult(blobs, freed, stay)


def _several(patterns: str | Sequence[str] | None) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns or ())
