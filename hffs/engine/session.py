"""A commit's files, ready to be read and fetched: the rooms below the file system put together, started in order.

``app`` calls it for a mount, the Python API to hydrate and verify without one. Each part is closed by the ``ExitStack``
it was opened with, in the opposite order. Refusals of a source or of the disk are raised as HffsError.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import time
from dataclasses import dataclass, replace
from typing import Final

from ..cache import BlobStore, CacheBudget, HubCache, Index, Layout, revisions
from ..config import Settings
from ..errors import AccessDenied, HffsError, HubUnreachable, NotFound, Offline, RateLimited
from ..model import Commit, Entry, RepoRef
from ..policy import RESERVED, ConcurrencyController
from ..sources.base import Source, SourceSet
from ..transfer import HASH_NICE, CacheMaintenance, CommitFiles, Fetcher, Listings, Throttle, Timers
from ..vfs import Patterns
from .adopter import Adopter
from .connectivity import SET_OFFLINE, GatedSource, HubConnectivity
from .sources import hub_source

log = logging.getLogger(__name__)

# For workers that wait for a server that does not answer: an unmount waits for the process to end. The blocks that they
# are fetching, one each, are lost as at a kill and fetched again.
STOP_SECONDS: Final = 2.0
# Workers wait on the network; this many for each processor but one, which is left to the programs that read.
WORKERS_A_CORE: Final = 16
# 8 connections fill 1 Gbit/s at 30 ms and are what other tools open; 2 more are reserved for waiting readers.
FEWEST: Final = 10


class IsFile(NotFound):
    """The folder to mount, ``path`` from the repo's root, is a file."""

    def __init__(self, path: str, name: str, remedy: str) -> None:
        super().__init__(f"{path!r} of {name} is a file, not a folder", remedy)
        self.path = path


@dataclass(frozen=True, slots=True)
class HubContext:
    """A cache directory and the sources of what it lacks. ``source`` resolves names and is not gated; ``sources``
    holds every source, each behind the gate of its connectivity."""

    layout: Layout
    index: Index
    source: Source
    connectivity: HubConnectivity
    sources: SourceSet

    def listings(self, commit: Commit, root: str) -> Listings:
        """The listings of a commit of any of the sources, not loaded yet."""
        return Listings(self.sources.of(commit.source), self.index, commit, root=root)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A revision resolved: its commit, the folder to mount, its listing as far as it is known, the name to show.
    ``refused``: why its files may not be read at present; ``warning``: why it may be out of date; both mostly empty."""

    commit: Commit
    subfolder: str
    listings: Listings
    name: str
    refused: AccessDenied | None
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """A commit's files with everything that fetches them, running."""

    store: BlobStore
    budget: CacheBudget
    fetcher: Fetcher
    content: CommitFiles


def open_context(settings: Settings, stack: contextlib.ExitStack, source: Source, *others: Source) -> HubContext:
    """The cache directory of the settings, with ``source`` to resolve names at and ``others`` whose commits are used.
    Raises CacheUnusable, NoSpace."""
    _raise_file_limit()
    layout = Layout(settings.cache_dir)
    layout.prepare()
    index = Index(layout.index)
    stack.callback(index.close)
    connectivity = HubConnectivity(disabled=settings.offline)
    stack.callback(connectivity.stop)
    gated = [GatedSource(each, HubConnectivity(disabled=settings.offline)) for each in others]
    return HubContext(layout, index, source, connectivity, SourceSet(GatedSource(source, connectivity), *gated))


def resolve(hub: HubContext, ref: RepoRef) -> Resolved:
    """The commit of a revision as the source has it; as it was last seen, when hffs is offline or the source is
    unreachable.

    Raises NotFound, IsFile, AccessDenied, HubUnreachable (and the cache has no record of the revision)."""
    if hub.connectivity.disabled:
        return _last_known(hub, ref, None)
    try:
        found = hub.source.resolve(ref)
    except HubUnreachable as error:
        return _last_known(hub, ref, error)
    commit = found.commit
    revisions.record(hub.index, ref.id, commit, time.time())
    refused = _refused(hub.source, commit) if found.gated else None
    listings = _listings(hub, commit, ref.subfolder)
    log.info("event=resolved repo=%s revision=%s commit=%s", commit.id, commit.revision, commit.sha)
    return Resolved(commit, ref.subfolder, listings, str(replace(ref, id=commit.id)), refused)


def resolve_path(hub: HubContext, ref: RepoRef) -> tuple[Resolved, str]:
    """As ``resolve``, of a repo, a folder or a single file; with the path of the file, "" for a repo or folder."""
    try:
        return resolve(hub, ref), ""
    except IsFile as file:
        return resolve(hub, replace(ref, subfolder=file.path.rpartition("/")[0])), file.path


def start(
    hub: HubContext,
    listings: Listings,
    settings: Settings,
    stack: contextlib.ExitStack,
    *,
    adopting: bool = True,
    hash_nice: int = HASH_NICE,
) -> Session:
    """Starts workers, timers and the store, which run until ``stack`` closes; with ``adopting`` also the adopter, which
    takes over in the background what huggingface_hub has of the repo."""
    commit = listings.commit
    hf_repo = HubCache(settings.hf_cache).repo(commit.type, commit.id) if settings.hf_cache else None
    store = BlobStore(hub.layout, hf_repo=hf_repo)
    stack.callback(store.close)
    budget = CacheBudget(store, settings.cache_size, settings.min_free)
    stack.callback(budget.close)
    timers = Timers()
    timers.start()
    stack.callback(timers.stop)
    most = most_workers(settings.workers, os.cpu_count() or 1)
    fetcher = Fetcher(
        store,
        hub.sources,
        timers,
        workers=most,
        ahead=None if settings.workers is None else most,
        controller=ConcurrencyController(
            most=max(1, most - RESERVED),
            min_speed=settings.min_worker_speed,
            probe_seconds=settings.probe_seconds,
            bound=f"{WORKERS_A_CORE} for each core but one"
            if settings.workers is None
            else "the limit set by --workers",
        ),
        fetch_size=settings.fetch_size,
        throttle=Throttle(settings.bandwidth),
        hash_nice=hash_nice,
        budget=budget,
        background_delay=hub.sources.background_delay,
    )
    fetcher.start()
    stack.callback(fetcher.stop, STOP_SECONDS)

    def poll() -> None:
        fetcher.probe()
        if hub.sources.recovered():
            fetcher.resume()

    maintenance = CacheMaintenance(budget, poll)
    maintenance.start()
    stack.callback(maintenance.stop)
    stack.callback(hub.sources.close)  # before the fetcher stops: a worker that waits for a byte is released at once
    content = CommitFiles(listings, store, fetcher, read_timeout=settings.read_timeout, prefetch=settings.prefetch)
    stack.callback(content.close)
    if hf_repo is not None and adopting:
        adopter = Adopter(store)
        store.on_adoptable = adopter.first
        stack.callback(adopter.stop)
        if hf_repo.exists():
            wanted = Patterns(settings.include, settings.exclude)
            adopter.begin(
                lambda: [
                    content.remote_file(entry).blob
                    for entry in listings.files()
                    if entry.etag and entry.size and wanted.match(entry.path)
                ]
            )
    return Session(store, budget, fetcher, content)


def start_fetcher(settings: Settings, commit: Commit, stack: contextlib.ExitStack) -> Fetcher:
    """A fetcher for files of ``commit`` without listings or readers, for repairs; it runs until ``stack`` closes."""
    hub = open_context(settings, stack, hub_source(replace(settings, endpoint=commit.source)))
    return start(hub, hub.listings(commit, ""), settings, stack, adopting=False, hash_nice=0).fetcher


def most_workers(asked: int | None, cores: int) -> int:
    """The upper bound of workers: ``--workers``, else 16 for each processor but one."""
    return asked if asked is not None else max(FEWEST, WORKERS_A_CORE * max(1, cores - 1))


def _refused(source: Source, commit: Commit) -> AccessDenied | None:
    """Why the files of a gated repo may not be read. Its listing is public and access may be granted while it is
    mounted, so that this is a warning of the mount. Any other failure is left to the first read."""
    try:
        # Nearly every repo has it; and the Hub refuses access before it looks for the file.
        source.complete_size(commit, Entry(".gitattributes", "file"))
    except AccessDenied as refused:
        return refused
    except HffsError as error:
        log.debug("event=access-not-known error=%s", error)
    return None


def refresh(hub: HubContext, ref: RepoRef) -> Commit:
    """The commit of a revision now, recorded for the next mount of it. Raises as ``Source.resolve``, and Offline."""
    commit = hub.sources.of(hub.source.id).resolve(ref).commit
    revisions.record(hub.index, ref.id, commit, time.time())
    return commit


def _last_known(hub: HubContext, ref: RepoRef, failure: HubUnreachable | None) -> Resolved:
    """The revision as last seen; ``failure`` is why the source did not answer, None when hffs is offline."""
    seen = revisions.last_known(hub.index, hub.source.id, ref)
    if seen is None:
        if failure is not None:
            raise failure
        raise Offline(f"{ref} was never seen on this machine, and hffs is offline", SET_OFFLINE)
    commit = seen.commit
    if failure is not None and not isinstance(failure, RateLimited):
        hub.connectivity.mark_unreachable()
    try:
        listings = _listings(hub, commit, ref.subfolder)
    except Offline as unlisted:
        if failure is not None:
            raise failure from unlisted
        never = f"the files of {ref} were never listed on this machine, and hffs is offline"
        raise Offline(never, SET_OFFLINE) from None
    at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seen.last_seen))
    log.info("event=last-known repo=%s revision=%s commit=%s seen=%s", commit.id, commit.revision, commit.sha, at)
    name = str(replace(ref, id=commit.id))
    warning = "" if failure is None else f"{failure.what}: {name} is shown as it was on {at}"
    if warning:
        log.warning("event=hub-away repo=%s error=%s", name, warning)
    return Resolved(commit, ref.subfolder, listings, name, None, warning)


def _listings(hub: HubContext, commit: Commit, subfolder: str) -> Listings:
    listings = hub.listings(commit, subfolder)
    try:
        listings.load()
    except NotFound:
        if not subfolder:
            raise
        at = "" if commit.revision == "main" else f"@{commit.revision}"
        name = f"{commit.type.prefix}{commit.id}{at}"
        if listings.is_file(subfolder):
            above = subfolder.rpartition("/")[0]
            raise IsFile(subfolder, name, f"mount {f'{name}/{above}' if above else name}") from None
        raise NotFound(f"{name} has no folder {subfolder!r}", f"see hffs ls {name}") from None
    return listings


def _raise_file_limit() -> None:
    """An open blob takes three descriptors and a small-file prefetch opens up to 256 blobs; the soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
