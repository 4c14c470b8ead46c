"""Interleavings and failures that once lost a waiter, a worker, a handle or a wake-up; each is forced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from hffs.cache import BlobStore, StoredBlob
from hffs.cache.store.locks import RangeLocks
from hffs.errors import BlockAbsent, CacheUnusable, Cancelled, EntryNotFound, HubUnreachable
from hffs.policy import Priority, RetryPolicy
from hffs.ranges import BLOCK_SIZE, ByteRange
from hffs.transfer import BlobReader, Fetcher, Pending, Timers
from hffs.transfer.blob_handle import BlobHandle
from hffs.transfer.reader import ROUNDS
from tests.support.waiting import SOON, read, until
from tests.unit.memory import MemorySource

MakeFetcher = Callable[..., Fetcher]


@pytest.mark.allow_warnings("a callback that raises is a bug, and is logged")
def test_a_callback_that_raises_costs_no_other_read_its_answer(fetcher_of, source) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    fetcher = fetcher_of()
    handle = fetcher.attach(file)
    source.gate.clear()
    answers: list[Exception | None] = []
    called = threading.Event()

    def raising(error: Exception | None) -> None:
        raise MemoryError

    def answering(error: Exception | None) -> None:
        answers.append(error)
        called.set()

    for callback in (raising, answering):
        fetcher.wait(handle, ByteRange(0, 5), time.monotonic() + 60, callback)
    source.gate.set()
    assert called.wait(SOON)
    assert answers == [None]
    fetcher.detach(handle)


@pytest.mark.allow_warnings("workers say what went wrong")
def test_an_unreadable_state_file_after_a_fetch_ends_no_worker(fetcher_of, source, monkeypatch) -> None:
    def failing(self: StoredBlob) -> bool:
        raise CacheUnusable("input/output error")

    fetcher = fetcher_of(workers=1)
    readers = [BlobReader(fetcher, source.file(f"{name}.bin", BLOCK_SIZE, seed=ord(name))) for name in "abc"]
    monkeypatch.setattr(StoredBlob, "complete", property(failing))
    for name, reader in zip("abc", readers, strict=True):
        assert read(reader, 0, 7) == source.contents[f"{name}.bin"][:7]
        reader.close()
    monkeypatch.undo()


@pytest.mark.allow_warnings("workers say what went wrong")
def test_an_on_local_callback_that_raises_ends_no_worker(fetcher_of, source) -> None:
    fetcher = fetcher_of(workers=1)

    def failing(file: object) -> None:
        raise RuntimeError("a bug")

    fetcher.on_local = failing
    for name in "abc":
        reader = BlobReader(fetcher, source.file(f"{name}.bin", BLOCK_SIZE, seed=ord(name)))
        assert read(reader, 0, 7) == source.contents[f"{name}.bin"][:7]
        reader.close()


def test_a_wait_on_a_detached_handle_is_cancelled_and_costs_no_worker(fetcher_of, source) -> None:
    fetcher = fetcher_of(workers=1)
    closed = fetcher.attach(source.file("a.bin", 4 * BLOCK_SIZE))
    holding = fetcher.attach(closed.file)
    # A handle that is detached while its blob is still open, as a late reader may hold one.
    stored = fetcher._store.open(closed.file.blob)
    fetcher.detach(closed)
    fetcher.detach(holding)
    assert fetcher._scheduler._handles == {}
    answers: list[Exception | None] = []
    closed.stored = stored
    fetcher.want(closed, range(4), Priority.BACKGROUND)
    fetcher.wait(closed, ByteRange(0, 5), time.monotonic() + 60, answers.append)
    assert [type(answer) for answer in answers] == [Cancelled]
    stored.close()
    reader = BlobReader(fetcher, source.file("b.bin", BLOCK_SIZE, seed=2))
    assert read(reader, 0, 7) == source.contents["b.bin"][:7]
    reader.close()


def test_a_read_that_outlives_its_file_gets_its_bytes_however_late(fetcher_of, source) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    fetcher = fetcher_of()
    source.gate.clear()
    reader = BlobReader(fetcher, file)
    pending = reader.read(10, 20)
    assert isinstance(pending, Pending)
    assert source.arrived.acquire(timeout=SOON)
    settled = threading.Event()
    pending.add_done_callback(lambda _: settled.set())
    reader.close()
    source.gate.set()
    assert settled.wait(SOON)
    until(lambda: not fetcher.active_workers())
    assert pending.take() == source.contents["a.bin"][10:30]
    until(lambda: not fetcher._scheduler._handles)


def test_a_cancelled_read_of_a_closed_reader_leaves_nothing_open(fetcher_of, source) -> None:
    fetcher = fetcher_of()
    source.gate.clear()
    reader = BlobReader(fetcher, source.file("a.bin", BLOCK_SIZE))
    pending = reader.read(10, 20)
    assert isinstance(pending, Pending)
    reader.close()
    pending.cancel()
    source.gate.set()
    until(lambda: not fetcher._scheduler._handles)


def test_an_open_that_fails_halfway_leaves_no_handle_attached(fetcher_of, source, monkeypatch) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    fetcher = fetcher_of()

    def failing(self: StoredBlob) -> bool:
        raise CacheUnusable("input/output error")

    monkeypatch.setattr(StoredBlob, "complete", property(failing))
    with pytest.raises(CacheUnusable):
        BlobReader(fetcher, file)
    monkeypatch.undo()
    assert fetcher._scheduler._handles == {}


def test_a_prefetch_that_raises_closes_its_file(filesystem_of, monkeypatch) -> None:
    filesystem = filesystem_of({"a.bin": BLOCK_SIZE})
    content = filesystem.view.snapshot.files

    def failing(self: StoredBlob, blocks: range) -> list[range]:
        raise CacheUnusable("input/output error")

    monkeypatch.setattr(StoredBlob, "missing", failing)
    monkeypatch.setattr(StoredBlob, "complete", False)
    with pytest.raises(CacheUnusable):
        content.prefetch(content.entry("a.bin"))
    monkeypatch.undo()
    assert content._fetcher._scheduler._handles == {}


class FailsOnce:
    """A source whose first answer, a failure, is held back until ``fail`` is set."""

    def __init__(self, source: MemorySource) -> None:
        self.source = source
        self.fail = threading.Event()
        self.asked = 0

    def forget(self, file):
        raise AssertionError(f"nothing of {file.path} was wrong")

    def open_range(self, file, wanted):
        self.asked += 1
        if self.asked == 1:
            self.source.arrived.release()
            assert self.fail.wait(SOON)
            raise HubUnreachable("down")
        body = self.source.open_range(file, wanted)
        if file.path == "background.bin":
            assert self.source.gate.wait(2 * SOON)
        return body


def test_a_sleeping_worker_takes_a_retry_due_while_the_others_are_busy(
    store: BlobStore, source: MemorySource, timers: Timers
) -> None:
    transport = FailsOnce(source)
    retry = RetryPolicy(base=0.2, cap=0.2)
    fetcher = Fetcher(store, transport, timers, workers=2, retry=retry, jitter=lambda: 0.99)
    fetcher.start()
    source.gate.set()
    demanded = BlobReader(fetcher, source.file("demanded.bin", BLOCK_SIZE, seed=1))
    background = BlobReader(fetcher, source.file("background.bin", BLOCK_SIZE, seed=2))
    demanded.prefetch()  # taken by the only worker that is not reserved for demand
    assert source.arrived.acquire(timeout=SOON)
    background.prefetch()
    pending = demanded.read(0, 5)
    assert isinstance(pending, Pending)
    source.gate.clear()
    transport.fail.set()  # that worker fails, and runs the background fetch when the retry is due
    try:
        # MemoryBody waits for the gate, too: the retry's answer must not.
        assert source.arrived.acquire(timeout=SOON)
        assert source.arrived.acquire(timeout=SOON), "no worker took the retry"
    finally:
        source.gate.set()
    assert pending.result(SOON) == source.contents["demanded.bin"][:5]
    demanded.close()
    background.close()
    fetcher.stop()


def test_a_block_queued_beside_a_failed_one_is_fetched_for_the_next_read(fetcher_of, source) -> None:
    fetcher = fetcher_of(workers=1)
    reader = BlobReader(fetcher, source.file("a.bin", 2 * BLOCK_SIZE))
    source.failures = [EntryNotFound("missing")]
    with pytest.raises(EntryNotFound):
        read(reader, 0, 5)
    until(lambda: not fetcher.active_workers())
    with pytest.raises(EntryNotFound):  # of the first block; the second is queued, and no read waits for it
        read(reader, 0, 2 * BLOCK_SIZE)
    assert read(reader, BLOCK_SIZE, 5) == source.contents["a.bin"][BLOCK_SIZE:][:5]
    reader.close()


@pytest.mark.allow_warnings("a timer's action that raises is a bug, and is logged")
def test_a_timer_whose_action_raises_costs_no_other_timer(timers: Timers) -> None:
    def failing() -> None:
        raise RuntimeError("a bug")

    done = threading.Event()
    now = time.monotonic()
    timers.call_at(now, failing)
    timers.call_at(now + 0.01, done.set)
    assert done.wait(SOON)


def test_an_interrupt_between_two_rounds_of_a_read_ends_it(fetcher_of, source, monkeypatch) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    source.gate.clear()
    pending = reader.read(0, 5)
    assert isinstance(pending, Pending)
    settled = threading.Event()
    pending.add_done_callback(lambda _: settled.set())
    source.gate.set()
    assert settled.wait(SOON)
    source.gate.clear()

    def evicted(self: BlobHandle, asked: ByteRange) -> bytes:
        pending.cancel()
        self.stored.discard(range(1))
        raise BlockAbsent("evicted just now")

    monkeypatch.setattr(BlobHandle, "read", evicted)
    with pytest.raises(Cancelled):
        pending.take()
    monkeypatch.undo()
    assert fetcher.waiting_reads() == []
    reader.close()


def test_a_late_callback_comes_again_after_another_round_of_the_read(fetcher_of, source) -> None:
    """The block comes between the read and ``add_done_callback``, and is evicted before it is taken."""
    file = source.file("a.bin", BLOCK_SIZE)
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    pending = reader.read(0, 5)
    assert isinstance(pending, Pending)
    assert pending._done.wait(SOON)
    called = threading.Semaphore(0)
    pending.add_done_callback(lambda _: called.release())
    assert called.acquire(timeout=SOON)
    until(lambda: not fetcher.active_workers())
    reader.handle.stored.discard(range(1))
    assert pending.take() is None
    assert called.acquire(timeout=SOON), "no callback although the bytes are local again"
    assert pending.take() == source.contents["a.bin"][:5]
    reader.close()


@pytest.mark.allow_warnings("damaged")
def test_simultaneous_reads_of_a_damaged_block_all_get_it_mended(fetcher_of, source, monkeypatch, tmp_path) -> None:
    """While one reader checks a bad block alone, the next finds it neither local nor lost."""
    file = source.file("a.bin", BLOCK_SIZE)
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    read(reader, 0, BLOCK_SIZE)
    reader.close()
    until(lambda: not fetcher._scheduler._handles)
    [data] = (tmp_path / "cache").rglob("*.data")
    with open(data, "r+b") as damaged:
        damaged.write(b"????")
    looking, look, crowded = threading.Event(), threading.Event(), threading.Semaphore(0)
    plain_sound = StoredBlob._is_sound
    plain_take = RangeLocks.try_acquire

    def sound(self: StoredBlob, block: int) -> bool:
        looking.set()
        assert look.wait(SOON)
        return plain_sound(self, block)

    def take(self: RangeLocks, wanted: range):
        taken, busy = plain_take(self, wanted)
        if busy:
            crowded.release()
        return taken, busy

    monkeypatch.setattr(StoredBlob, "_is_sound", sound)
    monkeypatch.setattr(RangeLocks, "try_acquire", take)
    again = BlobReader(fetcher, file)
    answers: dict[str, bytes | Exception] = {}

    def reading(name: str) -> None:
        try:
            answers[name] = read(again, 0, 9)
        except Exception as error:
            answers[name] = error

    first = threading.Thread(target=reading, args=("first",))
    second = threading.Thread(target=reading, args=("second",))
    first.start()
    assert looking.wait(SOON)
    second.start()
    for _ in range(2 * ROUNDS):  # while the first checks, the second has no answer, however often it tries
        assert crowded.acquire(timeout=SOON), answers
    look.set()
    first.join(SOON)
    second.join(SOON)
    right = source.contents["a.bin"][:9]
    assert answers == {"first": right, "second": right}
    again.close()
