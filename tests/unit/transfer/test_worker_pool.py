"""The workers' threads: no more than needed or allowed, and none sleeps while there is work for it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hffs.policy import RESERVED, BlockQueue, ConcurrencyController, ConcurrencyLimits, Fetch, Priority
from hffs.transfer.worker_pool import SLEEP_SECONDS, PoolTask, WorkerPool
from tests.support.waiting import SOON, until

assert SOON < SLEEP_SECONDS, "else a lost wake-up would not be noticed"


class Fixed(ConcurrencyController):
    """A constant number of workers for big files."""

    number = 1

    @property
    def limit(self) -> int:
        return self.number


class Handle:
    """Stands in for a file."""

    class file:  # noqa: N801 - an attribute of the real one
        path = "a"


class Rig:
    """A pool, with the queue and the limits that the scheduler puts behind it."""

    def __init__(self, most: int, do: Callable[[Rig, PoolTask], None]) -> None:
        self.most = most
        self.ready = threading.Condition()
        self.queue: BlockQueue[Exception] = BlockQueue(max_blocks=4, demand_blocks=2)
        self.controller = Fixed(most=most)
        self.limits = ConcurrencyLimits(workers=most, controller=self.controller)
        self.wrong: list[str] = []
        self.done: Counter[int] = Counter()
        self._do = do
        self.pool = WorkerPool(
            self.ready,
            most,
            take=self._take,
            due=self._due,
            more=lambda: any(self.queue.queued().values()),
            run=self._run,
        )

    def want(self, blocks: range, priority: Priority) -> None:
        with self.ready:
            if self.queue.want("a", blocks, priority, time.monotonic()):
                self.pool.wake()

    def rise(self, number: int) -> None:
        with self.ready:
            before, self.controller.number = self.controller.number, number
            if number > before:
                self.pool.wake()

    def refuse(self, seconds: float) -> None:
        with self.ready:
            self.limits.refused(time.monotonic(), seconds)

    def settle(self, task: PoolTask) -> None:
        with self.ready:
            for block in task.fetch.blocks:
                self.queue.landed(task.fetch, block)
                self.done[block] += 1
            self.queue.settle(task.fetch, None, time.monotonic())

    def put_back(self, task: PoolTask, seconds: float, *, failed: bool) -> None:
        with self.ready:
            (self.queue.retry if failed else self.queue.defer)(task.fetch, time.monotonic() + seconds)
            self.pool.wake()

    def threads(self) -> list[threading.Thread]:
        with self.ready:
            return list(self.pool._threads)

    def _take(self, now: float) -> tuple[Fetch, Handle] | None:
        fetch = self.queue.next(now, self.limits.among(now))
        if fetch is None:
            return None
        if fetch.priority is not Priority.DEMAND and self.limits.paused(now):
            self.wrong.append(f"{fetch} in a pause")
        self.limits.began(fetch.priority)
        running = [self.limits.running(priority) for priority in Priority]
        if fetch.priority is Priority.BULK and running[Priority.BULK] > self.controller.limit:
            self.wrong.append(f"{running} with a limit of {self.controller.limit}")
        if sum(running[Priority.AHEAD :]) > max(1, self.most - RESERVED) or sum(running) > self.most:
            self.wrong.append(f"{running} of {self.most}")
        return fetch, Handle()

    def _due(self, now: float) -> float | None:
        times = (self.queue.due(now), self.limits.paused(now))
        return min((each for each in times if each is not None), default=None)

    def _run(self, task: PoolTask, _: memoryview) -> None:
        try:
            self._do(self, task)
        finally:
            with self.ready:
                self.limits.ended(task.fetch.priority)


@pytest.fixture
def rig_of() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(most: int, do: Callable[[Rig, PoolTask], None] = Rig.settle) -> Rig:
        made.append(Rig(most, do))
        return made[-1]

    yield make
    for rig in made:
        rig.pool.close()
        rig.pool.join(time.monotonic() + SOON)
        assert not any(thread.is_alive() for thread in rig.threads())
        assert rig.wrong == []


def test_threads_are_started_as_needed_up_to_the_limit(rig_of) -> None:
    gate = threading.Event()

    def do(rig: Rig, task: PoolTask) -> None:
        assert gate.wait(SOON)
        rig.settle(task)

    rig = rig_of(4, do)
    rig.want(range(2), Priority.DEMAND)
    assert rig.threads() == []
    rig.pool.open()
    until(lambda: len(rig.pool.tasks()) == 1)
    assert len(rig.threads()) == 1
    for number in range(1, 10):
        rig.want(range(10 * number, 10 * number + 2), Priority.DEMAND)
    until(lambda: len(rig.pool.tasks()) == 4)
    assert len(rig.threads()) == 4
    gate.set()
    until(lambda: len(rig.done) == 20)
    assert len(rig.threads()) == 4


def test_one_fetch_after_another_needs_one_worker(rig_of) -> None:
    rig = rig_of(8)
    rig.pool.open()
    for number in range(20):
        rig.want(range(number, number + 1), Priority.DEMAND)
        until(lambda number=number: rig.done[number])
        until(lambda: rig.pool._idle == len(rig.threads()))
    assert len(rig.threads()) == 1


def test_workers_are_reserved_for_waiting_readers(rig_of) -> None:
    gate = threading.Event()

    def do(rig: Rig, task: PoolTask) -> None:
        if task.fetch.priority is not Priority.DEMAND:
            assert gate.wait(SOON)
        rig.settle(task)

    rig = rig_of(6, do)
    rig.controller.number = 6
    rig.pool.open()
    for number, priority in enumerate([Priority.AHEAD, Priority.BACKGROUND, Priority.BULK] * 6):
        rig.want(range(100 * number, 100 * number + 1), priority)
    until(lambda: len(rig.pool.tasks()) == 6 - RESERVED)
    for number in range(20):
        rig.want(range(9000 + 10 * number, 9001 + 10 * number), Priority.DEMAND)
    until(lambda: len(rig.done) == 20)
    gate.set()
    until(lambda: len(rig.done) == 38)


def test_a_higher_limit_wakes_sleeping_workers_at_once(rig_of) -> None:
    gate = threading.Event()

    def do(rig: Rig, task: PoolTask) -> None:
        assert gate.wait(SOON)
        rig.settle(task)

    rig = rig_of(8, do)
    rig.pool.open()
    rig.want(range(1000), Priority.BULK)
    until(lambda: rig.pool._idle and len(rig.pool.tasks()) == 1)
    rig.rise(5)
    until(lambda: len(rig.pool.tasks()) == 5)
    gate.set()
    until(lambda: len(rig.done) == 1000)


def test_after_a_pause_work_goes_on_without_a_wake_up(rig_of) -> None:
    rig = rig_of(4)
    rig.pool.open()
    rig.refuse(0.2)
    rig.want(range(10), Priority.BACKGROUND)
    rig.want(range(20, 22), Priority.DEMAND)
    until(lambda: rig.done[20])
    until(lambda: len(rig.done) == 12)


@pytest.mark.allow_warnings("the bugs are logged")
def test_no_error_ends_a_worker(rig_of, monkeypatch) -> None:
    failures = 2

    def do(rig: Rig, task: PoolTask) -> None:
        nonlocal failures
        failures -= 1
        if failures > 0:
            rig.put_back(task, 0.0, failed=True)
            raise MemoryError
        rig.settle(task)

    rig = rig_of(1, do)
    rig.pool.open()
    rig.want(range(1), Priority.DEMAND)
    until(lambda: rig.done[0])
    plain, broken = rig.pool._take, threading.Event()

    def take(now: float) -> object:
        if not broken.is_set():
            broken.set()
            raise AssertionError("the queue is wrong")
        return plain(now)

    monkeypatch.setattr(rig.pool, "_take", take)
    rig.want(range(1, 2), Priority.DEMAND)
    assert broken.wait(SOON)
    rig.want(range(2, 3), Priority.DEMAND)
    until(lambda: rig.done[1] and rig.done[2])
    [only] = rig.threads()
    assert only.is_alive()


@pytest.mark.allow_warnings("it is logged")
def test_without_more_threads_the_existing_ones_do_the_work(rig_of, monkeypatch) -> None:
    gate = threading.Event()

    def do(rig: Rig, task: PoolTask) -> None:
        assert gate.wait(SOON)
        rig.settle(task)

    rig = rig_of(4, do)
    rig.pool.open()
    rig.want(range(2), Priority.DEMAND)
    until(rig.pool.tasks)
    with monkeypatch.context() as patched:

        def refused(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refused)
        rig.want(range(10, 12), Priority.DEMAND)
    gate.set()
    until(lambda: len(rig.done) == 4)
    assert len(rig.threads()) == 1


@pytest.mark.parametrize("seed", range(25))
def test_every_block_is_taken_in_any_order_of_events(rig_of, seed: int) -> None:
    """Wants, retries, deferrals, limits and pauses from several threads lose no wake-up."""
    dice = random.Random(seed)
    outcomes = [dice.choice(["settle"] * 4 + ["retry", "defer", "slow"]) for _ in range(5000)]
    turn = iter(outcomes)
    lock = threading.Lock()

    def do(rig: Rig, task: PoolTask) -> None:
        with lock:
            outcome = next(turn, "settle")
        if outcome == "slow":
            time.sleep(0.001)
        if outcome in ("retry", "defer"):
            rig.put_back(task, (task.fetch.id % 4) / 500, failed=outcome == "retry")
        else:
            rig.settle(task)

    rig = rig_of(dice.randint(1, 8), do)
    rig.pool.open()
    wanted: set[int] = set()

    def wants(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(60):
            start = dice.randrange(2000)
            blocks = range(start, start + dice.choice([1, 1, 2, 30]))
            with lock:
                wanted.update(blocks)
            rig.want(blocks, dice.choice(list(Priority)))
            if dice.random() < 0.1:
                rig.rise(dice.randint(1, rig.most))
            if dice.random() < 0.03:
                rig.refuse(0.01)
            if dice.random() < 0.3:
                time.sleep(dice.random() / 500)  # the workers get to sleep now and then

    callers = [threading.Thread(target=wants, args=(100 * seed + number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(SOON)
    until(lambda: set(rig.done) == wanted)
    until(lambda: not rig.pool.tasks())
    assert len(rig.threads()) <= rig.most
