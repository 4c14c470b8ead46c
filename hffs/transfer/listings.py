"""The entries of a commit, directory by directory: from memory, else from the index on disk, else from the Hub.

A commit's listing never changes, so every answer is kept. The first request is the recursive tree, one page: when that
is all of it, no other is ever made. Otherwise directories are listed when they are opened, and a single name in an
unlisted directory is looked up alone. Each directory is requested once, however many threads want it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

from ..cache import Index
from ..errors import DeadlineExceeded, EntryNotFound, HffsError, NameRefused
from ..model import Commit, Entry
from ..names import MOST_SIZE, check_name
from ..sources.base import Lister

log = logging.getLogger(__name__)

# Names that were looked up alone and are remembered, most of them those that do not exist: a loader tries a handful in
# a folder that is never listed; a program that tries names without end must not fill the memory.
SINGLE_NAMES = 10_000
# The index drops its oldest values first; a listing in use is set anew once a day.
RENEWED_SECONDS = 86_400
T = TypeVar("T")


class Listings:
    """The entries of ``commit`` at and below ``root``. Any thread; waits end after ``timeout`` seconds."""

    def __init__(self, source: Lister, index: Index, commit: Commit, *, root: str = "", timeout: float = 60.0) -> None:
        self.commit = commit
        self.root = root
        self._source = source
        self._stored = _CommitIndex(index, commit)
        self._timeout = timeout
        self._lock = threading.Lock()
        # guarded by _lock
        self._directories: dict[str, dict[str, Entry]] = {}
        self._single: dict[str, Entry | None] = {}
        self._flights: dict[str, Future[object]] = {}
        self._complete = False
        self._rest: tuple[list[Entry], Iterator[Entry]] | None = None

    def load(self) -> None:
        """Makes the first request unless the index has it. Raises EntryNotFound when ``root`` is no directory."""
        entries = self._stored.get("all", self.root)
        if entries is not None:
            self._stored.renew("all", self.root, entries)
        elif self.root:
            above = self._known_above()
            entries = [entry for entry in above or () if entry.path.startswith(self.root + "/")] or None
            if above is not None and entries is None:
                raise EntryNotFound(f"there is no directory {self.root!r} in {self.commit.id}")
        if entries is not None:
            self._fill(entries)
        elif not self._stored.is_long(self.root):  # else its directories are listed as they are opened
            page = self._source.list_tree(self.commit, self.root)
            if page.rest is None:
                self._store_all(page.entries)
                return
            with self._lock:
                self._rest = (page.entries, page.rest)
            self._stored.set_long(self.root)

    def is_file(self, path: str) -> bool:
        """Whether there is a file of this path, below ``root`` or not; a request where no listing shows it."""
        entries = self._known_above()
        if entries is None:
            entries = self._source.stat(self.commit, [path])
        return any(entry.path == path and entry.kind == "file" for entry in entries)

    def _known_above(self) -> list[Entry] | None:
        """The whole listing of the nearest folder above ``root`` that has one in the index; no request."""
        folder = self.root
        while folder:
            folder = folder.rpartition("/")[0]
            entries = self._stored.get("all", folder)
            if entries is not None:
                return entries
        return None

    def everything(self) -> list[Entry]:
        """All files, in path order; requests what is not known yet, page by page."""
        if not self._complete:
            self._once("all", self._list_all)
        return self.files()

    def restore(self) -> None:
        """Loads all that any process has listed of this commit before; no request."""
        entries = self._stored.get("all", self.root)
        if entries is not None:
            self._fill(entries)
            return
        left = [self.root]
        while left:
            path = left.pop()
            names: Mapping[str, Entry] | None = self._directories.get(path)
            if names is None:
                entries = self._stored.get("dir", path)
                names = None if entries is None else self._put(path, entries)
            if names is not None:
                left += [entry.path for entry in names.values() if entry.kind == "directory"]

    def record_node(self, number: int, entry: Entry) -> None:
        """Records the entry that a node number stands for, where no listing in the index has it."""
        self._stored.set("node", str(number), [entry])

    def recorded_node(self, number: int) -> Entry | None:
        """What ``record_node`` recorded."""
        return self._stored.one("node", str(number))

    @property
    def complete(self) -> bool:
        """Whether every entry is known; only then totals can be given."""
        return self._complete

    def files(self) -> list[Entry]:
        """All files known so far, in path order."""
        return sorted((entry for entry in self.entries() if entry.kind == "file"), key=lambda entry: entry.path)

    def entries(self) -> list[Entry]:
        """All entries of the directories listed so far."""
        with self._lock:
            return [entry for names in self._directories.values() for entry in names.values()]

    def known(self, path: str) -> Mapping[str, Entry] | None:
        """A directory's entries when they are in memory."""
        return self._directories.get(path)

    def directory(self, path: str) -> Mapping[str, Entry]:
        """The entries of a directory by name. Raises EntryNotFound."""
        names = self._directories.get(path)
        if names is not None:
            return names
        if self._complete:
            raise EntryNotFound(f"{path!r} is not a directory of {self.commit.id}")
        return self._once(f"dir:{path}", lambda: self._list(path))

    def entry(self, path: str) -> Entry:
        """One entry; in a directory not listed yet it is looked up alone. Raises EntryNotFound."""
        parent, _, name = path.rpartition("/")
        names = self._directories.get(parent)
        if names is not None:
            found = names.get(name)
        elif self._complete:
            found = None
        elif path in self._single:
            found = self._single[path]
        else:
            found = self._once(f"one:{path}", lambda: self._look_up(path))
        if found is None:
            raise EntryNotFound(f"{path!r} is not in {self.commit.id} at {self.commit.sha[:12]}")
        return found

    def sized(self, entry: Entry) -> Entry:
        """The entry with its size and etag, requested by HEAD when the listing lacks them."""
        if entry.kind == "directory" or (entry.size is not None and entry.etag is not None):
            return entry
        return self._once(f"size:{entry.path}", lambda: self._complete_size(entry))

    # --- requests ---------------------------------------------------------------------------------------------------

    def _list(self, path: str) -> Mapping[str, Entry]:
        entries = self._stored.get("dir", path)
        if entries is not None:
            return self._put(path, entries)
        with self._lock:
            rest, self._rest = (self._rest, None) if path == self.root else (None, self._rest)
        if rest is not None and all(entry.kind == "file" for entry in rest[0]):
            # The first page of the recursive listing has no folder: a flat repo of many files, whose following pages
            # cost no more than listing the root anew.
            self._store_all([*rest[0], *rest[1]])
            return self._directories[path]
        entries = self._source.list_directory(self.commit, path)
        self._stored.set("dir", path, entries)
        return self._put(path, entries)

    def _list_all(self) -> None:
        page = self._source.list_tree(self.commit, self.root)
        self._store_all([*page.entries, *(page.rest or ())])

    def _look_up(self, path: str) -> Entry | None:
        answer = self._source.stat(self.commit, [path])
        found = next((entry for entry in answer if entry.path == path), None)
        with self._lock:
            self._single[path] = found
            if len(self._single) > SINGLE_NAMES:
                del self._single[next(iter(self._single))]
        return found

    def _complete_size(self, entry: Entry) -> Entry:
        full = self._stored.one("size", entry.path) or self._source.complete_size(self.commit, entry)
        self._stored.set("size", entry.path, [full])
        with self._lock:
            names = self._directories.get(entry.parent)
            if names is not None and entry.name in names:
                names[entry.name] = full
        return full

    def _once(self, what: str, ask: Callable[[], T]) -> T:
        """Single flight: the first thread calls ``ask``, the others wait for the same answer or failure."""
        with self._lock:
            flight = self._flights.get(what)
            mine = flight is None
            if flight is None:
                flight = self._flights[what] = Future()
        if not mine:
            try:
                return flight.result(self._timeout)  # type: ignore[return-value]
            except FutureTimeout:
                raise DeadlineExceeded(f"the listing of {self.commit.id} did not arrive in time") from None
        try:
            answer = ask()
        except BaseException as error:
            with self._lock:
                del self._flights[what]
            flight.set_exception(error if isinstance(error, HffsError) else HffsError(f"listing failed: {error!r}"))
            raise
        with self._lock:
            del self._flights[what]
        flight.set_result(answer)
        return answer

    # --- in memory --------------------------------------------------------------------------------------------------

    def _put(self, path: str, entries: Iterable[Entry]) -> Mapping[str, Entry]:
        names = {entry.name: entry for entry in entries if entry.parent == path}
        with self._lock:
            return self._directories.setdefault(path, names)

    def _fill(self, entries: Iterable[Entry]) -> None:
        """Takes a complete recursive listing, and adds folders that only the paths of files imply."""
        directories: dict[str, dict[str, Entry]] = {self.root: {}}
        for entry in entries:
            directories.setdefault(entry.parent, {})[entry.name] = entry
            if entry.kind == "directory":
                directories.setdefault(entry.path, {})
        for path in list(directories):
            while path != self.root:
                parent, _, name = path.rpartition("/")
                directories.setdefault(parent, {}).setdefault(name, Entry(path, "directory"))
                path = parent  # noqa: PLW2901 - walking up
        with self._lock:
            self._directories = directories
            self._complete = True
            self._rest = None

    def _store_all(self, entries: list[Entry]) -> None:
        self._stored.set("all", self.root, entries)
        self._fill(entries)


def cached_files(index: Index, commit: Commit, root: str = "") -> tuple[list[Entry], bool]:
    """The files at or below ``root`` (or that file) in the index, by path, and whether these are all; no request."""
    stored = _CommitIndex(index, commit)
    folder, found = root, dict[str, Entry]()
    while (whole := stored.get("all", folder)) is None and folder:
        folder = folder.rpartition("/")[0]
    for entries in [whole] if whole is not None else stored.every("all", "dir", "node"):
        found.update((entry.path, entry) for entry in entries)
    below = [
        entry if entry.size is not None and entry.etag is not None else stored.one("size", path) or entry
        for path, entry in sorted(found.items())
        if entry.kind == "file" and (not root or path == root or path.startswith(f"{root}/"))
    ]
    return below, whole is not None


class _CommitIndex:
    """What the index has of one commit: whole listings ("all"), directories ("dir"), node numbers ("node"), and sizes
    that were requested alone ("size"), each as a list of entries."""

    def __init__(self, index: Index, commit: Commit) -> None:
        self._index = index
        self._commit = commit

    def key(self, kind: str, path: str) -> str:
        commit = self._commit
        return f"listing/1/{kind}/{commit.source}/{commit.type}/{commit.id}/{commit.sha}/{path}"

    def get(self, kind: str, path: str) -> list[Entry] | None:
        return decode(self._index.get(self.key(kind, path)))

    def one(self, kind: str, path: str) -> Entry | None:
        return next(iter(self.get(kind, path) or ()), None)

    def every(self, *kinds: str) -> Iterator[list[Entry]]:
        for kind in kinds:
            for key in self._index.keys(self.key(kind, "")):
                yield decode(self._index.get(key)) or []

    def set(self, kind: str, path: str, entries: Iterable[Entry]) -> None:
        self._index.set(self.key(kind, path), encode(entries))

    def renew(self, kind: str, path: str, entries: Iterable[Entry]) -> None:
        """Sets a listing anew that is still in use."""
        if (self._index.age(self.key(kind, path)) or 0) > RENEWED_SECONDS:
            self.set(kind, path, entries)

    def is_long(self, path: str) -> bool:
        """Whether the recursive listing below ``path`` is known to be longer than a page."""
        return bool(self._index.get(self.key("more", path)))

    def set_long(self, path: str) -> None:
        self._index.set(self.key("more", path), "1")


def encode(entries: Iterable[Entry]) -> str:
    rows: list[tuple[object, ...]] = []
    for entry in entries:
        etag_from = () if entry.etag_from == "listing" else (entry.etag_from,)  # nearly always
        rows.append((entry.path, entry.kind, entry.size, entry.etag, entry.lfs, *etag_from))
    return json.dumps(rows, separators=(",", ":"))


def decode(text: str | None) -> list[Entry] | None:
    """What ``encode`` wrote; None (with a log line) when it is anything else."""
    if text is None:
        return None
    try:
        return [_checked(*row) for row in json.loads(text)]
    except (ValueError, TypeError, RecursionError, NameRefused):
        log.warning("event=listing-damaged why=%s", "the Hub is asked again")
        return None


def _checked(path: str, kind: str, size: int | None, etag: str | None, lfs: bool, etag_from: str = "listing") -> Entry:
    """The entry of one row. Raises ValueError, TypeError, NameRefused for a row that ``encode`` never wrote."""
    check_name(path)
    if size is not None and not (type(size) is int and 0 <= size <= MOST_SIZE):
        raise ValueError("not a size")
    if not isinstance(etag, str | None) or not isinstance(lfs, bool):
        raise TypeError("etag or lfs has a wrong type")
    if etag_from not in ("listing", "server"):
        raise ValueError("unknown origin of the etag")
    if kind == "file":
        return Entry(path, "file", size, etag, lfs, "server" if etag_from == "server" else "listing")
    if kind != "directory":
        raise ValueError("unknown kind of entry")
    return Entry(path, "directory", size, etag, lfs)
