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
from dataclasses import dataclass, replace
from typing import Any, Final

from huggingface_hub import HfApi, RepoFile, RepoFolder

from .. import __version__
from ..errors import BadResponse, EntryNotFound, NameRefused, UsageError
from ..model import Commit, Entry, RepoRef
from .guard import Subject
from .headers import plain_etag
from .hubclient import Exchange, HubClient
from .naming import check_name, parse_repo
from .standing import Standing
from .urls import host_of, resolve_url

log = logging.getLogger(__name__)

# Paths in one paths-info request: a form of some 10 KB, well below what servers take.
LOOKUP_BATCH: Final = 100
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_LONGEST_ETAG: Final = 256  # characters: those of object stores have 34 to 70
# git's sha1 or an LFS sha256. What a listing names instead is taken as not told: a HEAD may know better.
_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_RESOLVE: Final = ["sha", "lastModified"]
_INFO: Final = [*_RESOLVE, "private", "gated", "tags", "downloads", "likes"]


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """What `hffs info` shows of a repo besides its files. None where the Hub does not say."""

    commit: Commit
    private: bool
    gated: bool | str  # False, or "auto" or "manual": access must be asked for
    tags: tuple[str, ...]
    library: str | None
    downloads: int | None
    likes: int | None


@dataclass(frozen=True, slots=True)
class TreePage:
    """The first page of a recursive listing. ``rest`` asks for the following ones as it is iterated; None, and
    ``complete`` true, when there are none."""

    entries: list[Entry]
    complete: bool
    rest: Iterator[Entry] | None


class Catalog:
    """One Hub's repos. Every method raises RepoNotFound, RevisionNotFound, AccessDenied, HubUnreachable, RateLimited
    or BadResponse besides what it says itself."""

    def __init__(self, endpoint: str, standing: Standing, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._hub = HubClient(self.endpoint, standing, sleep=sleep)
        # token=False: the client puts the token of the moment on each request itself.
        self._api = HfApi(self.endpoint, token=False, library_name="hffs", library_version=__version__)

    @property
    def requests(self) -> int:
        """Requests sent to the Hub so far."""
        return self._hub.requests

    def resolve(self, ref: RepoRef) -> Commit:
        """The commit a revision stands for now (the default branch when none is named), under the repo's present id."""
        about = Subject.of_ref(self.endpoint, ref)
        with self._hub.asking(self._hub.exchange(about)):
            return self._commit(ref, about, self._ask_info(ref, _RESOLVE))

    def info(self, ref: RepoRef) -> RepoInfo:
        """The same, and what else is known of the repo."""
        about = Subject.of_ref(self.endpoint, ref)
        wanted = [*_INFO, "library_name"] if ref.type == "model" else _INFO
        with self._hub.asking(self._hub.exchange(about)):
            found = self._ask_info(ref, wanted)
            tags = found.tags or ()
            return RepoInfo(
                commit=self._commit(ref, about, found),
                private=bool(found.private),
                gated=found.gated or False,
                tags=tuple(str(tag) for tag in tags),
                library=getattr(found, "library_name", None),
                downloads=getattr(found, "downloads", None),
                likes=getattr(found, "likes", None),
            )

    def first_page(self, commit: Commit, path: str) -> TreePage:
        """The recursive listing at ``path``, as much of it as one request gives. Raises EntryNotFound when there is no
        such directory."""
        exchange = self._hub.exchange(Subject.of_commit(commit, path), listing=True)
        tree = self._tree(commit, path, recursive=True)
        with self._hub.asking(exchange):
            items = list(itertools.islice(tree, 1))  # asks; only now it is known how many rows the page has
            page = exchange.rows
            items += itertools.islice(tree, page - len(items) if exchange.more else None)
        sieve = _Sieve(commit, path, recursive=True)
        entries = [entry for item in items for entry in sieve.take(item)]
        if not exchange.more:
            if path and not items:  # git keeps no empty directories
                raise EntryNotFound(f"there is no directory {path!r} in {commit.type} {commit.id}")
            return TreePage(entries, complete=True, rest=None)
        return TreePage(entries, complete=False, rest=self._rest(exchange, tree, sieve))

    def directory(self, commit: Commit, path: str) -> list[Entry]:
        """The entries of one directory, all pages. Raises EntryNotFound when there is no such directory."""
        exchange = self._hub.exchange(Subject.of_commit(commit, path), listing=True)
        with self._hub.asking(exchange):
            items = list(self._tree(commit, path, recursive=False))
        if path and not items:
            raise EntryNotFound(f"there is no directory {path!r} in {commit.type} {commit.id}")
        sieve = _Sieve(commit, path, recursive=False)
        return [entry for item in items for entry in sieve.take(item)]

    def lookup(self, commit: Commit, paths: Iterable[str]) -> list[Entry]:
        """The entries of those among ``paths`` that exist."""
        found: list[Entry] = []
        wanted = list(dict.fromkeys(paths))
        for start in range(0, len(wanted), LOOKUP_BATCH):
            batch = wanted[start : start + LOOKUP_BATCH]
            exchange = self._hub.exchange(Subject.of_commit(commit), listing=True)
            with self._hub.asking(exchange):
                items = self._api.get_paths_info(commit.id, batch, revision=commit.sha, repo_type=commit.type.value)
            sieve = _Sieve(commit, "", recursive=True, only=frozenset(batch))
            found += [entry for item in items for entry in sieve.take(item)]
        return found

    def complete_size(self, commit: Commit, entry: Entry) -> Entry:
        """The entry with the size and etag that a HEAD for it tells, where its listing left them out. An etag that is
        no hash is taken too: the content can then be compared by size and etag only, and is never verified."""
        about = Subject.of_commit(commit, entry.path)
        with self._hub.asking(self._hub.exchange(about)):
            told = self._api.get_hf_file_metadata(url=resolve_url(commit, entry.path))
        etag = plain_etag(told.etag)
        if told.commit_hash not in (None, commit.sha):
            raise BadResponse(f"{host_of(self.endpoint)} answers for {about} of another commit")
        if told.size is None or etag is None or len(etag) > _LONGEST_ETAG:
            raise BadResponse(f"{host_of(self.endpoint)} tells no size and etag of {about}")
        # 64 digits are an LFS file's sha256, 40 a git file's sha1: what the Hub tells in X-Linked-ETag or ETag.
        lfs = len(etag) == 64 and _HASH.fullmatch(etag) is not None
        return replace(entry, size=told.size, etag=etag, lfs=lfs, told_by="server")

    # --- asking -----------------------------------------------------------------------------------------------------

    def _ask_info(self, ref: RepoRef, expand: list[str]) -> Any:
        properties: Any = expand
        return self._api.repo_info(ref.id, revision=ref.revision, repo_type=ref.type.value, expand=properties)

    def _commit(self, ref: RepoRef, about: Subject, found: Any) -> Commit:
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
        return Commit(ref.type, repo_id, ref.revision or "main", sha, date, self.endpoint)

    def _tree(self, commit: Commit, path: str, *, recursive: bool) -> Iterator[RepoFile | RepoFolder]:
        return iter(
            self._api.list_repo_tree(
                commit.id, path or None, recursive=recursive, revision=commit.sha, repo_type=commit.type.value
            )
        )

    def _rest(self, exchange: Exchange, tree: Iterator[RepoFile | RepoFolder], sieve: _Sieve) -> Iterator[Entry]:
        while True:
            with self._hub.asking(exchange):
                # A page at most, so that the exchange is left between requests; its rows are only known afterwards.
                items = list(itertools.islice(tree, 1))
                items += itertools.islice(tree, exchange.rows - 1 if exchange.more else None)
            if not items:
                return
            for item in items:
                yield from sieve.take(item)


class _Sieve:
    """Lets the entries of one listing through: proper names below what was asked for, each once."""

    def __init__(self, commit: Commit, path: str, *, recursive: bool, only: frozenset[str] | None = None) -> None:
        self._commit = commit
        self._path = path
        self._recursive = recursive
        self._only = only
        self._seen: set[str] = set()
        self._warned = False

    def take(self, item: RepoFile | RepoFolder) -> Iterator[Entry]:
        path = item.path
        if path and isinstance(item, RepoFile) and path == self._path:
            raise EntryNotFound(f"{path!r} in {self._commit.type} {self._commit.id} is a file, not a directory")
        try:
            check_name(path)
        except NameRefused as refused:
            return self._drop(refused.what)
        if path in self._seen or not self._belongs(path):
            return self._drop(f"{path!r} is listed twice or out of place")
        self._seen.add(path)
        yield _entry(item)
        return None

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
        size=size if type(size) is int and size >= 0 else None,
        etag=etag if isinstance(etag, str) and _HASH.fullmatch(etag) else None,
        lfs=item.lfs is not None,
    )
