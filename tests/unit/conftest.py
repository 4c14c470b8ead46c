"""A store and an index in a temporary directory, a source in memory, and a fetcher between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Index, Layout
from hffs.policy import RetryPolicy
from hffs.transfer import CommitFiles, Fetcher, Listings, Timers
from hffs.vfs import Filesystem, Patterns
from hffs.vfs.views import RepoView
from tests.unit.memory import COMMIT, MemoryCatalog, MemorySource

FILES: dict[str, int | None] = {"README.md": 10, "onnx/model.onnx": 300_000, "onnx/deep/x.bin": 1, "empty": 0}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index")
    yield index
    index.close()


@pytest.fixture
def source() -> Iterator[MemorySource]:
    source = MemorySource()
    yield source
    source.gate.set()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    layout = Layout(tmp_path / "cache")
    layout.prepare()
    store = BlobStore(layout)
    yield store
    store.close()


@pytest.fixture
def timers() -> Iterator[Timers]:
    timers = Timers()
    timers.start()
    yield timers
    timers.stop()


@pytest.fixture
def fetcher_of(store: BlobStore, source: MemorySource, timers: Timers) -> Iterator[Callable[..., Fetcher]]:
    made: list[Fetcher] = []

    def make(workers: int = 4, **options: object) -> Fetcher:
        fetcher = Fetcher(store, source, timers, workers=workers, retry=RetryPolicy(base=0.001, cap=0.001), **options)  # type: ignore[arg-type]
        fetcher.start()
        made.append(fetcher)
        return fetcher

    yield make
    source.gate.set()
    for fetcher in made:
        fetcher.stop()


@pytest.fixture
def filesystem_of(store: BlobStore, index: Index, source: MemorySource, fetcher_of) -> Callable[..., Filesystem]:
    def make(
        files: dict[str, int | None] | None = None, page: int = 1000, root: str = "", **patterns: object
    ) -> Filesystem:
        catalog = MemoryCatalog(FILES if files is None else files, page)
        for entry in catalog.entries:
            if entry.kind == "file":
                source.contents[entry.path] = bytes(range(256)) * (1 + (entry.size or 0) // 256)
        listings = Listings(catalog, index, COMMIT, root=root, timeout=10)
        listings.load()
        content = CommitFiles(listings, store, fetcher_of(), read_timeout=10)
        filesystem = Filesystem(RepoView(content, Patterns(**patterns)))  # type: ignore[arg-type]
        filesystem.catalog = catalog  # type: ignore[attr-defined]
        return filesystem

    return make
