"""Who may work at what: readers always, big files as many as the limiter says, nothing else while a server refuses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hffs.policy import RESERVED, USUAL, ConcurrencyController, ConcurrencyLimits, Priority
from hffs.policy.concurrency_limits import MOST_PATIENCE

DEMAND, AHEAD, BACKGROUND, BULK = Priority


@given(workers=st.integers(1, 40), steps=st.lists(st.tuples(st.sampled_from(Priority), st.booleans()), max_size=200))
def test_however_they_begin_and_end_readers_find_a_worker_and_big_files_keep_to_their_number(
    workers: int, steps: list[tuple[Priority, bool]]
) -> None:
    allowance = ConcurrencyLimits(workers=workers)
    running: list[Priority] = []
    for priority, begins in steps:
        may = allowance.among(0.0)
        assert DEMAND in may
        if begins and priority in may and len(running) < workers:
            allowance.began(priority)
            running.append(priority)
        elif not begins and priority in running:
            allowance.ended(priority)
            running.remove(priority)
        others = len([each for each in running if each is not DEMAND])
        assert others <= max(1, workers - RESERVED), "workers are kept for readers that wait"
        assert running.count(AHEAD) <= USUAL
        assert running.count(BULK) <= allowance.controller.limit == 1
        assert [allowance.running(each) for each in Priority] == [running.count(each) for each in Priority]


def test_who_names_a_number_of_workers_reads_ahead_with_all_but_those_kept() -> None:
    allowance = ConcurrencyLimits(workers=32, ahead=32)
    for _ in range(30):
        assert AHEAD in allowance.among(0.0)
        allowance.began(AHEAD)
    assert allowance.among(0.0) == [DEMAND]


def test_a_single_worker_does_everything() -> None:
    assert set(ConcurrencyLimits(workers=1).among(0.0)) == set(Priority)


def test_while_a_server_asks_for_patience_only_readers_are_served() -> None:
    allowance = ConcurrencyLimits(workers=10, controller=ConcurrencyController(most=8))
    allowance.refused(100.0, 7.0)
    allowance.refused(101.0, 2.0)  # the shorter of two does not end the longer
    assert allowance.among(106.9) == [DEMAND]
    assert allowance.paused(106.9) == 107.0
    assert allowance.paused(107.0) is None
    assert BACKGROUND in allowance.among(107.0)


def test_a_refusal_without_a_time_pauses_nothing_and_one_for_a_day_not_that_long() -> None:
    allowance = ConcurrencyLimits(workers=10)
    allowance.refused(0.0, None)
    assert AHEAD in allowance.among(0.0)
    allowance.refused(0.0, 86400.0)
    assert allowance.paused(0.0) == MOST_PATIENCE


def test_access_that_is_back_does_not_end_the_patience_that_a_server_asked_for() -> None:
    allowance = ConcurrencyLimits(workers=4)
    allowance.pause(30.0, "no access")
    allowance.refused(0.0, 100.0)
    allowance.pause(130.0, "no access")
    assert (allowance.paused(0.0), allowance.why) == (130.0, "no access")
    allowance.resume()
    assert (allowance.paused(0.0), allowance.why) == (100.0, "the server asked for patience")
    assert allowance.among(99.0) == [DEMAND]
    assert allowance.paused(100.0) is None
