"""The content model: repos, their commits, trees and refs, with git's real sha1s.

Built by tests through `Hub.add_repo` and `Repo.commit`, read by the handlers. Commits and trees never change once
made; refs and switches of a `Repo` change under the hub's lock and are read one dictionary look-up at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from threading import RLock

from .content import Blob, BlobMaker, Content, git_object_sha1, size_of, wants_lfs

TYPES = ("model", "dataset", "space", "kernel")
FIRST_COMMIT = datetime(2026, 1, 1, tzinfo=UTC)  # dates follow from the commit's number, so that shas repeat
SHORT_SHA = 7

LfsRule = Callable[[str, int], bool]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a listing: a file with its blob, or a directory without one."""

    path: str
    oid: str
    blob: Blob | None


class Tree:
    """All paths of a commit, as a flat mapping and as directories; directories are computed at first use."""

    def __init__(self, files: Mapping[str, Blob]) -> None:
        self.files = dict(sorted(files.items()))

    @cached_property
    def _directories(self) -> dict[str, list[Entry]]:
        below: dict[str, list[Entry]] = {"": []}
        for path, blob in self.files.items():
            parent, slash, _ = path.rpartition("/")
            missing = parent
            while slash and missing not in below:
                below[missing] = []
                missing = missing.rpartition("/")[0]
            below[parent].append(Entry(path, blob.oid, blob))
        for directory in sorted((d for d in below if d), key=lambda d: -d.count("/")):  # deepest first
            below[directory.rpartition("/")[0]].append(Entry(directory, _tree_sha1(below[directory]), None))
        for entries in below.values():
            entries.sort(key=lambda entry: (entry.blob is not None, entry.path))
        return below

    @property
    def oid(self) -> str:
        return _tree_sha1(self._directories[""])

    def children(self, directory: str) -> list[Entry] | None:
        """Returns directories, then files, each by name; None without such a directory."""
        return self._directories.get(directory)

    def walk(self, directory: str) -> Iterator[Entry]:
        for entry in self._directories[directory]:
            yield entry
            if entry.blob is None:
                yield from self.walk(entry.path)

    def entry(self, path: str) -> Entry | None:
        if (blob := self.files.get(path)) is not None:
            return Entry(path, blob.oid, blob)
        if path and path in self._directories:
            return Entry(path, _tree_sha1(self._directories[path]), None)
        return None


def _tree_sha1(entries: Iterable[Entry]) -> str:
    rows = []
    for entry in entries:
        name = entry.path.rpartition("/")[2].encode("utf-8", "surrogateescape")
        mode, key = (b"40000", name + b"/") if entry.blob is None else (b"100644", name)
        rows.append((key, mode + b" " + name + b"\0" + bytes.fromhex(entry.oid)))
    return git_object_sha1("tree", b"".join(row for _, row in sorted(rows)))


@dataclass(frozen=True, slots=True, repr=False)
class Commit:
    sha: str
    parent: str | None
    message: str
    author: str
    date: datetime
    tree: Tree
    changed: frozenset[str]  # paths and the directories above them

    @property
    def iso_date(self) -> str:
        return self.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(eq=False, repr=False)
class Repo:
    """One repo. Tests may set its switches at any time; commits and refs are made by the methods."""

    id: str
    type: str
    blobs: BlobMaker
    lock: RLock
    serve: Callable[[Blob], None]  # told of every LFS blob, so that the CDN has it
    lfs: LfsRule = wants_lfs
    private: bool = False
    readers: set[str] | None = None  # of a private repo; None: every valid token
    gated: str | None = None  # "auto" or "manual"
    granted: set[str] = field(default_factory=set)  # users let into a gated repo
    disabled: bool = False
    omit_sizes: set[str] = field(default_factory=set)  # paths listed without any size
    tags_in_info: list[str] = field(default_factory=list)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[int, str] = field(default_factory=dict)
    converts: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.type} {self.id}, {len(self.commits)} commits>"

    def admits(self, user: str | None) -> bool:
        """Returns whether this user can see the private repo."""
        return user is not None and (self.readers is None or user in self.readers)

    def __post_init__(self) -> None:
        # The 24 hex the Hub keeps a repo under, also the folder of its files on the CDN; it survives a renaming.
        self.oid = hashlib.sha1(f"{self.type} {self.id}".encode()).hexdigest()[:24]

    def commit(
        self,
        files: Mapping[str, Content] | Path | None = None,
        delete: Iterable[str] = (),
        message: str = "Upload files",
        branch: str = "main",
        author: str = "alice",
    ) -> str:
        """Adds or replaces files (a mapping or a folder), and moves `branch`. Returns the commit's sha."""
        with self.lock:
            parent = self.commits[self.branches[branch]] if branch in self.branches else None
            everything = dict(parent.tree.files) if parent else {}
            changed = set(delete)
            for path in changed:
                del everything[path]
            for path, content in _as_mapping(files or {}).items():
                everything[path] = self.blobs.make(content, self.lfs(path, size_of(content)))
                changed.add(path)
                if everything[path].sha256 is not None:
                    self.serve(everything[path])
            commit = self._make(Tree(everything), parent, message, author, changed)
            self.branches[branch] = commit.sha
            return commit.sha

    def _make(self, tree: Tree, parent: Commit | None, message: str, author: str, changed: set[str]) -> Commit:
        date = FIRST_COMMIT + timedelta(minutes=len(self.commits))
        signature = f"{author} <{author}@example.invalid> {int(date.timestamp())} +0000"
        parents = [f"parent {parent.sha}"] if parent else []
        lines = [f"tree {tree.oid}", *parents, f"author {signature}", f"committer {signature}"]
        sha = git_object_sha1("commit", ("\n".join(lines) + f"\n\n{message}\n").encode())
        above = {path[:at] for path in changed for at, letter in enumerate(path) if letter == "/"}
        commit = Commit(sha, parent.sha if parent else None, message, author, date, tree, frozenset(changed | above))
        self.commits[sha] = commit
        return commit

    def branch(self, name: str, sha: str) -> None:
        with self.lock:
            self.branches[name] = self.commits[sha].sha

    def tag(self, name: str, sha: str) -> None:
        with self.lock:
            self.tags[name] = self.commits[sha].sha

    def pr(self, number: int, sha: str) -> None:
        with self.lock:
            self.pull_requests[number] = self.commits[sha].sha

    def convert(self, name: str, sha: str) -> None:
        with self.lock:
            self.converts[name] = self.commits[sha].sha

    def grant(self, *users: str) -> None:
        self.granted |= set(users)

    def commit_of(self, revision: str) -> str:
        """Returns the sha of a revision.

        Raises: KeyError.
        """
        commit = self.find(revision)
        if commit is None:
            raise KeyError(revision)
        return commit.sha

    def find(self, revision: str) -> Commit | None:
        sha = self.branches.get(revision) or self.tags.get(revision)
        kind, _, name = revision.removeprefix("refs/").partition("/")
        if sha is None and revision.startswith("refs/"):
            named = {"heads": self.branches, "tags": self.tags, "convert": self.converts}
            numbered = self.pull_requests.get(int(name)) if kind == "pr" and name.isdecimal() else None
            sha = numbered or named.get(kind, {}).get(name)
        if sha is None and len(revision) >= SHORT_SHA:
            matching = [known for known in self.commits if known.startswith(revision.lower())]
            sha = matching[0] if len(matching) == 1 else None
        return self.commits[sha] if sha is not None else None

    def history(self, commit: Commit) -> Iterator[Commit]:
        yield commit
        while commit.parent is not None:
            commit = self.commits[commit.parent]
            yield commit

    def last_change(self, commit: Commit, path: str) -> Commit:
        return next((past for past in self.history(commit) if path in past.changed), commit)


def _as_mapping(files: Mapping[str, Content] | Path) -> Mapping[str, Content]:
    if not isinstance(files, Path):
        return files
    found = {path.relative_to(files): path for path in sorted(files.rglob("*")) if path.is_file()}
    return {name.as_posix(): path for name, path in found.items() if not {".git", ".cache"} & set(name.parts)}
