"""A Hub in memory for unit tests: a catalog that counts its calls, a source that can hold back or fail."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hffs.errors import EntryNotFound, HubUnreachable
from hffs.model import Blob, Commit, Digest, Entry, RemoteFile, RepoType
from hffs.ranges import ByteRange
from hffs.sources.base import TreePage

COMMIT = Commit(RepoType.MODEL, "acme/tiny", "main", "c" * 40, 1_700_000_000.5, "http://hub")


@dataclass
class MemoryBody:
    data: bytes
    source: MemorySource
    at: int = 0

    def readinto(self, view: memoryview) -> int:
        assert self.source.gate.wait(10), "the test forgot to open the gate"
        view[:] = self.data[self.at : self.at + len(view)]
        self.at += len(view)
        return len(view)

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class MemorySource:
    """Contents by path; ``asked`` is every range asked for; ``failures`` are raised first, one an ask."""

    # init=False: hypothesis prints every field that can be passed to __init__, also those with repr=False, and these
    # take megabytes.
    contents: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)
    asked: list[tuple[str, ByteRange]] = field(default_factory=list, init=False, repr=False)
    failures: list[Exception] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    forgotten: list[str] = field(default_factory=list)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.gate.set()

    def file(self, path: str, size: int, seed: int = 1) -> RemoteFile:
        data = random.Random(seed).randbytes(size)
        self.contents[path] = data
        hex_digest = hashlib.sha256(data).hexdigest()
        return RemoteFile(COMMIT, path, Blob(hex_digest, size, COMMIT.source, Digest("sha256", hex_digest)), lfs=True)

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> MemoryBody:
        self.asked.append((file.path, wanted))
        self.arrived.release()
        if self.failures:
            raise self.failures.pop(0)
        return MemoryBody(self.contents[file.path][wanted.start : wanted.stop], self)

    def forget(self, file: RemoteFile) -> None:
        self.forgotten.append(file.path)


class MemoryCatalog:
    """A repo of files, listed as the Hub lists: recursive with its folders, ``page`` entries on a page."""

    def __init__(self, files: dict[str, int | None], page: int = 1000) -> None:
        folders = {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
        self.entries = sorted(
            [Entry(path, "directory") for path in folders]
            + [Entry(path, "file", size, None if size is None else f"etag-{size}") for path, size in files.items()],
            key=lambda entry: entry.path,
        )
        self.page = page
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail = False

    def _asked(self, what: str) -> None:
        self.calls.append(what)
        assert self.gate.wait(10)
        if self.fail:
            raise HubUnreachable("the hub is away")

    def list_tree(self, commit: Commit, path: str) -> TreePage:
        self._asked(f"tree {path}")
        below = [entry for entry in self.entries if not path or entry.path.startswith(path + "/")]
        return TreePage(below[: self.page], iter(below[self.page :]) if len(below) > self.page else None)

    def list_directory(self, commit: Commit, path: str) -> list[Entry]:
        self._asked(f"dir {path}")
        if path and not any(entry.path == path for entry in self.entries):
            raise EntryNotFound(path)
        return [entry for entry in self.entries if entry.parent == path]

    def stat(self, commit: Commit, paths: Iterable[str]) -> list[Entry]:
        self._asked(f"lookup {paths}")
        return [entry for entry in self.entries if entry.path in paths]

    def complete_size(self, commit: Commit, entry: Entry) -> Entry:
        self._asked(f"head {entry.path}")
        return replace(entry, size=7, etag="etag-7")
