"""What huggingface_hub has is taken over in the background: in which order, and what ends it."""

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


class Watched(BlobStore):
    """Tells what it is asked to adopt, and waits at each until it may."""

    def __init__(self, layout: Layout, repo: HubRepo) -> None:
        super().__init__(layout, hf_repo=repo)
        self.asked: list[int] = []
        self.came: list[str] = []
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
        self.came.append(outcome)
        return outcome


@pytest.fixture
def store(tmp_path: Path, repo: HubRepo) -> Iterator[Watched]:
    layout = Layout(tmp_path / "cache")
    layout.prepare()
    made = Watched(layout, repo)
    yield made
    made.close()


def blobs() -> list[Blob]:
    return [blob_of(content) for content in CONTENTS]


def test_the_smallest_come_first_and_what_is_opened_before_all(store: Watched, monkeypatch) -> None:
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
    assert [each for each in store.came if each != "stopped"][:2] == ["in place", "in place"]
    assert stored.verified
    stored.close()


def test_stopped_it_leaves_what_it_is_at(store: Watched) -> None:
    adopter = Adopter(store)
    adopter.begin(blobs)
    assert store.at_one.acquire(timeout=30)
    stopping = threading.Thread(target=adopter.stop)
    stopping.start()
    while not adopter._stopping:
        os.sched_yield()
    store.may.release(len(CONTENTS))
    stopping.join(30)
    assert (store.asked, store.came) == ([20_000], ["stopped"])
    adopter.begin(blobs)  # too late: no thread begins
    assert store.asked == [20_000]


@pytest.mark.allow_warnings("one line about the blob that is wrong")
def test_what_is_wrong_keeps_nothing_else_from_being_taken(store: Watched, repo: HubRepo) -> None:
    Path(repo.folder, "blobs", blob_of(CONTENTS[1]).etag).write_bytes(bytes(20_000))
    adopter = Adopter(store)
    adopter.begin(blobs)
    store.may.release(len(CONTENTS))
    for _ in CONTENTS:
        assert store.at_one.acquire(timeout=30)
    while len(store.came) < len(CONTENTS):
        os.sched_yield()
    adopter.stop()
    assert store.came == ["wrong", "in place", "in place"]
