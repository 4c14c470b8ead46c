"""A cache smaller than what is read or hydrated: no read fails, and nothing is fetched that cannot be kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hffs.cache import BlobStore, CacheBudget, StoredBlob
from hffs.errors import CacheUnusable, HffsError, NoSpace
from hffs.policy import DiskBreaker, Priority
from hffs.ranges import BLOCK_SIZE
from hffs.transfer import BlobReader, CacheMaintenance, Fetcher, Pending
from tests.support.hydrations import HydrationThread
from tests.support.waiting import SOON, read, until
from tests.unit.memory import MemorySource

MIB = 1 << 20

MakeRoom = Callable[..., CacheBudget]


@pytest.fixture
def budget_of(store: BlobStore) -> Iterator[MakeRoom]:
    made: list[CacheBudget] = []

    def make(limit: int | None = None, min_free: int | None = 0) -> CacheBudget:
        made.append(CacheBudget(store, limit, min_free))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.close()


def asked(source: MemorySource) -> int:
    return sum(wanted.length for _, wanted in source.asked)


def test_a_file_larger_than_the_cache_is_read_in_order_and_fetched_once(
    fetcher_of, source: MemorySource, store: BlobStore, budget_of: MakeRoom
) -> None:
    size = 64 * MIB
    file = source.file("a.bin", size)
    fetcher: Fetcher = fetcher_of(budget=budget_of(40 * MIB))
    reader = BlobReader(fetcher, file)
    for offset in range(0, size, MIB):
        assert read(reader, offset, MIB) == source.contents["a.bin"][offset : offset + MIB]
        assert store.local_bytes(file.blob) <= 40 * MIB
    assert fetcher.degraded == ""
    assert asked(source) == size
    reader.close()


def test_readahead_keeps_to_a_quarter_of_the_cache(fetcher_of, source: MemorySource, budget_of: MakeRoom) -> None:
    file = source.file("a.bin", 64 * MIB)
    reader = BlobReader(fetcher_of(budget=budget_of(40 * MIB)), file)
    for offset in range(0, file.blob.size, MIB):
        read(reader, offset, MIB)
        [window] = reader._cursors.windows()
        assert window.wanted - window.position <= 10 * MIB
    reader.close()


@pytest.mark.parametrize("limit", [3 * MIB, MIB, 20_000])
def test_a_cache_of_less_than_a_block_serves_many_readers_at_once(
    fetcher_of, source: MemorySource, budget_of: MakeRoom, limit: int
) -> None:
    size = 12 * MIB + 77
    file = source.file("a.bin", size)
    fetcher: Fetcher = fetcher_of(budget=budget_of(limit))

    def every(number: int) -> None:
        reader = BlobReader(fetcher, file)
        for step in range(24):
            offset = (step * 7 + number * 5) % 24 * size // 24
            assert read(reader, offset, MIB) == source.contents["a.bin"][offset : offset + MIB]
        reader.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(every, range(6)))


def test_blocks_evicted_before_they_are_read_stay_in_memory_the_next_time(
    fetcher_of, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = source.file("a.bin", 4 * BLOCK_SIZE)
    fetcher: Fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    plain = StoredBlob.publish

    def published_and_gone(self: StoredBlob, claim, first: int, data) -> None:
        plain(self, claim, first, data)
        assert self.evict(range(first, first + 1), 1)

    monkeypatch.setattr(StoredBlob, "publish", published_and_gone)
    assert read(reader, 5, 4 * BLOCK_SIZE - 5) == source.contents["a.bin"][5:]
    assert asked(source) == 8 * BLOCK_SIZE, "each was fetched twice"
    assert not reader.handle.memory, "memory has dropped them"
    assert not reader.handle.holds(0)
    reader.close()


# Nothing is fetched that cannot be kept, unless a reader waits for it.


@pytest.fixture
def refusing(budget_of: MakeRoom, monkeypatch: pytest.MonkeyPatch) -> CacheBudget:
    """A budget that grants nothing: all of it is in use."""
    budget = budget_of(100 * MIB)
    monkeypatch.setattr(budget, "reserve", lambda size: None)
    return budget


def test_with_a_full_budget_readers_are_served_and_background_is_not_fetched(
    fetcher_of, source: MemorySource, store: BlobStore, refusing: CacheBudget
) -> None:
    file = source.file("a.bin", 40 * BLOCK_SIZE)
    fetcher: Fetcher = fetcher_of(budget=refusing)
    reader = BlobReader(fetcher, file)
    assert read(reader, 0, BLOCK_SIZE) == source.contents["a.bin"][:BLOCK_SIZE]
    assert "pinned or in use" in fetcher.degraded
    assert store.local_bytes(file.blob) == 0
    came = asked(source)
    for priority in (Priority.BACKGROUND, Priority.BULK):
        fetcher.want(reader.handle, range(10, 40), priority)
        until(lambda: not fetcher.is_busy(reader.handle))
    assert asked(source) == came
    assert len(fetcher.errors()) == 1, "reported once"
    reader.close()


def test_a_read_that_begins_to_wait_for_a_skipped_block_gets_it(
    fetcher_of, source: MemorySource, refusing: CacheBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = source.file("a.bin", 4 * BLOCK_SIZE)
    fetcher: Fetcher = fetcher_of(workers=1, budget=refusing)
    reader = BlobReader(fetcher, file)
    at_it, go_on = threading.Event(), threading.Event()
    plain = type(fetcher._downloader)._is_useful

    def held(self, fetch, space) -> bool:
        worth = plain(self, fetch, space)
        if not worth:
            at_it.set()
            assert go_on.wait(SOON)
        return worth

    monkeypatch.setattr(type(fetcher._downloader), "_is_useful", held)
    fetcher.want(reader.handle, range(4), Priority.BULK)
    assert at_it.wait(SOON)
    pending = reader.read(0, 5)
    assert isinstance(pending, Pending)
    go_on.set()
    assert pending.result(SOON) == source.contents["a.bin"][:5]
    reader.close()


def ended(hydration: HydrationThread):
    assert hydration.join(SOON)
    return hydration.progress()


@pytest.mark.allow_warnings("failures are logged")
def test_a_hydration_without_space_fails_with_the_reason(
    fetcher_of, source: MemorySource, refusing: CacheBudget
) -> None:
    files = [source.file(f"{n}.bin", MIB, seed=n) for n in range(5)]
    hydration = HydrationThread(fetcher_of(budget=refusing), lambda: [(file, 0) for file in files])
    hydration.start()
    now = ended(hydration)
    assert now.state == "failed"
    assert {type(part.error) for part in now.failed} == {NoSpace}
    assert source.asked == []


def test_a_hydration_that_can_never_fit_fails_before_it_fetches(
    fetcher_of, source: MemorySource, budget_of: MakeRoom
) -> None:
    files = [source.file(f"{n}.bin", 3 * MIB, seed=n) for n in range(3)]
    fetcher = fetcher_of(budget=budget_of(8 * MIB))
    hydration = HydrationThread(fetcher, lambda: [(file, 0) for file in files])
    hydration.start()
    now = ended(hydration)
    assert (now.state, type(now.error)) == ("failed", NoSpace)
    assert "9 MiB are missing of 9, and the cache may hold 8 MiB here" in str(now.error)
    assert source.asked == []
    twice = HydrationThread(fetcher, lambda: [(files[0], 0), (files[0], 0), (files[0], 0), (files[1], 0)])
    twice.start()
    assert ended(twice).state == "done", "one content under three names is kept once"


def test_local_files_are_hydrated_whatever_the_limit(
    fetcher_of, source: MemorySource, store: BlobStore, budget_of: MakeRoom
) -> None:
    file = source.file("a.bin", 3 * MIB)
    first = HydrationThread(fetcher_of(), lambda: [(file, 0)])
    first.start()
    assert ended(first).state == "done"
    again = HydrationThread(fetcher_of(budget=budget_of(None)), lambda: [(file, file.blob.size)])
    again.start()
    assert ended(again).state == "done"


# A disk that refuses.


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The disk takes nothing while this is set."""
    is_bad = threading.Event()
    is_bad.set()
    plain = StoredBlob.publish

    def publish(self: StoredBlob, claim, block: int, data) -> None:
        tries.append(len(data))
        if is_bad.is_set():
            raise CacheUnusable("the disk is broken")
        plain(self, claim, block, data)

    tries: list[int] = []
    is_bad.tries = tries  # type: ignore[attr-defined]
    monkeypatch.setattr(StoredBlob, "publish", publish)
    return is_bad


@pytest.mark.allow_warnings("that the disk is broken")
def test_a_disk_that_refused_is_retried_later_with_one_block(fetcher_of, source: MemorySource, bad) -> None:
    file = source.file("a.bin", 16 * BLOCK_SIZE)
    breaker = DiskBreaker(3600.0)
    fetcher: Fetcher = fetcher_of(workers=1, breaker=breaker)
    reader = BlobReader(fetcher, file)
    for block in range(8):
        assert read(reader, block * BLOCK_SIZE, 10) == source.contents["a.bin"][block * BLOCK_SIZE :][:10]
    assert len(bad.tries) == 1
    assert "broken" in fetcher.degraded
    breaker.failed(float("-inf"))  # long ago: a retry is due
    assert read(reader, 9 * BLOCK_SIZE, 10)
    assert len(bad.tries) == 2
    bad.clear()
    breaker.failed(float("-inf"))  # long ago: a retry is due
    fetcher.want(reader.handle, range(12, 16), Priority.AHEAD)
    until(lambda: not fetcher.is_busy(reader.handle))
    assert bad.tries[2] == BLOCK_SIZE
    assert fetcher.degraded == ""
    assert reader.handle.stored.missing(range(12, 16)) == []
    reader.close()


@pytest.mark.allow_warnings("that the disk is broken")
def test_a_cache_that_works_again_is_noticed_without_reads(
    fetcher_of, source: MemorySource, budget_of: MakeRoom, bad
) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    breaker = DiskBreaker(3600.0)
    budget = budget_of()
    fetcher: Fetcher = fetcher_of(budget=budget, breaker=breaker)
    reader = BlobReader(fetcher, file)
    assert read(reader, 0, 10)
    fetcher.probe()
    assert fetcher.degraded, "a retry is not due yet"
    breaker.failed(float("-inf"))  # long ago: a retry is due
    fetcher.probe()
    assert fetcher.degraded == ""
    reader.close()


@pytest.mark.allow_warnings("that the disk is broken")
def test_a_probe_that_fails_leaves_the_cache_degraded(
    fetcher_of, source: MemorySource, budget_of: MakeRoom, bad, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise CacheUnusable("still broken")

    file = source.file("a.bin", BLOCK_SIZE)
    breaker = DiskBreaker(0.0)
    budget = budget_of()
    monkeypatch.setattr(budget, "probe", broken)
    fetcher: Fetcher = fetcher_of(budget=budget, breaker=breaker)
    reader = BlobReader(fetcher, file)
    assert read(reader, 0, 10)
    fetcher.probe()
    assert "broken" in fetcher.degraded
    reader.close()


@pytest.mark.allow_warnings("a bug is logged")
def test_cache_maintenance_survives_errors_and_ends(budget_of: MakeRoom) -> None:
    budget = budget_of()
    calls: list[str] = []
    three = threading.Event()

    def probe() -> None:
        calls.append("probe")
        three.set()

    def begin() -> None:
        calls.append("begin")
        if len(calls) == 1:
            raise HffsError("the disk failed")
        if len(calls) == 2:
            raise ValueError("a bug")

    budget.start = begin  # type: ignore[method-assign]
    housekeeping = CacheMaintenance(budget, probe)
    housekeeping.start()
    assert three.wait(SOON)
    housekeeping.stop()
    assert calls[:4] == ["begin", "begin", "begin", "probe"]
