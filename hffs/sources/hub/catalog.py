"""What a Hub lists: the commit of a revision, and the entries of a commit.

Entries become ``model.Entry`` values; names that must not become paths are dropped here. Nothing is cached, the index
does that, and no content is fetched. Any thread; each call is one or a few requests, none under a lock.
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
from ..http.urls import host_of
from .access import HubAccess
from .hub_api import Exchange, HubClient
from .hub_errors import RequestSubject
from .repo_id import parse_repo
from .urls import resolve_url

log = logging.getLogger(__name__)

# Paths in one paths-info request: a form of some 10 KB, well below what servers take.
LOOKUP_BATCH: Final = 100
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_MAX_ETAG: Final = 256  # characters: those of object stores have 34 to 70
# git's sha1 or an LFS sha256. Anything else in a listing counts as missing, and is requested by a HEAD.
_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_DATE: Final = 0xFFFF_FFFF  # the year 2106: the latest time that every file system can store
# Characters of all names and folders of a listing: 250 each on average for bounded_response.MAX_ENTRIES.
_MAX_TEXT: Final = 512 << 20
_PROPERTIES: Final[Any] = ["sha", "lastModified", "private", "gated"]  # of a repo, by the Hub's names for them


class HubCatalog:
    """The repos of the Hub at ``endpoint``, listed as ``Source`` requires it."""

    def __init__(self, endpoint: str, access: HubAccess, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._hub = HubClient(self.endpoint, access, sleep=sleep)
        # token=False: HubClient adds the present token to each request.
        self._api = HfApi(self.endpoint, token=False, library_name="hffs", library_version=__version__)

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        return self._hub.requests

    def resolve(self, ref: RepoRef) -> ResolvedRepo:
        """As ``Source.resolve``; the commit carries the repo's present id, also where ``ref`` has an old one."""
        about = RequestSubject.of_ref(self.endpoint, ref)
        with self._hub.calling(self._hub.exchange(about)):
            found = self._api.repo_info(ref.id, revision=ref.revision, repo_type=ref.type.value, expand=_PROPERTIES)
            gated = found.gated if isinstance(found.gated, str) else bool(found.gated)
            return ResolvedRepo(self._commit(ref, about, found), bool(found.private), gated)

    def list_tree(self, commit: Commit, path: str) -> TreePage:
        """As ``Source.list_tree``."""
        exchange = self._hub.exchange(RequestSubject.of_commit(commit, path), listing=True)
        tree = self._tree(commit, path, recursive=True)
        with self._hub.calling(exchange):
            items = _page(tree, exchange)
        names = EntryFilter(commit, path, recursive=True)
        entries = list(names.take(items))
        if exchange.more:
            return TreePage(entries, self._rest(exchange, tree, names))
        names.check_exists()
        return TreePage(entries)

    def list_directory(self, commit: Commit, path: str) -> list[Entry]:
        """As ``Source.list_directory``; all pages."""
        exchange = self._hub.exchange(RequestSubject.of_commit(commit, path), listing=True)
        names = EntryFilter(commit, path, recursive=False)
        with self._hub.calling(exchange):
            entries = list(names.take(self._tree(commit, path, recursive=False)))
        names.check_exists()
        return entries

    def stat(self, commit: Commit, paths: Iterable[str]) -> list[Entry]:
        """As ``Source.stat``."""
        found: list[Entry] = []
        wanted = list(dict.fromkeys(paths))
        for start in range(0, len(wanted), LOOKUP_BATCH):
            batch = wanted[start : start + LOOKUP_BATCH]
            exchange = self._hub.exchange(RequestSubject.of_commit(commit), listing=True)
            with self._hub.calling(exchange):
                items = self._api.get_paths_info(commit.id, batch, revision=commit.sha, repo_type=commit.type.value)
            found += EntryFilter(commit, "", recursive=True, only=frozenset(batch)).take(items)
        return found

    def complete_size(self, commit: Commit, entry: Entry) -> Entry:
        """As ``Source.complete_size``, by a HEAD. An etag that is no hash is accepted too: the content can then be
        compared by size and etag only, and is never verified."""
        about = RequestSubject.of_commit(commit, entry.path)
        with self._hub.calling(self._hub.exchange(about)):
            found = self._api.get_hf_file_metadata(url=resolve_url(commit, entry.path))
        etag = plain_etag(found.etag)
        if found.commit_hash not in (None, commit.sha):
            raise BadResponse(f"{host_of(self.endpoint)} answers for {about} of another commit")
        size = _size(found.size)
        if size is None or etag is None or len(etag) > _MAX_ETAG:
            raise BadResponse(f"{host_of(self.endpoint)} names no possible size and etag of {about}")
        # 64 digits are an LFS file's sha256, 40 a git file's sha1, as the Hub sends them in X-Linked-ETag or ETag.
        lfs = len(etag) == 64 and _HASH.fullmatch(etag) is not None
        return replace(entry, size=size, etag=etag, lfs=lfs, etag_from="server")

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
        if not 0 <= date <= _MAX_DATE:  # no file can have it
            date = 0.0
        return Commit(ref.type, repo_id, ref.revision or "main", sha, date, self.endpoint)

    def _tree(self, commit: Commit, path: str, *, recursive: bool) -> Iterator[RepoFile | RepoFolder]:
        return iter(
            self._api.list_repo_tree(
                commit.id, path or None, recursive=recursive, revision=commit.sha, repo_type=commit.type.value
            )
        )

    def _rest(self, exchange: Exchange, tree: Iterator[RepoFile | RepoFolder], names: EntryFilter) -> Iterator[Entry]:
        while True:
            with self._hub.calling(exchange):
                items = _page(tree, exchange)
            if not items:
                return
            yield from names.take(items)


class EntryFilter:
    """Passes the entries of one listing: names that ``check_name`` accepts, below what was requested, each once."""

    def __init__(self, commit: Commit, path: str, *, recursive: bool, only: frozenset[str] | None = None) -> None:
        self._commit = commit
        self._path = path
        self._recursive = recursive
        self._only = only
        self._files: set[str] = set()
        self._folders = {path: True}  # whether listed, or only implied by the paths below
        self._items = self._text = 0
        self._warned = False

    def take(self, items: Iterable[RepoFile | RepoFolder]) -> Iterator[Entry]:
        for item in items:
            self._items += 1
            if self._passes(item):
                yield _entry(item)

    def check_exists(self) -> None:
        """Raises EntryNotFound after a listing without entries: git keeps no empty directories."""
        if self._path and not self._items:
            raise EntryNotFound(f"there is no directory {self._path!r} in {self._commit.type} {self._commit.id}")

    def _passes(self, item: RepoFile | RepoFolder) -> bool:
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
            return self._drop(f"{path!r} is both a file and a folder, or is below such a path")
        self._text += len(path) + sum(map(len, above))
        if self._text > _MAX_TEXT:
            host = host_of(self._commit.source)
            raise BadResponse(f"{host} lists more names of {self._commit.id} than a repo can have", lasting=True)
        self._folders.update(dict.fromkeys(above, False))
        if is_file:
            self._files.add(path)
        else:
            self._folders[path] = True
        return True

    def _new_above(self, path: str) -> list[str] | None:
        """The folders above that are new; None when one of them is a file."""
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

    def _drop(self, why: str) -> bool:
        if not self._warned:  # one line per listing, or a hostile one could fill the log
            self._warned = True
            commit = self._commit
            log.warning("event=name-refused repo=%s commit=%s why=%s", commit.id, commit.sha[:12], why)
        return False


def _page(tree: Iterator[RepoFile | RepoFolder], exchange: Exchange) -> list[RepoFile | RepoFolder]:
    """The next page and no more, so that no call is in progress between pages."""
    items = list(itertools.islice(tree, 1))  # sends the request; now the rows of the page are known
    return items + list(itertools.islice(tree, exchange.rows - len(items) if exchange.more else None))


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


def _size(value: object) -> int | None:
    """A size that a file can have; None for anything else."""
    return value if type(value) is int and 0 <= value <= MOST_SIZE else None
