"""What a Hub says about repos: which commit a revision is, and what is listed there.

``transfer.listings`` and the commands that look without mounting call it. Listing entries become ``model.Entry``
values; names that must not become paths are dropped here, so that nobody above ever sees one. It keeps nothing: the
index does. Never fetches content. Any thread; each call is one or a few requests, none under a lock.
"""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from huggingface_hub import HfApi, RepoFile, RepoFolder

from ... import __version__
from ...errors import BadResponse, EntryNotFound, NameRefused, UsageError
from ...model import Commit, Entry, RepoRef
from ...names import MOST_SIZE, check_name
from ..base import ResolvedRepo, TreePage
from ..http.headers import plain_etag
from .access import HubAccess
from .http_errors import RequestSubject
from .hub_api import Exchange, HubClient
from .repo_id import parse_repo
from .urls import host_of, resolve_url

log = logging.getLogger(__name__)

# Paths in one paths-info request: a form of some 10 KB, well below what servers take.
LOOKUP_BATCH: Final = 100
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_LONGEST_ETAG: Final = 256  # characters: those of object stores have 34 to 70
# git's sha1 or an LFS sha256. What a listing names instead is taken as not told: a HEAD may know better.
_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LATEST: Final = 0xFFFF_FFFF  # the year 2106; what a file's time may be on every file system
# Characters of all names and folders of a listing: with 2 million entries (answers.MOST_ENTRIES) 250 each on average.
_MOST_TEXT: Final = 512 << 20
_PROPERTIES: Final[Any] = ["sha", "lastModified", "private", "gated"]  # of a repo, by the Hub's names for them


class HubCatalog:
    """One Hub's repos. Every method raises RepoNotFound, RevisionNotFound, AccessDenied, HubUnreachable, RateLimited
    or BadResponse besides what it says itself."""

    def __init__(self, endpoint: str, standing: HubAccess, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._hub = HubClient(self.endpoint, standing, sleep=sleep)
        # token=False: the client puts the token of the moment on each request itself.
        self._api = HfApi(self.endpoint, token=False, library_name="hffs", library_version=__version__)

    @property
    def requests(self) -> int:
        """Requests sent to the Hub so far."""
        return self._hub.requests

    def resolve(self, ref: RepoRef) -> ResolvedRepo:
        """As ``Source.resolve``; the commit carries the repo's present id, also where ``ref`` has an old one."""
        about = RequestSubject.of_ref(self.endpoint, ref)
        with self._hub.asking(self._hub.exchange(about)):
            found = self._api.repo_info(ref.id, revision=ref.revision, repo_type=ref.type.value, expand=_PROPERTIES)
            gated = found.gated if isinstance(found.gated, str) else bool(found.gated)
            return ResolvedRepo(self._commit(ref, about, found), bool(found.private), gated)

    def list_tree(self, commit: Commit, path: str) -> TreePage:
        """As ``Source.list_tree``."""
        exchange = self._hub.exchange(RequestSubject.of_commit(commit, path), listing=True)
        tree = self._tree(commit, path, recursive=True)
        with self._hub.asking(exchange):
            items = list(itertools.islice(tree, 1))  # asks; only now it is known how many rows the page has
            page = exchange.rows
            items += itertools.islice(tree, page - len(items) if exchange.more else None)
        sieve = EntryFilter(commit, path, recursive=True)
        entries = [entry for item in items for entry in sieve.take(item)]
        if not exchange.more:
            if path and not items:  # git keeps no empty directories
                raise EntryNotFound(f"there is no directory {path!r} in {commit.type} {commit.id}")
            return TreePage(entries)
        return TreePage(entries, self._rest(exchange, tree, sieve))

    def list_directory(self, commit: Commit, path: str) -> list[Entry]:
        """As ``Source.list_directory``; all pages."""
        exchange = self._hub.exchange(RequestSubject.of_commit(commit, path), listing=True)
        sieve, empty = EntryFilter(commit, path, recursive=False), True
        entries: list[Entry] = []
        with self._hub.asking(exchange):
            for item in self._tree(commit, path, recursive=False):
                empty = False
                entries += sieve.take(item)
        if path and empty:
            raise EntryNotFound(f"there is no directory {path!r} in {commit.type} {commit.id}")
        return entries

    def stat(self, commit: Commit, paths: Iterable[str]) -> list[Entry]:
        """As ``Source.stat``."""
        found: list[Entry] = []
        wanted = list(dict.fromkeys(paths))
        for start in range(0, len(wanted), LOOKUP_BATCH):
            batch = wanted[start : start + LOOKUP_BATCH]
            exchange = self._hub.exchange(RequestSubject.of_commit(commit), listing=True)
            with self._hub.asking(exchange):
                items = self._api.get_paths_info(commit.id, batch, revision=commit.sha, repo_type=commit.type.value)
            sieve = EntryFilter(commit, "", recursive=True, only=frozenset(batch))
            found += [entry for item in items for entry in sieve.take(item)]
        return found

    def complete_size(self, commit: Commit, entry: Entry) -> Entry:
        """The entry with the size and etag that a HEAD for it tells, where its listing left them out. An etag that is
        no hash is taken too: the content can then be compared by size and etag only, and is never verified."""
        about = RequestSubject.of_commit(commit, entry.path)
        with self._hub.asking(self._hub.exchange(about)):
            told = self._api.get_hf_file_metadata(url=resolve_url(commit, entry.path))
        etag = plain_etag(told.etag)
        if told.commit_hash not in (None, commit.sha):
            raise BadResponse(f"{host_of(self.endpoint)} answers for {about} of another commit")
        size = _size(told.size)
        if size is None or etag is None or len(etag) > _LONGEST_ETAG:
            raise BadResponse(f"{host_of(self.endpoint)} tells no possible size and etag of {about}")
        # 64 digits are an LFS file's sha256, 40 a git file's sha1: what the Hub tells in X-Linked-ETag or ETag.
        lfs = len(etag) == 64 and _HASH.fullmatch(etag) is not None
        return replace(entry, size=size, etag=etag, lfs=lfs, told_by="server")

    # --- asking -----------------------------------------------------------------------------------------------------

    def _commit(self, ref: RepoRef, about: RequestSubject, found: Any) -> Commit:
        sha, repo_id, modified = found.sha, found.id, found.last_modified
        host = host_of(self.endpoint)
        if not isinstance(sha, str) or not _COMMIT.fullmatch(sha):
            raise BadResponse(f"{host} names no commit for {about}")
        if ref.revision and _COMMIT.fullmatch(ref.revision) and sha != ref.revision:
            raise BadResponse(f"{host} answers for another commit of {about} than was asked for")
        try:
            proper = isinstance(repo_id, str) and parse_repo(repo_id, type=ref.type) == RepoRef(ref.type, repo_id)
        except UsageError:
            proper = False
        if not proper:
            raise BadResponse(f"{host} calls {about} by an impossible name")
        date = modified.timestamp() if modified is not None else 0.0
        if not 0 <= date <= _LATEST:  # no file can carry it
            date = 0.0
        return Commit(ref.type, repo_id, ref.revision or "main", sha, date, self.endpoint)

    def _tree(self, commit: Commit, path: str, *, recursive: bool) -> Iterator[RepoFile | RepoFolder]:
        return iter(
            self._api.list_repo_tree(
                commit.id, path or None, recursive=recursive, revision=commit.sha, repo_type=commit.type.value
            )
        )

    def _rest(self, exchange: Exchange, tree: Iterator[RepoFile | RepoFolder], sieve: EntryFilter) -> Iterator[Entry]:
        while True:
            with self._hub.asking(exchange):
                # A page at most, so that the exchange is left between requests; its rows are only known afterwards.
                items = list(itertools.islice(tree, 1))
                items += itertools.islice(tree, exchange.rows - 1 if exchange.more else None)
            if not items:
                return
            for item in items:
                yield from sieve.take(item)


class EntryFilter:
    """Lets the entries of one listing through: proper names below what was asked for, each once."""

    def __init__(self, commit: Commit, path: str, *, recursive: bool, only: frozenset[str] | None = None) -> None:
        self._commit = commit
        self._path = path
        self._recursive = recursive
        self._only = only
        self._files: set[str] = set()
        self._folders = {path: True}  # whether listed, or only implied by what lies below
        self._text = 0
        self._warned = False

    def take(self, item: RepoFile | RepoFolder) -> Iterator[Entry]:
        path = item.path
        if path and isinstance(item, RepoFile) and path == self._path:
            raise EntryNotFound(f"{path!r} in {self._commit.type} {self._commit.id} is a file, not a directory")
        try:
            check_name(path)
        except NameRefused as refused:
            return self._drop(refused.what)
        if not self._belongs(path) or path in self._files or self._folders.get(path):
            return self._drop(f"{path!r} is listed twice or out of place")
        above = self._new_above(path)
        is_file = isinstance(item, RepoFile)
        if above is None or (is_file and path in self._folders):
            return self._drop(f"{path!r} is or lies in what is both a file and a folder")
        self._text += len(path) + sum(map(len, above))
        if self._text > _MOST_TEXT:
            host = host_of(self._commit.source)
            raise BadResponse(f"{host} lists more names of {self._commit.id} than a repo can have", lasting=True)
        self._folders.update(dict.fromkeys(above, False))
        if is_file:
            self._files.add(path)
        else:
            self._folders[path] = True
        yield _entry(item)
        return None

    def _new_above(self, path: str) -> list[str] | None:
        """The folders above that are heard of for the first time; None when one of them is a file."""
        found = []
        above = path.rpartition("/")[0]
        while above and above not in self._folders:
            if above in self._files:
                return None
            found.append(above)
            above = above.rpartition("/")[0]
        return found

    def _belongs(self, path: str) -> bool:
        if self._only is not None:
            return path in self._only
        if not self._recursive:
            return path.rpartition("/")[0] == self._path
        return not self._path or path.startswith(self._path + "/")

    def _drop(self, why: str) -> None:
        if not self._warned:  # one line a listing, or a hostile one could fill the log
            self._warned = True
            commit = self._commit
            log.warning("event=name-refused repo=%s commit=%s why=%s", commit.id, commit.sha[:12], why)


def _entry(item: RepoFile | RepoFolder) -> Entry:
    if isinstance(item, RepoFolder):
        return Entry(item.path, "directory")
    # For LFS files the size beside the path may be that of the pointer; the one inside ``lfs`` never is.
    size: object = item.size if item.lfs is None else item.lfs.size
    etag: object = item.blob_id if item.lfs is None else item.lfs.sha256
    return Entry(
        item.path,
        "file",
        size=_size(size),
        etag=etag if isinstance(etag, str) and _HASH.fullmatch(etag) else None,
        lfs=item.lfs is not None,
    )


def _size(told: object) -> int | None:
    """A size that a file can have, else None: not told."""
    return told if type(told) is int and 0 <= told <= MOST_SIZE else None
