"""How many workers hydrate, on simulated lines: what they settle at, and what changes that."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from hffs.policy import ConcurrencyController
from tests.unit.policy.lines import FIRST, MIB, Hydration, Line, Table, hydration


def test_one_worker_begins_and_a_steady_line_is_known_after_a_second() -> None:
    run = hydration(Line(40e6))
    run.noise = 0.0
    assert run.limiter.limit == 1
    assert run.limiter.why == FIRST
    run.run(1.0)
    assert run.limiter.limit == 1
    run.run(0.5)
    assert run.limiter.limit == 2
    assert run.limiter.why == "trying 2; 1 reached 38M/s"


@pytest.mark.parametrize("most", [1, 2, 12, 16, 17, 112])
def test_where_each_connection_has_its_own_limit_all_that_are_allowed_are_used(most: int) -> None:
    run = hydration(Line(40e6), most=most)
    assert run.run(12) == most
    assert run.limiter.why == "as many as are allowed"
    assert run.limits()[: most.bit_length()] == [2**n for n in range(most.bit_length())]


def test_each_doubling_takes_half_a_second_as_long_as_it_pays() -> None:
    run = hydration(Line(40e6), most=64)
    run.run(12)
    began = next(now for now, limit, _ in run.past if limit == 2)
    ended = next(now for now, limit, _ in run.past if limit == 64)
    assert ended - began == pytest.approx(5 * 0.5, abs=0.4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("each", "fills"), [(125e6, 1), (63e6, 2), (40e6, 4), (20e6, 8)])
def test_a_line_of_one_gigabit_gets_the_smallest_number_that_fills_it(each: float, fills: int, seed: int) -> None:
    run = hydration(Line(each, 125e6))
    run.dice = random.Random(seed)
    near = {max(1, fills // 2), fills, fills * 2}
    assert run.run(20) in near
    run.past.clear()
    run.run(600)
    assert run.share_at(near) > 0.98
    assert run.share_at({fills}) > 0.6


def test_what_was_measured_on_one_gigabit_at_30_ms_is_worth_two_to_four_workers() -> None:
    run = hydration(Table({1: 57 * MIB, 2: 95 * MIB, 4: 103 * MIB, 8: 107 * MIB, 16: 113 * MIB}))
    assert run.run(60) in (2, 4)


def test_a_round_trip_of_200_ms_hides_nothing() -> None:
    run = hydration(Line(40e6, round_trip=0.2))
    assert run.run(30) == 16


def test_where_the_processor_is_the_limit_few_workers_stay() -> None:
    run = hydration(Table({1: 2000 * MIB, 2: 2700 * MIB, 4: 2600 * MIB, 8: 2500 * MIB, 16: 2300 * MIB}))
    run.run(20)
    assert run.limiter.limit == 2
    assert run.limiter.why.startswith("4 workers are no faster than 2 (")
    run.past.clear()
    run.run(300)
    assert run.share_at({2}) > 0.95


def test_workers_that_each_bring_less_than_the_least_stay_one() -> None:
    run = hydration(Line(1e6))
    assert run.run(60) == 1
    assert {limit for _, limit, _ in run.past} == {1}
    assert run.limiter.why == "each is slower than 3.0M/s"


def test_the_least_speed_is_a_setting() -> None:
    run = hydration(Line(1e6), min_speed=0.5e6)
    assert run.run(20) == 16


def test_more_workers_that_would_each_bring_too_little_are_not_kept() -> None:
    """Each connection slows down by what the others take, and the total still grows."""
    run = hydration(Table({1: 10 * MIB, 2: 16 * MIB, 4: 24 * MIB, 8: 23 * MIB, 16: 20 * MIB}))
    run.limiter = ConcurrencyController(most=16, min_speed=7 * MIB)
    assert run.run(20) == 2
    assert run.limiter.why == "4 workers would be slower than 7.0M/s each"


def test_a_slow_start_does_not_keep_one_worker_for_long() -> None:
    line = Line(1e6)
    run = hydration(line)
    assert run.run(10) == 1
    line.each = 40e6
    assert run.run(5) >= 4


def test_a_line_that_gets_slow_is_left_by_workers_that_bring_too_little() -> None:
    line = Line(40e6, 600e6)
    run = hydration(line)
    assert run.run(20) == 16
    line.total = 20e6
    run.run(10)
    assert run.limiter.limit == 4
    assert run.limiter.why == "each is slower than 3.0M/s"


@pytest.mark.parametrize("moment", range(36, 46))
def test_the_number_is_halved_at_most_once_at_a_time(moment: int) -> None:
    """Also where a trial of fewer is due just then."""
    line = Line(40e6, 600e6)
    run = hydration(line)
    run.run(moment)
    line.total = 20e6
    run.run(20)
    assert all(2 * after >= before for (_, before, _), (_, after, _) in pairwise(run.past))


def test_a_line_that_breaks_down_keeps_one_worker() -> None:
    line = Line(40e6)
    run = hydration(line)
    run.run(20)
    line.total = 0.0
    assert run.run(20) == 1


def test_a_line_that_gets_faster_is_noticed_within_a_minute() -> None:
    line = Line(40e6, 75e6)
    run = hydration(line)
    run.run(600)
    assert run.limiter.limit == 2
    line.each, line.total = 160e6, 2000e6
    assert run.run(40) == 16


def test_trials_that_never_pay_become_rare() -> None:
    run = hydration(Line(40e6, 75e6))
    run.noise = 0.01
    run.run(40)
    assert run.limiter.limit == 2
    run.past.clear()
    run.run(1800)
    assert run.limits().count(4) <= 10
    assert run.limits().count(1) <= 10
    assert run.share_at({2}) > 0.97


def test_fewer_are_tried_too_and_kept_where_they_bring_as_much() -> None:
    line = Line(20e6, 600e6)
    run = hydration(line)
    assert run.run(20) == 16
    line.total, line.each = 125e6, 125e6
    run.run(400)
    assert run.limiter.limit <= 2


def test_a_server_that_refuses_gets_half_and_rest() -> None:
    run = hydration(Line(40e6))
    assert run.run(20) == 16
    for _ in range(16):  # all that were under way
        run.limiter.refused(run.now, None)
    assert run.limiter.limit == 8
    assert run.limiter.why == "the server refused requests"
    assert run.run(25) == 8
    run.limiter.refused(run.now, 60.0)
    assert run.limiter.limit == 4
    run.past.clear()
    run.run(60 + 25)
    assert max(run.limits()) == 4
    assert run.run(60) == 16


def test_a_server_that_refuses_again_and_again_is_left_one_worker_and_still_tried() -> None:
    run = hydration(Line(40e6), most=64)
    run.run(12)
    for _ in range(10):
        run.limiter.refused(run.now, 2.0)
        run.run(2.0)
    assert run.limiter.limit == 1
    assert run.run(400) == 64


def test_no_word_of_a_server_stops_growth_for_hours() -> None:
    run = hydration(Line(40e6))
    run.run(10)
    run.limiter.refused(run.now, 1e9)
    run.run(700)
    assert run.limiter.limit == 16


def test_a_refusal_in_the_first_stretch_ends_it() -> None:
    run = hydration(Line(40e6))
    run.run(0.5)
    run.limiter.refused(run.now, None)
    assert (run.limiter.limit, run.limiter.why) == (1, "the server refused requests")
    assert run.run(30) == 1


def test_a_busy_machine_gets_no_more_than_the_usual_number() -> None:
    run = hydration(Line(40e6))
    run.load = 9.3
    assert run.run(60) == 8
    assert run.limiter.why == "the load of the machine (9.3) exceeds its 2 cores"
    run.load = 1.0
    assert run.run(2) == 16
    run.load = 9.3
    assert run.run(10) == 16, "what is there already stays"


def test_more_than_the_usual_number_stays_when_the_machine_gets_busy_and_does_not_grow() -> None:
    run = hydration(Line(40e6), most=64)
    while run.limiter.limit < 16:
        run.run(0.25)
    run.load = 9.3
    assert run.run(20) == 16
    assert run.limiter.why == "the load of the machine (9.3) exceeds its 2 cores"


def test_an_unusual_number_of_usual_workers_bounds_a_busy_machine_too() -> None:
    run = hydration(Line(40e6), usual=3)
    run.load = 9.3
    assert run.run(20) == 3


def test_what_bounds_it_is_said_in_the_words_of_who_set_it() -> None:
    run = Hydration(ConcurrencyController(most=2, bound="the limit set by --workers"), Line(40e6))
    assert run.run(10) == 2
    assert run.limiter.why == "the limit set by --workers"


def test_too_little_work_for_more_workers_proves_nothing() -> None:
    run = hydration(Line(40e6))
    run.work = 1
    assert run.run(10) == 1
    assert run.limiter.why == "too little work to try more"
    run.work = 1000
    assert run.run(40) == 16


def test_a_file_that_ends_does_not_send_workers_away() -> None:
    run = hydration(Line(40e6))
    run.run(20)
    run.work = 1
    run.past.clear()
    run.run(60)
    assert run.limiter.limit == 16


def test_workers_still_busy_after_the_limit_fell_are_not_taken_for_fewer() -> None:
    """A fetch is ended before a worker leaves, so more are active than the limit says for a while."""
    limiter = ConcurrencyController(most=16)
    run = Hydration(limiter, Line(40e6))
    run.run(20)
    limiter.refused(run.now, None)
    for n in range(400):  # 100 s of 16 workers at the speed of 16
        limiter.sample(run.now + n / 4, int(run.brought) + n * 160_000_000, 16, 0.5, 2)
    assert limiter.limit == 8


def test_time_without_work_does_not_count() -> None:
    limiter = ConcurrencyController(most=16)
    run = Hydration(limiter, Line(40e6, 75e6))
    run.run(20)
    assert limiter.limit == 2
    run.past.clear()
    for _ in range(30):  # half an hour, but 30 s of work in pieces of a second
        run.run(1.0)
        limiter.idle(run.now)
        run.now += 50.0
    assert run.past[0][1] == 2
    assert run.share_at({2}) > 0.7
    assert max(run.limits()) <= 4


def test_after_a_long_idle_one_worker_begins_again_for_a_second() -> None:
    run = hydration(Line(40e6))
    run.noise = 0.5  # no two samples agree
    assert run.run(20) == 16
    run.limiter.idle(run.now)
    run.limiter.idle(run.now + 30)
    run.now += 61
    run.line.opened.clear()  # type: ignore[union-attr]
    run.past.clear()
    run.run(0.2)
    assert (run.limiter.limit, run.limiter.why) == (1, FIRST)
    run.run(1.6)
    assert run.limiter.limit >= 2


def test_a_short_idle_changes_nothing() -> None:
    run = hydration(Line(40e6))
    run.run(20)
    run.limiter.idle(run.now)
    run.now += 59
    run.past.clear()
    run.run(5)
    assert run.limits() == [16]


def test_being_idle_before_there_was_any_work_does_not_shorten_the_first_stretch() -> None:
    run = hydration(Line(40e6))
    run.noise = 0.5
    run.limiter.idle(0.0)
    run.run(4.0)
    assert run.limiter.limit == 1


def test_the_first_stretch_is_as_long_as_it_is_set_to_be() -> None:
    run = hydration(Line(40e6), probe_seconds=2.0)
    run.noise = 0.5
    run.run(5)
    began = run.past[0][0]
    assert 2.0 <= next(now for now, limit, _ in run.past if limit == 2) - began <= 2.3


def test_being_asked_rarely_or_often_makes_no_difference() -> None:
    for pause in (0.01, 0.1, 1.0, 3.0):
        limiter = ConcurrencyController(most=16)
        now = brought = 0.0
        while now < 60:
            limiter.sample(now, int(brought), limiter.limit, 0.5, 2)
            now += pause
            brought += min(limiter.limit * 40e6, 300e6) * pause
        assert limiter.limit == 8, f"asked every {pause} s"


def test_a_total_that_begins_again_is_no_speed() -> None:
    run = hydration(Line(40e6))
    run.run(20)
    run.brought = 0.0
    assert run.run(5) == 16


@pytest.mark.parametrize("options", [{"most": 0}, {"usual": 0}, {"min_speed": -1}, {"probe_seconds": -1}])
def test_settings_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        ConcurrencyController(**{"most": 8, **options})
