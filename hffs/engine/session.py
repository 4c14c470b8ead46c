"""A commit's files, ready to be read and fetched: the rooms below the file system put together, started in order.

Used by ``app`` for a mount and by the Python API to hydrate without one. Each part is closed by the ``ExitStack`` that
it was opened with, in the opposite order. What the Hub or the disk says no to is raised as one of our errors.
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
from ..sources.hub import Auth, HttpTransport, HubAccess, HubCatalog, UrlResolver
from ..transfer import HASH_NICE, CacheMaintenance, CommitFiles, Fetcher, Listings, Throttle, Timers
from ..vfs import Patterns
from .adopter import Adopter
from .connectivity import SWITCHED, HubConnectivity, ReachedCatalog, ReachedTransport

log = logging.getLogger(__name__)

# For workers that wait for a server that does not answer: whoever unmounts waits for the process to end. What they were
# bringing is lost as at a kill, that is, asked for again; more than a block each it is not.
STOP_SECONDS: Final = 2.0
# A worker waits on the network; this many for each processor but one, which is kept free for who uses the files.
WORKERS_A_CORE: Final = 16
# 8 connections fill 1 Gbit/s at 30 ms and are what other tools open; 2 more are kept for readers that wait.
FEWEST: Final = 10


class IsFile(NotFound):
    """A folder was asked for, and ``path`` (from the repo's root) is a file."""

    def __init__(self, path: str, name: str, remedy: str) -> None:
        super().__init__(f"{path!r} of {name} is a file, not a folder", remedy)
        self.path = path


@dataclass(frozen=True, slots=True)
class HubContext:
    """A cache directory and who is asked for what it lacks, within ``reach``."""

    layout: Layout
    index: Index
    standing: HubAccess
    catalog: HubCatalog
    reach: HubConnectivity

    def listings(self, commit: Commit, root: str) -> Listings:
        """Not loaded yet."""
        return Listings(ReachedCatalog(self.catalog, self.reach), self.index, commit, root=root)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A revision as it is now: its commit, the folder asked for, its listing as far as it is known, the name to show,
    and why its files may not be read yet, where that is so. ``warning`` tells when it is not sure to be so now."""

    commit: Commit
    subfolder: str
    listings: Listings
    name: str
    refused: AccessDenied | None
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """What brings bytes."""

    store: BlobStore
    budget: CacheBudget
    transport: HttpTransport
    fetcher: Fetcher
    content: CommitFiles


def open_hub(settings: Settings, stack: contextlib.ExitStack, *, lapse_seconds: float = 0.0) -> HubContext:
    """``lapse_seconds`` what is done in the background waits for another token where one had worked. Raises
    CacheUnusable, NoSpace."""
    _allow_many_files()
    layout = Layout(settings.cache_dir)
    layout.prepare()
    index = Index(layout.index)
    stack.callback(index.close)
    standing = HubAccess(Auth(settings.token_file), lapse_seconds=lapse_seconds)
    reach = HubConnectivity(switched=settings.offline)
    stack.callback(reach.stop)
    return HubContext(layout, index, standing, HubCatalog(settings.endpoint, standing), reach)


def resolve(hub: HubContext, ref: RepoRef) -> Resolved:
    """What the Hub says a revision is; what it said last, when hffs is offline or the Hub is away.

    Raises NotFound, IsFile, AccessDenied, HubUnreachable (nothing is known of it here)."""
    if hub.reach.switched:
        return _last_known(hub, ref, None)
    try:
        about = hub.catalog.info(ref)
    except HubUnreachable as away:
        return _last_known(hub, ref, away)
    commit = about.commit
    revisions.record(hub.index, ref.id, commit, time.time())
    refused = _refused(hub.catalog, commit) if about.gated else None
    listings = _listings(hub, commit, ref.subfolder)
    log.info("event=resolved repo=%s revision=%s commit=%s", commit.id, commit.revision, commit.sha)
    return Resolved(commit, ref.subfolder, listings, str(replace(ref, id=commit.id)), refused)


def resolve_path(hub: HubContext, ref: RepoRef) -> tuple[Resolved, str]:
    """As ``resolve``, of a repo, a folder of one or a single file; the path of that file, "" for a folder."""
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
    """Workers, timers and the store, running until ``stack`` closes; ``adopting`` also what takes over, in the
    background, what huggingface_hub has of the repo."""
    commit = listings.commit
    hf_repo = HubCache(settings.hf_cache).repo(commit.type, commit.id) if settings.hf_cache else None
    store = BlobStore(hub.layout, hf_repo=hf_repo)
    stack.callback(store.close)
    budget = CacheBudget(store, settings.cache_size, settings.min_free)
    stack.callback(budget.close)
    transport = HttpTransport(UrlResolver(hub.standing), hub.standing)
    reached = ReachedTransport(transport, hub.reach)
    timers = Timers()
    timers.start()
    stack.callback(timers.stop)
    most = most_workers(settings.workers, os.cpu_count() or 1)
    fetcher = Fetcher(
        store,
        reached,
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
        background_delay=transport.pace,
    )
    fetcher.start()
    stack.callback(fetcher.stop, STOP_SECONDS)

    def look() -> None:
        fetcher.probe()
        if hub.standing.recovered():
            fetcher.resume()

    housekeeping = CacheMaintenance(budget, look)
    housekeeping.start()
    stack.callback(housekeeping.stop)
    stack.callback(transport.close)  # first of all: a worker that waits for a byte is let go at once
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
    return Session(store, budget, transport, fetcher, content)


def start_fetcher(settings: Settings, commit: Commit, stack: contextlib.ExitStack) -> Fetcher:
    """A fetcher without listings or readers, as to mend files; it runs until ``stack`` closes."""
    hub = open_hub(settings, stack)
    return start(hub, hub.listings(commit, ""), settings, stack, adopting=False, hash_nice=0).fetcher


def most_workers(asked: int | None, cores: int) -> int:
    """How many workers there may ever be: ``--workers``, else 16 for each processor but one."""
    return asked if asked is not None else max(FEWEST, WORKERS_A_CORE * max(1, cores - 1))


def _refused(catalog: HubCatalog, commit: Commit) -> AccessDenied | None:
    """Why the files of a gated repo may not be read. Its listing is public, and access may be granted while it is
    mounted; but who mounts it is told at once, not only by EACCES. Whatever else is wrong, the first read will tell."""
    try:
        # In nearly every repo; and who has no access is refused before the Hub looks whether there is such a file.
        catalog.complete_size(commit, Entry(".gitattributes", "file"))
    except AccessDenied as refused:
        return refused
    except HffsError as error:
        log.debug("event=access-not-known error=%s", error)
    return None


def ask_again(hub: HubContext, ref: RepoRef) -> None:
    """Learn what the revision is now, for who mounts it next. Raises as ``HubCatalog.resolve``."""
    revisions.record(hub.index, ref.id, hub.catalog.resolve(ref), time.time())


def _last_known(hub: HubContext, ref: RepoRef, away: HubUnreachable | None) -> Resolved:
    """``away`` is why the Hub did not say; None: it was not to be asked."""
    seen = revisions.last_known(hub.index, hub.catalog.endpoint, ref)
    if seen is None:
        if away is not None:
            raise away
        raise Offline(f"{ref} was never seen on this machine, and hffs is offline", SWITCHED)
    commit = seen.commit
    if away is not None and not isinstance(away, RateLimited):
        hub.reach.lost()
    try:
        listings = _listings(hub, commit, ref.subfolder)
    except Offline as unlisted:
        if away is not None:
            raise away from unlisted
        raise Offline(f"the files of {ref} were never listed on this machine, and hffs is offline", SWITCHED) from None
    at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seen.last_seen))
    log.info("event=last-known repo=%s revision=%s commit=%s seen=%s", commit.id, commit.revision, commit.sha, at)
    name = str(replace(ref, id=commit.id))
    warning = "" if away is None else f"{away.what}: {name} is shown as it was on {at}"
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


def _allow_many_files() -> None:
    """An open blob takes three descriptors and a small-file prefetch opens up to 256 blobs; the soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
