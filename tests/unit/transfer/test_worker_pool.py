"""The workers' threads: no more than are needed, never too many, and none sleeps while there is work for it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hffs.policy import RESERVED, BlockQueue, ConcurrencyController, ConcurrencyLimits, Fetch, Priority
from hffs.transfer.worker_pool import SLEEP_SECONDS, PoolTask, WorkerPool

SOON = 20.0
assert SOON < SLEEP_SECONDS, "else a call that was lost would not be noticed"


class Fixed(ConcurrencyController):
    """As many workers for big files as the test says."""

    number = 1

    @property
    def limit(self) -> int:
        return self.number


class Target:
    """Stands in for a file."""

    class file:  # noqa: N801 - an attribute of the real one
        path = "a"


class Place:
    """A crew, and what its fetcher would put behind it: the queue and the allowance, as it asks them."""

    def __init__(self, most: int, do: Callable[[Place, PoolTask], None]) -> None:
        self.most = most
        self.ready = threading.Condition()
        self.queue: BlockQueue[Exception] = BlockQueue(max_blocks=4, demand_blocks=2)
        self.limiter = Fixed(most=most)
        self.allowance = ConcurrencyLimits(workers=most, controller=self.limiter)
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
            before, self.limiter.number = self.limiter.number, number
            if number > before:
                self.pool.wake()

    def refuse(self, seconds: float) -> None:
        with self.ready:
            self.allowance.refused(time.monotonic(), seconds)

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

    def _take(self, now: float) -> tuple[Fetch, Target] | None:
        fetch = self.queue.next(now, self.allowance.among(now))
        if fetch is None:
            return None
        if fetch.priority is not Priority.DEMAND and self.allowance.paused(now):
            self.wrong.append(f"{fetch} in a pause")
        self.allowance.began(fetch.priority)
        running = [self.allowance.running(priority) for priority in Priority]
        if fetch.priority is Priority.BULK and running[Priority.BULK] > self.limiter.limit:
            self.wrong.append(f"{running} with a limit of {self.limiter.limit}")
        if sum(running[Priority.AHEAD :]) > max(1, self.most - RESERVED) or sum(running) > self.most:
            self.wrong.append(f"{running} of {self.most}")
        return fetch, Target()

    def _due(self, now: float) -> float | None:
        times = (self.queue.due(now), self.allowance.paused(now))
        return min((each for each in times if each is not None), default=None)

    def _run(self, task: PoolTask, _: memoryview) -> None:
        try:
            self._do(self, task)
        finally:
            with self.ready:
                self.allowance.ended(task.fetch.priority)


@pytest.fixture
def place_of() -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(most: int, do: Callable[[Place, PoolTask], None] = Place.settle) -> Place:
        made.append(Place(most, do))
        return made[-1]

    yield make
    for place in made:
        place.pool.close()
        place.pool.join(time.monotonic() + SOON)
        assert not any(thread.is_alive() for thread in place.threads())
        assert place.wrong == []


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


def test_threads_are_started_as_they_are_needed_and_never_more_than_there_may_be(place_of) -> None:
    gate = threading.Event()

    def do(place: Place, task: PoolTask) -> None:
        assert gate.wait(SOON)
        place.settle(task)

    place = place_of(4, do)
    place.want(range(2), Priority.DEMAND)
    assert place.threads() == []
    place.pool.open()
    until(lambda: len(place.pool.tasks()) == 1)
    assert len(place.threads()) == 1
    for number in range(1, 10):
        place.want(range(10 * number, 10 * number + 2), Priority.DEMAND)
    until(lambda: len(place.pool.tasks()) == 4)
    assert len(place.threads()) == 4
    gate.set()
    until(lambda: len(place.done) == 20)
    assert len(place.threads()) == 4


def test_one_after_the_other_is_one_worker_s_work(place_of) -> None:
    place = place_of(8)
    place.pool.open()
    for number in range(20):
        place.want(range(number, number + 1), Priority.DEMAND)
        until(lambda number=number: place.done[number])
        until(lambda: place.pool._idle == len(place.threads()))
    assert len(place.threads()) == 1


def test_workers_are_kept_for_waiting_readers_whatever_else_there_is(place_of) -> None:
    gate = threading.Event()

    def do(place: Place, task: PoolTask) -> None:
        if task.fetch.priority is not Priority.DEMAND:
            assert gate.wait(SOON)
        place.settle(task)

    place = place_of(6, do)
    place.limiter.number = 6
    place.pool.open()
    for number, priority in enumerate([Priority.AHEAD, Priority.BACKGROUND, Priority.BULK] * 6):
        place.want(range(100 * number, 100 * number + 1), priority)
    until(lambda: len(place.pool.tasks()) == 6 - RESERVED)
    for number in range(20):
        place.want(range(9000 + 10 * number, 9001 + 10 * number), Priority.DEMAND)
    until(lambda: len(place.done) == 20)
    gate.set()
    until(lambda: len(place.done) == 38)


def test_a_higher_limit_is_used_at_once_by_who_sleeps(place_of) -> None:
    gate = threading.Event()

    def do(place: Place, task: PoolTask) -> None:
        assert gate.wait(SOON)
        place.settle(task)

    place = place_of(8, do)
    place.pool.open()
    place.want(range(1000), Priority.BULK)
    until(lambda: place.pool._idle and len(place.pool.tasks()) == 1)
    place.rise(5)
    until(lambda: len(place.pool.tasks()) == 5)
    gate.set()
    until(lambda: len(place.done) == 1000)


def test_after_a_pause_it_goes_on_though_nobody_calls(place_of) -> None:
    place = place_of(4)
    place.pool.open()
    place.refuse(0.2)
    place.want(range(10), Priority.BACKGROUND)
    place.want(range(20, 22), Priority.DEMAND)
    until(lambda: place.done[20])
    until(lambda: len(place.done) == 12)


@pytest.mark.allow_warnings("the bugs are logged")
def test_no_error_ends_a_worker(place_of, monkeypatch) -> None:
    failures = 2

    def do(place: Place, task: PoolTask) -> None:
        nonlocal failures
        failures -= 1
        if failures > 0:
            place.put_back(task, 0.0, failed=True)
            raise MemoryError
        place.settle(task)

    place = place_of(1, do)
    place.pool.open()
    place.want(range(1), Priority.DEMAND)
    until(lambda: place.done[0])
    plain, broken = place.pool._take, threading.Event()

    def take(now: float) -> object:
        if not broken.is_set():
            broken.set()
            raise AssertionError("the queue is wrong")
        return plain(now)

    monkeypatch.setattr(place.pool, "_take", take)
    place.want(range(1, 2), Priority.DEMAND)
    assert broken.wait(SOON)
    place.want(range(2, 3), Priority.DEMAND)
    until(lambda: place.done[1] and place.done[2])
    [only] = place.threads()
    assert only.is_alive()


@pytest.mark.allow_warnings("it is logged")
def test_where_the_system_gives_no_more_threads_those_there_are_do_it(place_of, monkeypatch) -> None:
    gate = threading.Event()

    def do(place: Place, task: PoolTask) -> None:
        assert gate.wait(SOON)
        place.settle(task)

    place = place_of(4, do)
    place.pool.open()
    place.want(range(2), Priority.DEMAND)
    until(place.pool.tasks)
    with monkeypatch.context() as patched:

        def refused(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refused)
        place.want(range(10, 12), Priority.DEMAND)
    gate.set()
    until(lambda: len(place.done) == 4)
    assert len(place.threads()) == 1


@pytest.mark.parametrize("seed", range(25))
def test_whatever_comes_in_whatever_order_every_block_is_taken(place_of, seed: int) -> None:
    """Wants, retries, deferrals, limits and pauses from several threads; the last to sleep is woken for the last."""
    dice = random.Random(seed)
    outcomes = [dice.choice(["settle"] * 4 + ["retry", "defer", "slow"]) for _ in range(5000)]
    turn = iter(outcomes)
    lock = threading.Lock()

    def do(place: Place, task: PoolTask) -> None:
        with lock:
            outcome = next(turn, "settle")
        if outcome == "slow":
            time.sleep(0.001)
        if outcome in ("retry", "defer"):
            place.put_back(task, (task.fetch.id % 4) / 500, failed=outcome == "retry")
        else:
            place.settle(task)

    place = place_of(dice.randint(1, 8), do)
    place.pool.open()
    wanted: set[int] = set()

    def wants(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(60):
            start = dice.randrange(2000)
            blocks = range(start, start + dice.choice([1, 1, 2, 30]))
            with lock:
                wanted.update(blocks)
            place.want(blocks, dice.choice(list(Priority)))
            if dice.random() < 0.1:
                place.rise(dice.randint(1, place.most))
            if dice.random() < 0.03:
                place.refuse(0.01)
            if dice.random() < 0.3:
                time.sleep(dice.random() / 500)  # the crew gets to sleep now and then

    callers = [threading.Thread(target=wants, args=(100 * seed + number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(SOON)
    until(lambda: set(place.done) == wanted)
    until(lambda: not place.pool.tasks())
    assert len(place.threads()) <= place.most
