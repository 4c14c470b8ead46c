"""The number of hydrating workers on simulated lines: where it settles, and what changes it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from hffs.policy import ConcurrencyController
from tests.unit.policy.lines import FIRST, MIB, Hydration, Line, Table, hydration


def test_one_worker_starts_and_a_steady_line_is_measured_in_a_second() -> None:
    run = hydration(Line(40e6))
    run.noise = 0.0
    assert run.controller.limit == 1
    assert run.controller.why == FIRST
    run.run(1.0)
    assert run.controller.limit == 1
    run.run(0.5)
    assert run.controller.limit == 2
    assert run.controller.why == "trying 2; 1 reached 38M/s"


@pytest.mark.parametrize("most", [1, 2, 12, 16, 17, 112])
def test_per_connection_limits_lead_to_the_maximum_of_workers(most: int) -> None:
    run = hydration(Line(40e6), most=most)
    assert run.run(12) == most
    assert run.controller.why == "as many as are allowed"
    assert run.limits()[: most.bit_length()] == [2**n for n in range(most.bit_length())]


def test_doublings_that_pay_take_half_a_second_each() -> None:
    run = hydration(Line(40e6), most=64)
    run.run(12)
    began = next(now for now, limit, _ in run.past if limit == 2)
    ended = next(now for now, limit, _ in run.past if limit == 64)
    assert ended - began == pytest.approx(5 * 0.5, abs=0.4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("each", "fills"), [(125e6, 1), (63e6, 2), (40e6, 4), (20e6, 8)])
def test_a_gigabit_line_gets_the_smallest_number_that_fills_it(each: float, fills: int, seed: int) -> None:
    run = hydration(Line(each, 125e6))
    run.dice = random.Random(seed)
    near = {max(1, fills // 2), fills, fills * 2}
    assert run.run(20) in near
    run.past.clear()
    run.run(600)
    assert run.share_at(near) > 0.98
    assert run.share_at({fills}) > 0.6


def test_speeds_measured_at_1_gbit_and_30_ms_give_two_to_four_workers() -> None:
    run = hydration(Table({1: 57 * MIB, 2: 95 * MIB, 4: 103 * MIB, 8: 107 * MIB, 16: 113 * MIB}))
    assert run.run(60) in (2, 4)


def test_a_round_trip_of_200_ms_gives_the_same_result() -> None:
    run = hydration(Line(40e6, round_trip=0.2))
    assert run.run(30) == 16


def test_a_processor_bound_machine_keeps_few_workers() -> None:
    run = hydration(Table({1: 2000 * MIB, 2: 2700 * MIB, 4: 2600 * MIB, 8: 2500 * MIB, 16: 2300 * MIB}))
    run.run(20)
    assert run.controller.limit == 2
    assert run.controller.why.startswith("4 workers are no faster than 2 (")
    run.past.clear()
    run.run(300)
    assert run.share_at({2}) > 0.95


def test_a_speed_below_the_minimum_per_worker_keeps_one_worker() -> None:
    run = hydration(Line(1e6))
    assert run.run(60) == 1
    assert {limit for _, limit, _ in run.past} == {1}
    assert run.controller.why == "each is slower than 3.0M/s"


def test_the_minimum_speed_is_an_option() -> None:
    run = hydration(Line(1e6), min_speed=0.5e6)
    assert run.run(20) == 16


def test_more_workers_below_the_minimum_speed_each_are_not_kept() -> None:
    """Each further connection slows the others down, and the total still grows."""
    run = hydration(Table({1: 10 * MIB, 2: 16 * MIB, 4: 24 * MIB, 8: 23 * MIB, 16: 20 * MIB}))
    run.controller = ConcurrencyController(most=16, min_speed=7 * MIB)
    assert run.run(20) == 2
    assert run.controller.why == "4 workers would be slower than 7.0M/s each"


def test_a_slow_start_delays_the_first_doubling_only_briefly() -> None:
    line = Line(1e6)
    run = hydration(line)
    assert run.run(10) == 1
    line.each = 40e6
    assert run.run(5) >= 4


def test_workers_below_the_minimum_speed_are_removed_when_a_line_slows_down() -> None:
    line = Line(40e6, 600e6)
    run = hydration(line)
    assert run.run(20) == 16
    line.total = 20e6
    run.run(10)
    assert run.controller.limit == 4
    assert run.controller.why == "each is slower than 3.0M/s"


@pytest.mark.parametrize("moment", range(36, 46))
def test_one_sample_halves_the_number_at_most_once(moment: int) -> None:
    """Even if a trial of fewer is due at that moment."""
    line = Line(40e6, 600e6)
    run = hydration(line)
    run.run(moment)
    line.total = 20e6
    run.run(20)
    assert all(2 * after >= before for (_, before, _), (_, after, _) in pairwise(run.past))


def test_a_line_without_throughput_keeps_one_worker() -> None:
    line = Line(40e6)
    run = hydration(line)
    run.run(20)
    line.total = 0.0
    assert run.run(20) == 1


def test_a_faster_line_is_used_within_a_minute() -> None:
    line = Line(40e6, 75e6)
    run = hydration(line)
    run.run(600)
    assert run.controller.limit == 2
    line.each, line.total = 160e6, 2000e6
    assert run.run(40) == 16


def test_trials_without_gain_become_rare() -> None:
    run = hydration(Line(40e6, 75e6))
    run.noise = 0.01
    run.run(40)
    assert run.controller.limit == 2
    run.past.clear()
    run.run(1800)
    assert run.limits().count(4) <= 10
    assert run.limits().count(1) <= 10
    assert run.share_at({2}) > 0.97


def test_fewer_workers_are_tried_and_kept_if_equally_fast() -> None:
    line = Line(20e6, 600e6)
    run = hydration(line)
    assert run.run(20) == 16
    line.total, line.each = 125e6, 125e6
    run.run(400)
    assert run.controller.limit <= 2


def test_a_refusal_halves_the_number_and_pauses_measuring() -> None:
    run = hydration(Line(40e6))
    assert run.run(20) == 16
    for _ in range(16):  # the responses of all running requests
        run.controller.refused(run.now, None)
    assert run.controller.limit == 8
    assert run.controller.why == "the server refused requests"
    assert run.run(25) == 8
    run.controller.refused(run.now, 60.0)
    assert run.controller.limit == 4
    run.past.clear()
    run.run(60 + 25)
    assert max(run.limits()) == 4
    assert run.run(60) == 16


def test_repeated_refusals_leave_one_worker_and_later_trials() -> None:
    run = hydration(Line(40e6), most=64)
    run.run(12)
    for _ in range(10):
        run.controller.refused(run.now, 2.0)
        run.run(2.0)
    assert run.controller.limit == 1
    assert run.run(400) == 64


def test_a_retry_after_of_hours_is_capped() -> None:
    run = hydration(Line(40e6))
    run.run(10)
    run.controller.refused(run.now, 1e9)
    run.run(700)
    assert run.controller.limit == 16


def test_a_refusal_ends_the_first_phase() -> None:
    run = hydration(Line(40e6))
    run.run(0.5)
    run.controller.refused(run.now, None)
    assert (run.controller.limit, run.controller.why) == (1, "the server refused requests")
    assert run.run(30) == 1


def test_a_busy_machine_gets_at_most_the_usual_number() -> None:
    run = hydration(Line(40e6))
    run.load = 9.3
    assert run.run(60) == 8
    assert run.controller.why == "the load of the machine (9.3) exceeds its 2 cores"
    run.load = 1.0
    assert run.run(2) == 16
    run.load = 9.3
    assert run.run(10) == 16, "workers that exist already stay"


def test_a_number_above_usual_stays_but_does_not_grow_on_a_busy_machine() -> None:
    run = hydration(Line(40e6), most=64)
    while run.controller.limit < 16:
        run.run(0.25)
    run.load = 9.3
    assert run.run(20) == 16
    assert run.controller.why == "the load of the machine (9.3) exceeds its 2 cores"


def test_the_usual_number_is_an_option() -> None:
    run = hydration(Line(40e6), usual=3)
    run.load = 9.3
    assert run.run(20) == 3


def test_why_at_the_maximum_is_the_given_bound() -> None:
    run = Hydration(ConcurrencyController(most=2, bound="the limit set by --workers"), Line(40e6))
    assert run.run(10) == 2
    assert run.controller.why == "the limit set by --workers"


def test_a_trial_with_too_little_work_ends_without_a_verdict() -> None:
    run = hydration(Line(40e6))
    run.work = 1
    assert run.run(10) == 1
    assert run.controller.why == "too little work to try more"
    run.work = 1000
    assert run.run(40) == 16


def test_the_end_of_a_file_does_not_reduce_the_number() -> None:
    run = hydration(Line(40e6))
    run.run(20)
    run.work = 1
    run.past.clear()
    run.run(60)
    assert run.controller.limit == 16


def test_samples_with_more_active_workers_than_the_limit_are_ignored() -> None:
    """A worker ends its fetch before it stops, so more workers than the limit are active for a while."""
    controller = ConcurrencyController(most=16)
    run = Hydration(controller, Line(40e6))
    run.run(20)
    controller.refused(run.now, None)
    for n in range(400):  # 100 s of 16 workers at the speed of 16
        controller.sample(run.now + n / 4, int(run.received) + n * 160_000_000, 16, 0.5, 2)
    assert controller.limit == 8


def test_idle_time_does_not_count() -> None:
    controller = ConcurrencyController(most=16)
    run = Hydration(controller, Line(40e6, 75e6))
    run.run(20)
    assert controller.limit == 2
    run.past.clear()
    for _ in range(30):  # half an hour, but 30 s of work in pieces of a second
        run.run(1.0)
        controller.idle(run.now)
        run.now += 50.0
    assert run.past[0][1] == 2
    assert run.share_at({2}) > 0.7
    assert max(run.limits()) <= 4


def test_after_a_long_idle_time_measuring_restarts_for_a_second() -> None:
    run = hydration(Line(40e6))
    run.noise = 0.5  # no two samples agree
    assert run.run(20) == 16
    run.controller.idle(run.now)
    run.controller.idle(run.now + 30)
    run.now += 61
    run.line.opened.clear()  # type: ignore[union-attr]
    run.past.clear()
    run.run(0.2)
    assert (run.controller.limit, run.controller.why) == (1, FIRST)
    run.run(1.6)
    assert run.controller.limit >= 2


def test_a_short_idle_time_changes_nothing() -> None:
    run = hydration(Line(40e6))
    run.run(20)
    run.controller.idle(run.now)
    run.now += 59
    run.past.clear()
    run.run(5)
    assert run.limits() == [16]


def test_idle_time_before_any_work_does_not_shorten_the_first_phase() -> None:
    run = hydration(Line(40e6))
    run.noise = 0.5
    run.controller.idle(0.0)
    run.run(4.0)
    assert run.controller.limit == 1


def test_probe_seconds_bounds_the_first_phase() -> None:
    run = hydration(Line(40e6), probe_seconds=2.0)
    run.noise = 0.5
    run.run(5)
    began = run.past[0][0]
    assert 2.0 <= next(now for now, limit, _ in run.past if limit == 2) - began <= 2.3


def test_the_interval_of_samples_does_not_matter() -> None:
    for pause in (0.01, 0.1, 1.0, 3.0):
        controller = ConcurrencyController(most=16)
        now = received = 0.0
        while now < 60:
            controller.sample(now, int(received), controller.limit, 0.5, 2)
            now += pause
            received += min(controller.limit * 40e6, 300e6) * pause
        assert controller.limit == 8, f"sampled every {pause} s"


def test_a_byte_count_that_restarts_is_no_sample() -> None:
    run = hydration(Line(40e6))
    run.run(20)
    run.received = 0.0
    assert run.run(5) == 16


@pytest.mark.parametrize("options", [{"most": 0}, {"usual": 0}, {"min_speed": -1}, {"probe_seconds": -1}])
def test_invalid_options_raise_value_error(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        ConcurrencyController(**{"most": 8, **options})
