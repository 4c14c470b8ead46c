"""A toy source, the least that a ``Source`` has to do: each folder below ``root`` is a repo."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from hffs.errors import BadResponse, ContentChanged, EntryNotFound, RepoNotFound, RevisionNotFound
from hffs.model import Commit, Entry, RemoteFile, RepoRef
from hffs.ranges import ByteRange
from hffs.sources.base import OpenAccess, ResolvedRepo, TreePage


class FolderBody:
    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file, self._left = file, length

    def readinto(self, view: memoryview) -> int:
        if len(view) > self._left:
            raise ValueError("past the end of the range")
        if self._file.closed or self._file.readinto(view) != len(view):  # type: ignore[attr-defined]
            raise BadResponse("the range was aborted, or its file was truncated")
        self._left -= len(view)
        return len(view)

    def abort(self) -> None:
        self._file.close()

    close = abort


class FolderSource:
    """Content is identified by size and time of modification, so it is opaque: nothing of it can be verified."""

    def __init__(self, root: Path) -> None:
        self.id = root.as_uri()
        self.access = OpenAccess()
        self.requests = 0
        self._root = root

    def resolve(self, ref: RepoRef) -> ResolvedRepo:
        if not (self._root / ref.id).is_dir():
            raise RepoNotFound(f"there is no folder {ref.id} in {self._root}")
        sha = hashlib.sha1(repr(self._entries(ref.id)).encode()).hexdigest()
        if ref.revision not in (None, "main", sha):
            raise RevisionNotFound(f"{ref.id} has no revision {ref.revision!r}")
        return ResolvedRepo(Commit(ref.type, ref.id, ref.revision or "main", sha, 0.0, self.id))

    def list_tree(self, commit: Commit, path: str) -> TreePage:
        below = [entry for entry in self._entries(commit.id) if not path or entry.path.startswith(f"{path}/")]
        if path and not below:
            raise EntryNotFound(f"{commit.id} has no folder {path!r}")
        return TreePage(below)

    def list_directory(self, commit: Commit, path: str) -> list[Entry]:
        return [entry for entry in self.list_tree(commit, path).entries if entry.parent == path]

    def stat(self, commit: Commit, paths: Iterable[str]) -> list[Entry]:
        wanted = set(paths)
        return [entry for entry in self._entries(commit.id) if entry.path in wanted]

    def complete_size(self, commit: Commit, entry: Entry) -> Entry:
        for found in self.stat(commit, [entry.path]):
            return found
        raise EntryNotFound(f"{commit.id} has no file {entry.path!r}")

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> FolderBody:
        path = self._root / file.commit.id / file.path
        if not path.is_file():
            raise EntryNotFound(f"{file.commit.id} has no file {file.path!r}")
        opened = path.open("rb")
        if _etag(os.fstat(opened.fileno())) != file.validator:
            opened.close()
            raise ContentChanged(f"{file.path} of {file.commit.id} has changed")
        opened.seek(wanted.start)
        return FolderBody(opened, wanted.length)

    def forget(self, file: RemoteFile) -> None: ...

    def background_delay(self, file: RemoteFile) -> float:
        return 0.0

    def close(self) -> None: ...

    def _entries(self, repo: str) -> list[Entry]:
        folder = self._root / repo
        found = []
        for path in sorted(folder.rglob("*")):
            name, is_file = path.relative_to(folder).as_posix(), path.is_file()
            state = path.stat()
            found.append(Entry(name, "file", state.st_size, _etag(state)) if is_file else Entry(name, "directory"))
        return found


def _etag(state: os.stat_result) -> str:
    return f"{state.st_size}-{state.st_mtime_ns}"
