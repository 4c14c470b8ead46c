"""The views that ``test_views`` checks, each with the plain files that it must be equal to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from hffs.cache import BlobStore, Index, Layout
from hffs.model import Commit, RemoteFile
from hffs.policy import RetryPolicy
from hffs.ranges import ByteRange
from hffs.transfer import CommitFiles, Fetcher, Listings, Timers
from hffs.vfs import Patterns, View
from hffs.vfs.views import RepoView
from tests.unit.memory import COMMIT, MemoryBody, MemoryCatalog, MemorySource

from .side_by_side import LITERAL, MEMBER, TARGET, SideBySide

OTHER = replace(COMMIT, id="acme/other", sha="d" * 40)
FILES: dict[str, int | None] = {
    "README.md": 10, "config.json": 200, "empty": 0, "onnx/model.onnx": 300_000, "onnx/deep/x.bin": 1, "onnx/ü y": 70,
}  # fmt: skip
MORE: dict[str, int | None] = {"README.md": 11, "onnx/model.onnx": 4_500_000, "z/only here": 5}
ON_DISK = bytes(range(256)) * 40


class Source(MemorySource):
    """Two repos may have different bytes at the same path."""

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> MemoryBody:
        return super().open_range(replace(file, path=f"{file.commit.id}/{file.path}"), wanted)


@dataclass
class Sample:
    """``make`` returns a new view of the same mount, as another process would; ``files`` and ``links`` are what it must
    show, by path; ``catalogs`` count the requests for listings."""

    make: Callable[[], View]
    files: Mapping[str, bytes]
    fetcher: Fetcher
    store: BlobStore
    catalogs: list[MemoryCatalog]
    links: Mapping[str, str] = field(default_factory=dict)

    def requests(self) -> int:
        return sum(len(catalog.calls) for catalog in self.catalogs)


NAMES = ("repo", "paged", "subfolder", "patterns", "side by side")


@contextmanager
def sample(name: str, folder: Path) -> Iterator[Sample]:
    """A view of ``NAMES``, its cache below ``folder``."""
    layout = Layout(folder / "cache")
    layout.prepare()
    store, index, timers, source = BlobStore(layout), Index(layout.index), Timers(), Source()
    timers.start()
    fetcher = Fetcher(store, source, timers, workers=4, retry=RetryPolicy(base=0.001, cap=0.001))
    fetcher.start()
    catalogs: list[MemoryCatalog] = []
    disk = folder / "on disk"
    disk.write_bytes(ON_DISK)

    def files_of(commit: Commit, files: Mapping[str, int | None], root: str = "", page: int = 1000) -> CommitFiles:
        catalogs.append(MemoryCatalog(dict(files), page))
        listings = Listings(catalogs[-1], index, commit, root=root, timeout=10)
        listings.load()
        return CommitFiles(listings, store, fetcher, read_timeout=10)

    def contents(commit: Commit, files: Mapping[str, int | None]) -> dict[str, bytes]:
        made = {path: random.Random(f"{commit.id}/{path}").randbytes(size or 0) for path, size in files.items()}
        source.contents.update({f"{commit.id}/{path}": data for path, data in made.items()})
        return made

    one, two = contents(COMMIT, FILES), contents(OTHER, MORE)
    links: dict[str, str] = {}
    if name == "side by side":
        one = {f"left/{path}": data for path, data in one.items()}
        one |= {f"right/{path}": data for path, data in two.items()}
        one |= {"ref": LITERAL, "disk": ON_DISK, "member": MEMBER}
        links = {"link": TARGET}
        make: Callable[[], View] = lambda: SideBySide(files_of(COMMIT, FILES), files_of(OTHER, MORE, page=2), disk)  # noqa: E731
    elif name == "subfolder":
        one = {path.removeprefix("onnx/"): data for path, data in one.items() if path.startswith("onnx/")}
        make = lambda: RepoView(files_of(COMMIT, FILES, root="onnx"))  # noqa: E731
    elif name == "patterns":
        one = {path: data for path, data in one.items() if path.startswith("onnx/") and not path.endswith(".bin")}
        make = lambda: RepoView(files_of(COMMIT, FILES), Patterns(["onnx/"], ["*.bin"]))  # noqa: E731
    else:
        make = lambda: RepoView(files_of(COMMIT, FILES, page=2 if name == "paged" else 1000))  # noqa: E731
    try:
        yield Sample(make, one, fetcher, store, catalogs, links)
    finally:
        fetcher.stop()
        timers.stop()
        index.close()
        store.close()
