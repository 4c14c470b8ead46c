"""Reading through fetcher and store: right bytes, each block once, every wait ended."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from hffs.cache import BlobStore, StoredBlob
from hffs.errors import Cancelled, DeadlineExceeded, EntryNotFound, HubUnreachable, NoSpace
from hffs.policy import DiskBreaker
from hffs.ranges import BLOCK_SIZE, ByteRange
from hffs.transfer import BlobReader, Fetcher, Pending
from hffs.transfer.timers import Timer
from hffs.transfer.waiters import LATE_SECONDS, LateBlocks, Waiter
from tests.support.waiting import read, until

MakeFetcher = Callable[..., Fetcher]


def test_a_cold_read_waits_and_a_warm_one_does_not(fetcher_of, source) -> None:
    file = source.file("a.bin", 3 * BLOCK_SIZE + 5)
    reader = BlobReader(fetcher_of(), file)
    cold = reader.read(BLOCK_SIZE - 3, 10)
    assert isinstance(cold, Pending)
    assert cold.result(10) == source.contents["a.bin"][BLOCK_SIZE - 3 : BLOCK_SIZE + 7]
    warm = reader.read(BLOCK_SIZE - 3, 10)
    assert isinstance(warm, bytes)
    reader.close()


def test_reads_anywhere_of_any_length_are_the_bytes_of_the_source(fetcher_of, source) -> None:
    size = 9 * BLOCK_SIZE + 1234
    file = source.file("a.bin", size)
    reader = BlobReader(fetcher_of(), file)
    dice = random.Random(3)
    spots = [(dice.randrange(size + 10), dice.randrange(3 * BLOCK_SIZE)) for _ in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda spot: read(reader, *spot), spots))
    for (offset, length), answer in zip(spots, answers, strict=True):
        assert answer == source.contents["a.bin"][offset : offset + length]
    reader.close()


def test_every_block_is_fetched_once_however_many_readers_want_it(fetcher_of, source) -> None:
    file = source.file("a.bin", 8 * BLOCK_SIZE)
    fetcher = fetcher_of()
    source.gate.clear()
    readers = [BlobReader(fetcher, file) for _ in range(16)]
    pendings = [reader.read(0, 8 * BLOCK_SIZE) for reader in readers]
    source.gate.set()
    for pending in pendings:
        assert isinstance(pending, Pending)
        assert pending.result(10) == source.contents["a.bin"]
    fetched = sorted((asked.start, asked.stop) for _, asked in source.asked)
    assert sum(stop - start for start, stop in fetched) == 8 * BLOCK_SIZE
    for reader in readers:
        reader.close()


def test_waiters_are_served_while_the_response_still_streams(fetcher_of, source) -> None:
    """The first block of a long fetch is readable before the last one came."""
    file = source.file("a.bin", 8 * BLOCK_SIZE)
    held = threading.Event()
    plain_get = source.open_range

    def get(wanted_file, wanted):
        body = plain_get(wanted_file, wanted)
        plain = body.readinto

        def readinto(view):
            if body.at + wanted.start >= 2 * BLOCK_SIZE:
                assert held.wait(10)
            return plain(view)

        body.readinto = readinto
        return body

    source.open_range = get
    reader = BlobReader(fetcher_of(), file)
    whole = reader.read(0, 8 * BLOCK_SIZE)
    first = reader.read(0, 100)
    data = first if isinstance(first, bytes) else first.result(10)
    assert data == source.contents["a.bin"][:100]
    assert isinstance(whole, Pending)
    assert not whole._done.is_set()
    held.set()
    assert whole.result(10) == source.contents["a.bin"]
    reader.close()


def test_a_transient_failure_is_retried(fetcher_of, source) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    source.failures = [HubUnreachable("down"), HubUnreachable("down")]
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    assert read(reader, 0, 5) == source.contents["a.bin"][:5]
    assert [failure.what for failure in fetcher.errors()] == ["down", "down"]
    reader.close()


def test_a_permanent_failure_ends_all_waiting_reads(fetcher_of, source) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    source.gate.clear()
    source.failures = [EntryNotFound("missing")]
    reader = BlobReader(fetcher_of(), file)
    pendings = [reader.read(number, 5) for number in range(4)]
    for pending in pendings:
        assert isinstance(pending, Pending)
        with pytest.raises(EntryNotFound, match="missing"):
            pending.result(10)
    reader.close()


def test_a_read_ends_at_its_deadline_though_the_source_hangs(fetcher_of, source) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    source.gate.clear()
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, file, read_timeout=0.05)
    pending = reader.read(0, 5)
    assert isinstance(pending, Pending)
    with pytest.raises(DeadlineExceeded):
        pending.result()
    assert fetcher.waiting_reads() == []
    reader.close()


def test_a_read_that_missed_its_deadline_fails_at_once_when_repeated(fetcher_of, source) -> None:
    """The kernel repeats a read that failed, and would make two or three deadlines of one."""
    file = source.file("a.bin", 4 * BLOCK_SIZE)
    source.gate.clear()
    reader = BlobReader(fetcher_of(), file, read_timeout=0.05)
    with pytest.raises(DeadlineExceeded):
        reader.read(0, 5).result()
    again = reader.read(4096, 5)
    assert again._done.is_set()
    with pytest.raises(DeadlineExceeded, match="just now"):
        again.result()
    other = reader.read(2 * BLOCK_SIZE, 5)
    assert not other._done.is_set()
    source.gate.set()
    assert other.result(10) == source.contents["a.bin"][2 * BLOCK_SIZE :][:5]
    until(lambda: isinstance(reader.read(0, 5), bytes))  # late blocks are served once they have landed
    reader.close()


def test_late_blocks_are_forgotten_after_a_while() -> None:
    late = LateBlocks()
    timer = Timer(lambda: None)
    waiter = Waiter(lambda _: None, timer, "key", "a.bin", ByteRange(0, BLOCK_SIZE + 1), 0.0)
    late.record(waiter, 100.0)
    assert late.contain("key", [range(1, 2)], 100.0 + LATE_SECONDS - 0.01)
    assert not late.contain("key", [range(2, 9)], 100.0)
    assert not late.contain("other", [range(2)], 100.0)
    assert not late.contain("key", [range(2)], 100.0 + LATE_SECONDS)


def test_an_interrupted_read_ends_at_once_and_leaves_nothing_waiting(fetcher_of, source) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    source.gate.clear()
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    pending = reader.read(0, 5)
    assert isinstance(pending, Pending)
    assert [(wait.path, wait.offset, wait.size) for wait in fetcher.waiting_reads()] == [("a.bin", 0, 5)]
    pending.cancel()
    with pytest.raises(Cancelled):
        pending.result(10)
    assert fetcher.waiting_reads() == []
    reader.close()


def test_a_callback_comes_once_whether_it_was_early_or_late(fetcher_of, source) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    source.gate.clear()
    reader = BlobReader(fetcher_of(), file)
    pending = reader.read(0, 5)
    assert isinstance(pending, Pending)
    called = threading.Semaphore(0)
    pending.add_done_callback(lambda _: called.release())
    assert not called.acquire(blocking=False)
    source.gate.set()
    assert called.acquire(timeout=10)
    assert pending.take() == source.contents["a.bin"][:5]
    pending.add_done_callback(lambda _: called.release())
    assert called.acquire(timeout=10)
    assert not called.acquire(blocking=False)
    reader.close()


def test_demand_is_served_while_every_other_worker_is_stuck_in_background_work(fetcher_of, source) -> None:
    big = source.file("big.bin", 64 * BLOCK_SIZE, seed=1)
    small = source.file("small.bin", BLOCK_SIZE, seed=2)
    fetcher = fetcher_of(workers=4, fetch_size=BLOCK_SIZE)
    source.gate.clear()
    background = BlobReader(fetcher, big)
    background.prefetch()
    for _ in range(2):  # of four workers two never take anything but demand
        assert source.arrived.acquire(timeout=10)
    reader = BlobReader(fetcher, small)
    pending = reader.read(0, 5)
    assert source.arrived.acquire(timeout=10)
    assert source.asked[-1][0] == "small.bin"
    source.gate.set()
    assert isinstance(pending, Pending)
    assert pending.result(10) == source.contents["small.bin"][:5]
    reader.close()
    background.close()


def test_a_prefetch_goes_on_when_its_reader_is_closed(fetcher_of, source, store: BlobStore) -> None:
    file = source.file("a.bin", 5 * BLOCK_SIZE)
    fetcher = fetcher_of()
    source.gate.clear()
    reader = BlobReader(fetcher, file)
    reader.prefetch()
    reader.close()
    source.gate.set()
    until(lambda: store.local_bytes(file.blob) == file.blob.size)


def test_a_full_disk_fails_no_read(fetcher_of, source, monkeypatch) -> None:
    file = source.file("a.bin", 4 * BLOCK_SIZE)

    def full(self, claim, block, data):
        raise NoSpace("no room")

    monkeypatch.setattr(StoredBlob, "publish", full)
    fetcher = fetcher_of(breaker=DiskBreaker(probe_seconds=0.0))
    reader = BlobReader(fetcher, file)
    assert read(reader, 100, 2 * BLOCK_SIZE) == source.contents["a.bin"][100 : 100 + 2 * BLOCK_SIZE]
    assert "no room" in fetcher.degraded
    monkeypatch.undo()
    assert read(reader, 3 * BLOCK_SIZE, 10) == source.contents["a.bin"][3 * BLOCK_SIZE :][:10]
    assert fetcher.degraded == ""
    reader.close()


@pytest.mark.allow_warnings("damaged")
def test_a_block_damaged_on_disk_is_fetched_again_and_not_served(
    fetcher_of, source, store: BlobStore, tmp_path
) -> None:
    file = source.file("a.bin", 2 * BLOCK_SIZE)
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    read(reader, 0, 2 * BLOCK_SIZE)
    reader.close()
    until(
        lambda: not fetcher._scheduler._handles
    )  # a block that was found right is not checked again while its blob is open
    [data] = (tmp_path / "cache").rglob("*.data")
    with open(data, "r+b") as damaged:
        damaged.seek(BLOCK_SIZE + 17)
        byte = damaged.read(1)[0]
        damaged.seek(BLOCK_SIZE + 17)
        damaged.write(bytes([byte ^ 1]))
    again = BlobReader(fetcher, file)
    assert read(again, BLOCK_SIZE, BLOCK_SIZE) == source.contents["a.bin"][BLOCK_SIZE:]
    assert source.asked[-1][1] == ByteRange(BLOCK_SIZE, 2 * BLOCK_SIZE)
    again.close()


def test_stopping_the_fetcher_cancels_all_waiting_reads(fetcher_of, source) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    source.gate.clear()
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    pending = reader.read(0, 5)
    stopper = threading.Thread(target=fetcher.stop)
    stopper.start()
    assert isinstance(pending, Pending)
    with pytest.raises(Cancelled):
        pending.result(10)
    source.gate.set()
    stopper.join(15)
    assert not stopper.is_alive()
