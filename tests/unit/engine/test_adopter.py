"""Adopting in the background what huggingface_hub has: in which order, and what ends it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hffs.cache import AdoptOutcome, BlobStore, HubCache, HubRepo, Layout
from hffs.cache.store import blob_store as blobs_module
from hffs.engine.adopter import Adopter
from hffs.model import Blob, RepoType
from tests.unit.cache.content import blob_of, some_bytes

CONTENTS = [some_bytes(size, seed=size) for size in (500_000, 20_000, 900_000)]


@pytest.fixture
def repo(tmp_path: Path) -> HubRepo:
    made = HubCache(tmp_path / "hub").repo(RepoType.MODEL, "acme/tiny")
    folder = Path(made.folder, "blobs")
    folder.mkdir(parents=True)
    for content in CONTENTS:
        (folder / blob_of(content).etag).write_bytes(content)
    return made


class GatedStore(BlobStore):
    """Records the blobs it is to adopt, and waits before each for ``may``."""

    def __init__(self, layout: Layout, repo: HubRepo) -> None:
        super().__init__(layout, hf_repo=repo)
        self.asked: list[int] = []
        self.outcomes: list[str] = []
        self.may = threading.Semaphore(0)
        self.at_one = threading.Semaphore(0)

    def adopt(
        self,
        blob: Blob,
        repo: HubRepo | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        patience: float = 0,
    ) -> AdoptOutcome:
        self.asked.append(blob.size)
        self.at_one.release()
        assert self.may.acquire(timeout=30)
        outcome = super().adopt(blob, repo, cancelled, patience)
        self.outcomes.append(outcome)
        return outcome


@pytest.fixture
def store(tmp_path: Path, repo: HubRepo) -> Iterator[GatedStore]:
    layout = Layout(tmp_path / "cache")
    layout.prepare()
    made = GatedStore(layout, repo)
    yield made
    made.close()


def blobs() -> list[Blob]:
    return [blob_of(content) for content in CONTENTS]


def test_smallest_blobs_are_adopted_first_and_opened_ones_before_all(store: GatedStore, monkeypatch) -> None:
    monkeypatch.setattr(blobs_module, "ADOPT_INLINE_MAX", 0)
    adopter = Adopter(store)
    store.on_adoptable = adopter.first
    adopter.begin(blobs)
    assert store.at_one.acquire(timeout=30)
    stored = store.open(blob_of(CONTENTS[2]))  # the biggest, while the smallest is hashed
    store.may.release(4)
    for _ in range(3):
        assert store.at_one.acquire(timeout=30)
    adopter.stop()
    assert store.asked == [20_000, 900_000, 500_000, 900_000]
    assert [each for each in store.outcomes if each != "stopped"][:2] == ["in place", "in place"]
    assert stored.verified
    stored.close()


def test_stop_gives_up_the_current_blob(store: GatedStore) -> None:
    adopter = Adopter(store)
    adopter.begin(blobs)
    assert store.at_one.acquire(timeout=30)
    stopping = threading.Thread(target=adopter.stop)
    stopping.start()
    while not adopter._stopping:
        os.sched_yield()
    store.may.release(len(CONTENTS))
    stopping.join(30)
    assert (store.asked, store.outcomes) == ([20_000], ["stopped"])
    adopter.begin(blobs)  # too late: no thread is started
    assert store.asked == [20_000]


@pytest.mark.allow_warnings("the wrong blob is logged")
def test_a_wrong_blob_does_not_prevent_adopting_the_others(store: GatedStore, repo: HubRepo) -> None:
    Path(repo.folder, "blobs", blob_of(CONTENTS[1]).etag).write_bytes(bytes(20_000))
    adopter = Adopter(store)
    adopter.begin(blobs)
    store.may.release(len(CONTENTS))
    for _ in CONTENTS:
        assert store.at_one.acquire(timeout=30)
    while len(store.outcomes) < len(CONTENTS):
        os.sched_yield()
    adopter.stop()
    assert store.outcomes == ["wrong", "in place", "in place"]
