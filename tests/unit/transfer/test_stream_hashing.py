"""A file larger than the cache is hashed as it streams through: blocks are hashed before they are evicted."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator

import pytest

from hffs.cache import BlobStore, CacheBudget, IncrementalHash
from hffs.cache.integrity import mismatches
from hffs.model import RemoteFile
from hffs.policy import Priority
from hffs.ranges import BLOCK_SIZE
from hffs.transfer import BlobReader, Fetcher
from hffs.transfer.cpu_headroom import CpuHeadroom
from tests.support.mismatch_records import recorded
from tests.support.waiting import SOON, read, until
from tests.unit.memory import MemorySource

MIB = 1 << 20
SIZE = 24 * MIB + 77
LIMIT = 8 * MIB


@pytest.fixture(autouse=True)
def _whatever_the_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuHeadroom, "is_short", lambda _: False)


@pytest.fixture
def budget(store: BlobStore) -> Iterator[CacheBudget]:
    budget = CacheBudget(store, LIMIT, 0)
    budget.start()
    yield budget
    budget.close()


def read_through(fetcher: Fetcher, file: RemoteFile, *, reopening: bool = False) -> None:
    reader = BlobReader(fetcher, file)
    for offset in range(0, file.blob.size, MIB):
        read(reader, offset, MIB)
        if reopening:
            reader.close()
            until(lambda: not fetcher._scheduler._handles)
            reader = BlobReader(fetcher, file)
    reader.close()


@pytest.mark.parametrize("reopening", [False, True])
def test_a_file_larger_than_the_cache_is_verified_when_read_in_order(
    fetcher_of, source: MemorySource, store: BlobStore, budget: CacheBudget, *, reopening: bool
) -> None:
    file = source.file("a.bin", SIZE)
    fetcher: Fetcher = fetcher_of(budget=budget)
    read_through(fetcher, file, reopening=reopening)
    until(lambda: fetcher.hash_worker.stream_verified(f"{file.blob.etag}@{file.blob.origin}"))
    assert store.state(file.blob) == "partial", "verified needs all of it local"
    assert recorded(store.layout) == []


@pytest.mark.allow_warnings("mismatch")
@pytest.mark.parametrize("at", [0, 5 * BLOCK_SIZE - 1, SIZE - 1])
def test_a_wrong_bit_is_found_in_a_block_evicted_long_before(
    fetcher_of, source: MemorySource, store: BlobStore, budget: CacheBudget, at: int
) -> None:
    file = source.file("a.bin", SIZE)
    right = source.contents["a.bin"]
    source.contents["a.bin"] = right[:at] + bytes([right[at] ^ 16]) + right[at + 1 :]
    fetcher: Fetcher = fetcher_of(budget=budget)
    reported = threading.Event()
    fetcher.quarantine.on_mismatch = lambda _: reported.set()
    read_through(fetcher, file)
    assert reported.wait(SOON)
    assert not fetcher.hash_worker.stream_verified(f"{file.blob.etag}@{file.blob.origin}")
    until(lambda: not fetcher._scheduler._handles)
    assert [found.copies for found in mismatches.current(store.layout)] == [1]
    # Dropped, but for what the last read fetches again when it is taken after that.
    assert store.local_bytes(file.blob) <= 2 * MIB
    asked = len(source.asked)
    assert not any(fetcher._scheduler._queue.queued().values()), "it cannot be kept, so that only a reader fetches it"
    source.contents["a.bin"] = right
    read_through(fetcher, file)
    until(lambda: fetcher.hash_worker.stream_verified(f"{file.blob.etag}@{file.blob.origin}"))
    until(lambda: mismatches.current(store.layout) == [])
    assert len(source.asked) > asked


def test_blocks_evicted_before_they_are_hashed_are_hashed_by_the_evictor(
    fetcher_of, source: MemorySource, store: BlobStore
) -> None:
    file = source.file("a.bin", 6 * BLOCK_SIZE)
    reader = BlobReader(fetcher_of(), file)
    stored = reader.handle.stored
    assert file.blob.digest is not None
    hashing = IncrementalHash(stored, file.blob.digest)
    read(reader, 0, 4 * BLOCK_SIZE)
    until(lambda: not reader.handle.holders)
    stored.on_evict = hashing.hash_before_evict  # the hash worker's own has hashed all of it by now
    assert stored.evict(range(1), BLOCK_SIZE)
    assert hashing.hashed == BLOCK_SIZE
    assert stored.evict(range(2, 4), BLOCK_SIZE)
    assert hashing.hashed == 3 * BLOCK_SIZE, "and what comes before it"
    stored.discard(range(3, 4))
    assert stored.evict(range(1, 3), BLOCK_SIZE)
    read(reader, 4 * BLOCK_SIZE, 1)
    until(lambda: not reader.handle.holders)
    assert stored.evict(range(4, 5), BLOCK_SIZE)
    assert hashing.hashed == 3 * BLOCK_SIZE, "block 3 is absent: this is fetched again"
    read(reader, 3 * BLOCK_SIZE, 3 * BLOCK_SIZE)
    assert hashing.advance()
    assert hashing.finish(1.0) == "passed"
    assert hashing.hashed == 0, "the next pass begins anew"
    reader.close()


def test_eviction_waits_a_bounded_time_for_the_hash_worker(fetcher_of, source: MemorySource, monkeypatch) -> None:
    monkeypatch.setattr("hffs.cache.store.incremental_hash.TURN_S", 0.05)
    file = source.file("a.bin", 2 * BLOCK_SIZE)
    reader = BlobReader(fetcher_of(), file)
    read(reader, 0, BLOCK_SIZE)
    until(lambda: not reader.handle.holders)
    stored = reader.handle.stored
    assert file.blob.digest is not None
    hashing = IncrementalHash(stored, file.blob.digest)
    with hashing.acquire(0.05) as mine:
        assert mine
        assert stored.evict(range(1), BLOCK_SIZE)
        with hashing.acquire(0.05) as another:
            assert not another
    assert hashing.hashed == 0
    reader.close()


def test_blocks_read_out_of_order_are_hashed_once_the_rest_has_come(
    fetcher_of, source: MemorySource, store: BlobStore
) -> None:
    file = source.file("a.bin", 16 * BLOCK_SIZE)
    fetcher: Fetcher = fetcher_of(fetch_size=BLOCK_SIZE)
    reader = BlobReader(fetcher, file)
    for block in (9, 3, 12, 0, 1):
        read(reader, block * BLOCK_SIZE, 10)
    until(lambda: not reader.handle.holders)
    assert store.state(file.blob) != "verified"
    read(reader, 0, file.blob.size)
    until(lambda: store.state(file.blob) == "verified")
    reader.close()


@pytest.mark.allow_warnings("mismatch")
def test_hashes_of_a_removed_cache_verify_nothing(fetcher_of, source: MemorySource, store: BlobStore) -> None:
    file = source.file("a.bin", 4 * BLOCK_SIZE)
    right = source.contents["a.bin"]
    fetcher: Fetcher = fetcher_of(fetch_size=BLOCK_SIZE)
    reader = BlobReader(fetcher, file)
    fetcher.want(reader.handle, range(2), Priority.DEMAND)
    key = reader.handle.key
    until(lambda: key in fetcher.hash_worker._hashings and fetcher.hash_worker._hashings[key].next_block == 2)
    reader.close()
    until(lambda: not fetcher._scheduler._handles)
    shutil.rmtree(store.layout.folder(file.blob.etag))
    source.contents["a.bin"] = bytes([right[0] ^ 1]) + right[1:]
    reported = threading.Event()
    fetcher.quarantine.on_mismatch = lambda _: reported.set()
    reader = BlobReader(fetcher, file)
    reader.prefetch()  # each block is published once, as the first time
    assert reported.wait(SOON)
    assert store.state(file.blob) != "verified"
    reader.close()
