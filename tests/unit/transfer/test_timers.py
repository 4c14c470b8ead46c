"""Timers run in time, are cancelled, and do not pile up."""

from __future__ import annotations

import threading
import time

from hffs.transfer import Timers
from hffs.transfer.timers import SWEEP_AT


def test_actions_run_in_the_order_of_their_times(timers: Timers) -> None:
    seen: list[int] = []
    done = threading.Event()
    now = time.monotonic()
    timers.call_at(now + 0.03, done.set)
    timers.call_at(now + 0.02, lambda: seen.append(2))
    timers.call_at(now + 0.01, lambda: seen.append(1))
    assert done.wait(10)
    assert seen == [1, 2]


def test_a_cancelled_timer_does_nothing(timers: Timers) -> None:
    seen: list[int] = []
    done = threading.Event()
    now = time.monotonic()
    timers.call_at(now + 0.01, lambda: seen.append(1)).cancel()
    timers.call_at(now + 0.02, done.set)
    assert done.wait(10)
    assert seen == []


def test_cancelled_timers_of_a_far_deadline_do_not_pile_up(timers: Timers) -> None:
    far = time.monotonic() + 3600
    for _ in range(20 * SWEEP_AT):
        timers.call_at(far, lambda: None).cancel()
    assert len(timers._heap) <= 2 * SWEEP_AT


def test_stopping_runs_no_timer_that_is_not_due() -> None:
    timers = Timers()
    timers.start()
    seen: list[int] = []
    timers.call_at(time.monotonic() + 3600, lambda: seen.append(1))
    timers.stop()
    assert seen == []
