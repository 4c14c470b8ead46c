"""Limits by priority: readers always find a worker, big files get the controller's number, a refusal pauses others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hffs.policy import RESERVED, USUAL, ConcurrencyController, ConcurrencyLimits, Priority
from hffs.policy.concurrency_limits import MOST_PATIENCE

DEMAND, AHEAD, BACKGROUND, BULK = Priority


@given(workers=st.integers(1, 40), steps=st.lists(st.tuples(st.sampled_from(Priority), st.booleans()), max_size=200))
def test_readers_always_find_a_worker_and_big_files_stay_within_the_limit(
    workers: int, steps: list[tuple[Priority, bool]]
) -> None:
    limits = ConcurrencyLimits(workers=workers)
    running: list[Priority] = []
    for priority, begins in steps:
        may = limits.among(0.0)
        assert DEMAND in may
        if begins and priority in may and len(running) < workers:
            limits.began(priority)
            running.append(priority)
        elif not begins and priority in running:
            limits.ended(priority)
            running.remove(priority)
        others = len([each for each in running if each is not DEMAND])
        assert others <= max(1, workers - RESERVED), "workers are reserved for waiting readers"
        assert running.count(AHEAD) <= USUAL
        assert running.count(BULK) <= limits.controller.limit == 1
        assert [limits.running(each) for each in Priority] == [running.count(each) for each in Priority]


def test_an_explicit_number_of_workers_reads_ahead_with_all_but_the_reserved() -> None:
    limits = ConcurrencyLimits(workers=32, ahead=32)
    for _ in range(30):
        assert AHEAD in limits.among(0.0)
        limits.began(AHEAD)
    assert limits.among(0.0) == [DEMAND]


def test_a_single_worker_does_everything() -> None:
    assert set(ConcurrencyLimits(workers=1).among(0.0)) == set(Priority)


def test_during_retry_after_only_readers_are_served() -> None:
    limits = ConcurrencyLimits(workers=10, controller=ConcurrencyController(most=8))
    limits.refused(100.0, 7.0)
    limits.refused(101.0, 2.0)  # a shorter wait does not end a longer one
    assert limits.among(106.9) == [DEMAND]
    assert limits.paused(106.9) == 107.0
    assert limits.paused(107.0) is None
    assert BACKGROUND in limits.among(107.0)


def test_a_refusal_without_retry_after_pauses_nothing_and_a_long_one_is_capped() -> None:
    limits = ConcurrencyLimits(workers=10)
    limits.refused(0.0, None)
    assert AHEAD in limits.among(0.0)
    limits.refused(0.0, 86400.0)
    assert limits.paused(0.0) == MOST_PATIENCE


def test_resume_does_not_end_the_wait_a_server_asked_for() -> None:
    limits = ConcurrencyLimits(workers=4)
    limits.pause(30.0, "no access")
    limits.refused(0.0, 100.0)
    limits.pause(130.0, "no access")
    assert (limits.paused(0.0), limits.why) == (130.0, "no access")
    limits.resume()
    assert (limits.paused(0.0), limits.why) == (100.0, "the server asked for patience")
    assert limits.among(99.0) == [DEMAND]
    assert limits.paused(100.0) is None
