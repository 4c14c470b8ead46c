"""A store and an index in a temporary directory, a source in memory, and a fetcher between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Index, Layout
from hffs.policy import RetryPolicy
from hffs.transfer import Fetcher, Timers
from tests.unit.memory import MemorySource


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
