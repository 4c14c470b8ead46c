"""Readers, hydrations, workers, a source that trickles and fails, evictions: seeded orders of them, with real threads.

What must hold whatever the threads do in between: a read that waits ends exactly once, with the file's own bytes or
with an error that has a cause; so does a hydration, with its files whole; no block is served twice unless it was
evicted; and when all is over no handle, ticket, open blob, thread or descriptor is left. (Not hypothesis' machine: what
a step meets depends on the threads, and its replays want the same again. A seed that failed fails nearly always.)
"""

from __future__ import annotations

import hashlib
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Layout
from hffs.errors import BlockAbsent, Cancelled, DeadlineExceeded, EntryNotFound, HubUnreachable
from hffs.model import Blob, Digest, RemoteFile
from hffs.policy import RetryPolicy
from hffs.ranges import BLOCK_SIZE, ByteRange, block_count
from hffs.transfer import BlobReader, Fetcher, Pending, Timers
from tests.support.hydrations import HydrationThread
from tests.unit.memory import COMMIT

SOON = 20.0  # a wait that takes so long never ends
SIZES = (5 * BLOCK_SIZE + 77, 2 * BLOCK_SIZE, 9)
CONTENTS = [random.Random(size).randbytes(size) for size in SIZES]


def remote(number: int) -> RemoteFile:
    hexed = hashlib.sha256(CONTENTS[number]).hexdigest()
    return RemoteFile(COMMIT, str(number), Blob(hexed, SIZES[number], COMMIT.source, Digest("sha256", hexed)), lfs=True)


FILES = [remote(number) for number in range(len(SIZES))]
STEPS = 80


class TrickleSource:
    """Serves a block for each permit; fails on demand, before the first block of an answer or after it."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        # guarded by _lock
        self._permits = 0
        self._flood = False
        self._closed = False
        self._failures: list[tuple[bool, Exception]] = []
        self.served: Counter[tuple[int, int]] = Counter()
        self.failed: set[int] = set()

    def permit(self, blocks: int) -> None:
        with self._lock:
            self._permits += blocks
            self._lock.notify_all()

    def flood(self) -> None:
        """From now on serves everything, without failures."""
        with self._lock:
            self._flood = True
            self._failures.clear()
            self._lock.notify_all()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def fail(self, error: Exception, *, halfway: bool) -> None:
        with self._lock:
            self._failures.append((halfway, error))

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> TrickleBody:
        number = int(file.path)
        with self._lock:
            halfway, error = self._failures.pop(0) if self._failures else (False, None)
            if error is not None:
                self.failed.add(number)
        if error is not None and not halfway:
            raise error
        return TrickleBody(self, number, wanted, error)

    def forget(self, file: RemoteFile) -> None:
        raise AssertionError(f"nothing of {file.path} was wrong")

    def serve(self, number: int, offset: int, view: memoryview) -> None:
        with self._lock:
            arrived = self._lock.wait_for(lambda: self._closed or self._flood or self._permits, SOON)
            assert arrived, "no permit came"
            if self._closed:
                raise Cancelled("the source is closed")
            self._permits -= not self._flood
            self.served[number, offset // BLOCK_SIZE] += 1
        view[:] = CONTENTS[number][offset : offset + len(view)]


@dataclass
class TrickleBody:
    source: TrickleSource
    number: int
    wanted: ByteRange
    error: Exception | None
    at: int = 0

    def readinto(self, view: memoryview) -> int:
        if self.at and self.error is not None:
            raise self.error
        self.source.serve(self.number, self.wanted.start + self.at, view)
        self.at += len(view)
        return len(view)

    def abort(self) -> None:
        pass  # it trickles on: a connection may have nothing to break

    def close(self) -> None:
        if self.error is not None and self.wanted.length == self.at:
            self.error = None  # one block only: no failure halfway


@dataclass(eq=False)
class Read:
    """A read that waited: how often it was called back and taken, and how it ended."""

    number: int
    asked: tuple[int, int]
    hasty: bool
    pending: Pending
    cancelled: bool = False
    calls: int = 0
    taken: int = 0
    ends: list[bytes | Exception] = field(default_factory=list, repr=False)


@dataclass(eq=False)
class Open:
    number: int
    hasty: bool
    reader: BlobReader


@dataclass(eq=False)
class Hydrating:
    numbers: list[int]
    hydration: HydrationThread
    cancelled: bool = False


class Schedule:
    """Random steps of a seed; ``end`` ends everything and checks the outcomes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.folder = folder
        self.threads = set(threading.enumerate())
        layout = Layout(folder / "cache")
        layout.prepare()
        self.store = BlobStore(layout)
        self.timers = Timers()
        self.timers.start()
        self.source = TrickleSource()
        retry = RetryPolicy(attempts=3, base=0.001, cap=0.001)
        self.fetcher = Fetcher(
            self.store, self.source, self.timers, workers=3, fetch_size=2 * BLOCK_SIZE, late_seconds=0.0, retry=retry
        )
        self.fetcher.start()
        self.open: list[Open] = []
        self.reads: list[Read] = []
        self.hydrations: list[Hydrating] = []
        self.settled: queue.SimpleQueue[Read] = queue.SimpleQueue()
        self.evicted: Counter[tuple[int, int]] = Counter()
        self.stopped = False

    def step(self) -> None:
        often = {self.read: 10, self.arrive: 6, self.reply: 6, self.attach: 5, self.close: 4, self.abandon: 3}
        steps = {**often, self.prefetch: 2, self.fail: 2, self.evict: 2, self.hydrate: 2, self.cancel_hydration: 1}
        self.dice.choices(list(steps), list(steps.values()))[0]()

    def attach(self) -> None:
        number, hasty = self.dice.randrange(len(FILES)), self.dice.random() < 0.2
        reader = BlobReader(self.fetcher, FILES[number], read_timeout=0.003 if hasty else 60.0)
        self.open.append(Open(number, hasty, reader))

    def read(self) -> None:
        if not self.open:
            self.attach()
        opened = self.dice.choice(self.open)
        offset, length = self.dice.randrange(SIZES[opened.number]), self.dice.randint(1, 3 * BLOCK_SIZE)
        answer = opened.reader.read(offset, length)
        if isinstance(answer, bytes):
            assert answer == CONTENTS[opened.number][offset : offset + length]
            return
        waiting = Read(opened.number, (offset, length), opened.hasty, answer)
        self.reads.append(waiting)

        def count(_: Pending) -> None:
            waiting.calls += 1
            self.settled.put(waiting)

        answer.add_done_callback(count)

    def prefetch(self) -> None:
        if self.open:
            self.dice.choice(self.open).reader.prefetch()

    def hydrate(self) -> None:
        numbers = self.dice.sample(range(len(FILES)), self.dice.randint(1, len(FILES)))
        files = [FILES[number] for number in numbers]
        hydration = HydrationThread(
            self.fetcher,
            lambda: [(file, self.store.local_bytes(file.blob)) for file in files],
            big_file=self.dice.choice((BLOCK_SIZE, 1 << 30)),
        )
        self.hydrations.append(Hydrating(numbers, hydration))
        hydration.start()

    def cancel_hydration(self) -> None:
        if self.hydrations:
            chosen = self.dice.choice(self.hydrations)
            chosen.cancelled = True
            chosen.hydration.cancel()
            assert chosen.hydration.join(SOON)

    def abandon(self) -> None:
        if self.reads:
            read = self.dice.choice(self.reads)
            read.cancelled = True
            read.pending.cancel()

    def close(self) -> None:
        if self.open:
            opened = self.dice.choice(self.open)
            self.open.remove(opened)
            opened.reader.close()

    def arrive(self) -> None:
        self.source.permit(self.dice.randint(1, 4))

    def fail(self) -> None:
        kind = self.dice.choice((HubUnreachable, HubUnreachable, EntryNotFound))
        self.source.fail(kind("on demand"), halfway=self.dice.random() < 0.5)

    def evict(self) -> None:
        number = self.dice.randrange(len(FILES))
        first = self.dice.randrange(block_count(SIZES[number]))
        blocks = range(first, self.dice.randint(first + 1, block_count(SIZES[number])))
        self.evicted.update((number, block) for block in blocks)
        stored = self.store.open(FILES[number].blob)
        stored.discard(blocks)
        stored.close()

    def reply(self) -> None:
        """What a binding's reply thread does with all that has settled."""
        while True:
            try:
                read = self.settled.get_nowait()
            except queue.Empty:
                return
            read.taken += 1
            try:
                data = read.pending.take()
            except Exception as error:
                read.ends.append(error)
            else:
                if data is not None:
                    read.ends.append(data)

    def stop(self) -> None:
        """Stops the fetcher in the middle of everything."""
        self.stopped = True
        self.source.close()
        self.fetcher.stop()

    def end(self) -> None:
        self.source.flood()
        self._wait_for(lambda: all(read.ends for read in self.reads))
        self._wait_for(lambda: all(each.hydration.state != "running" for each in self.hydrations))
        for opened in self.open:
            opened.reader.close()
        if not self.stopped:
            self._wait_for(lambda: not self.fetcher._scheduler._handles)
            self._read_all()
            self._wait_for(lambda: not self.fetcher._scheduler._handles)
            assert not self.fetcher._scheduler._queue._maps
        for read in self.reads:
            self._check(read)
        for each in self.hydrations:
            self._check_hydration(each)
        for place, times in self.source.served.items():
            assert times <= 1 + self.evicted[place], f"block {place} was fetched {times} times"
        self.shut()
        assert not self.fetcher._scheduler._handles
        assert not self.fetcher._scheduler._waiters
        assert set(threading.enumerate()) <= self.threads
        assert not self.store._open
        assert not [where for where in map(_target, os.listdir("/proc/self/fd")) if where.startswith(str(self.folder))]

    def shut(self) -> None:
        self.source.close()
        for each in self.hydrations:
            each.hydration.cancel()
        self.fetcher.stop()
        self.timers.stop()

    def _read_all(self) -> None:
        """All files whose source never failed can be read."""
        for number in set(range(len(FILES))) - self.source.failed:
            reader = BlobReader(self.fetcher, FILES[number])
            answer = reader.read(0, SIZES[number])
            data = answer if isinstance(answer, bytes) else answer.result(SOON)
            assert data == CONTENTS[number]
            reader.close()

    def _check(self, read: Read) -> None:
        offset, length = read.asked
        assert len(read.ends) == 1, "a read ended more than once"
        assert read.calls == read.taken, "a callback came after the end"
        [end] = read.ends
        if isinstance(end, bytes):
            assert end == CONTENTS[read.number][offset : offset + length]
        elif isinstance(end, Cancelled):
            assert read.cancelled or self.stopped
        elif isinstance(end, DeadlineExceeded):
            assert read.hasty
        elif isinstance(end, BlockAbsent):
            assert self.evicted.total() > 0
        else:
            assert isinstance(end, (HubUnreachable, EntryNotFound)), repr(end)
            assert read.number in self.source.failed

    def _check_hydration(self, hydrating: Hydrating) -> None:
        assert hydrating.hydration.join(SOON)
        now = hydrating.hydration.progress()
        assert now.active == []
        if hydrating.cancelled or self.stopped:
            return
        failed = {int(each.file.path) for each in now.failed}
        assert now.state == ("failed" if failed else "done")
        assert failed <= self.source.failed, now.failed
        assert sorted(int(each.file.path) for each in now.ended) == sorted(hydrating.numbers)
        dropped = {number for number, _ in self.evicted}  # perhaps in the moment in which it ended
        done = [each for each in now.ended if each.error is None and int(each.file.path) not in dropped]
        assert all(each.local == each.size for each in done)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + SOON
        self.reply()
        while not condition():
            left = [(read.calls, read.taken, read.asked) for read in self.reads if not read.ends]
            assert time.monotonic() < ends, f"reads without end: {left}; {self.fetcher._scheduler._handles}"
            time.sleep(0.001)
            self.reply()


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


@pytest.mark.parametrize("stopped", [False, True], ids=["drained", "stopped"])
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.allow_warnings("failures of hydrations are logged")
def test_every_read_ends_once_and_nothing_is_left(
    tmp_path: Path, seed: int, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hffs.transfer.hydrate.LOOK_SECONDS", 0.01)
    schedule = Schedule(tmp_path, seed)
    # A hydration waits until a failure is forgotten; not five seconds in this test.
    schedule.fetcher._scheduler._queue._failure_seconds = 0.1
    try:
        for _ in range(STEPS):
            schedule.step()
        if stopped:
            schedule.stop()
        schedule.end()
    finally:
        schedule.shut()
        schedule.store.close()
