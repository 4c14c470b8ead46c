"""The throttle on a clock that moves only while workers wait, and with a real thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from hffs.ranges import BLOCK_SIZE
from hffs.transfer.throttle import SLICE_SECONDS, Throttle

SOON = 10.0  # a join this long is a thread that hangs


class Turn(threading.Condition):
    """A wait only moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.waits: list[float] = []
        self.woken = 0
        self.during: Callable[[], None] = lambda: None

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "every wait has an end"
        self.waits.append(timeout)
        self.now += timeout
        self.during()
        return False

    def notify_all(self) -> None:
        super().notify_all()
        self.woken += 1


def never() -> bool:
    return False


def always() -> bool:
    return True


def a_throttle(rate: int | None) -> tuple[Throttle, Turn]:
    turn = Turn()
    return Throttle(rate, clock=lambda: turn.now, condition=turn), turn


def test_blocks_come_at_the_rate() -> None:
    throttle, turn = a_throttle(BLOCK_SIZE)
    for _ in range(11):
        throttle.wait(BLOCK_SIZE, never, never)
    assert turn.now == pytest.approx(1010.0, abs=0.01)
    assert max(turn.waits) <= SLICE_SECONDS


def test_a_waiting_reader_does_not_pay_for_background_bytes() -> None:
    throttle, turn = a_throttle(10_000)
    throttle.wait(BLOCK_SIZE, never, never)
    throttle.wait(BLOCK_SIZE, always, never)
    assert turn.waits == []


def test_a_background_block_that_a_reader_needs_passes_within_a_slice() -> None:
    throttle, turn = a_throttle(10_000)
    throttle.wait(BLOCK_SIZE, never, never)
    asked: list[float] = []

    def urgent() -> bool:
        asked.append(turn.now)
        return len(asked) > 3

    throttle.wait(BLOCK_SIZE, urgent, never)
    assert turn.waits == [SLICE_SECONDS] * 3


def test_a_worker_that_is_to_stop_waits_a_slice_at_most() -> None:
    throttle, turn = a_throttle(1)
    throttle.wait(BLOCK_SIZE, never, never)
    throttle.wait(BLOCK_SIZE, never, lambda: bool(turn.waits))
    assert turn.waits == [SLICE_SECONDS]
    throttle.wait(BLOCK_SIZE, never, always)
    assert turn.waits == [SLICE_SECONDS]


def test_bytes_of_a_stopped_wait_are_not_counted() -> None:
    throttle, turn = a_throttle(BLOCK_SIZE)
    throttle.wait(BLOCK_SIZE, never, never)
    for _ in range(5):
        throttle.wait(BLOCK_SIZE, never, lambda: True)
    throttle.wait(BLOCK_SIZE, never, never)
    assert turn.now == pytest.approx(1001.0, abs=0.01)


def test_without_a_limit_no_lock_is_taken_and_no_callback_called() -> None:
    throttle, turn = a_throttle(None)

    def unasked() -> bool:
        raise AssertionError("asked for nothing")

    with turn:
        caller = threading.Thread(target=throttle.wait, args=(BLOCK_SIZE, unasked, unasked))
        caller.start()
        caller.join(SOON)
        assert not caller.is_alive()
    assert throttle.rate is None


def test_a_new_rate_wakes_waiting_workers_and_holds_at_once() -> None:
    throttle, turn = a_throttle(10_000)
    throttle.wait(BLOCK_SIZE, never, never)

    def change() -> None:
        turn.during = lambda: None
        throttle.set_rate(BLOCK_SIZE)

    turn.during = change
    throttle.wait(BLOCK_SIZE, never, never)
    assert turn.woken == 1
    assert throttle.rate == BLOCK_SIZE
    assert turn.now == pytest.approx(1001.0, abs=0.06)


def test_lifting_the_limit_frees_a_waiting_worker_at_once() -> None:
    """The clock stands still, so that nothing but the lifted limit can free it."""
    waits = threading.Event()

    def stopped() -> bool:
        waits.set()
        return False

    throttle = Throttle(1, clock=lambda: 0.0)
    throttle.wait(BLOCK_SIZE, never, never)
    worker = threading.Thread(target=throttle.wait, args=(BLOCK_SIZE, never, stopped))
    worker.start()
    assert waits.wait(SOON)
    assert worker.is_alive()
    throttle.set_rate(None)
    worker.join(SOON)
    assert not worker.is_alive()


def test_an_invalid_rate_changes_nothing() -> None:
    throttle, _ = a_throttle(10_000)
    with pytest.raises(ValueError, match="not a rate"):
        throttle.set_rate(0)
    assert throttle.rate == 10_000
