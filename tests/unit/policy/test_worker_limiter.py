"""How many workers hydrate, on simulated lines and a simulated clock: what they settle at, and what never happens."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hffs.policy import WorkerLimiter
from hffs.ranges import BLOCK_SIZE

KIB, MIB = 1024, 1024**2
FIRST = "one worker at first, to see what it brings"

Speed = Callable[[int], float]  # bytes per second of so many workers


@dataclass
class Line:
    """Connections of at most ``each`` bytes/s, ``total`` together. New ones take three round trips to open, then double
    from 64 KiB per round trip."""

    each: float
    total: float = float("inf")
    round_trip: float = 0.03
    opened: list[float] = field(default_factory=list)

    def bring(self, workers: int, now: float, seconds: float) -> float:
        """Bytes that come from ``now`` on."""
        self.opened = (self.opened + [now] * workers)[:workers]
        step = seconds / 10
        return sum(
            step * min(self.total, sum(self._speed(now + n * step - since) for since in self.opened)) for n in range(10)
        )

    def _speed(self, age: float) -> float:
        trips = age / self.round_trip - 3
        return 0.0 if trips < 0 else min(self.each, 64 * KIB / self.round_trip * 2.0 ** min(trips, 60))


@dataclass
class Table:
    """Measured speeds by number of workers."""

    speeds: dict[int, float]

    def bring(self, workers: int, now: float, seconds: float) -> float:
        return self.speeds[workers] * seconds


@dataclass
class Hydration:
    """Asks four times a second, not quite on time, and sees whole blocks, up to a twentieth more or less of them."""

    limiter: WorkerLimiter
    line: Line | Table
    now: float = 100.0
    load: float = 0.5
    work: int = 1000  # workers that there is work for
    noise: float = 0.05
    brought: float = 0.0
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    past: list[tuple[float, int, str]] = field(default_factory=list)

    def run(self, seconds: float) -> int:
        ends = self.now + seconds
        while self.now < ends:
            active = min(self.limiter.limit, self.work)
            pause = 0.25 + self.dice.uniform(0, 0.01)
            self.brought += self.line.bring(active, self.now, pause) * self.dice.uniform(1 - self.noise, 1 + self.noise)
            self.now += pause
            whole = int(self.brought) // BLOCK_SIZE * BLOCK_SIZE
            self.limiter.sample(self.now, whole, active, self.load, 2)
            self.past.append((self.now, self.limiter.limit, self.limiter.why))
        return self.limiter.limit

    def limits(self) -> list[int]:
        """What it went through, each once."""
        found = [self.past[0][1]]
        found += [after for (_, before, _), (_, after, _) in pairwise(self.past) if before != after]
        return found

    def share_at(self, limits: set[int]) -> float:
        return sum(limit in limits for _, limit, _ in self.past) / len(self.past)


def hydration(line: Line | Table, *, most: int = 16, **options: float) -> Hydration:
    return Hydration(WorkerLimiter(most=most, **options), line)  # type: ignore[arg-type]


def test_one_worker_begins_and_a_steady_line_is_known_after_a_second() -> None:
    run = hydration(Line(40e6))
    run.noise = 0.0
    assert run.limiter.limit == 1
    assert run.limiter.why == FIRST
    run.run(1.0)
    assert run.limiter.limit == 1
    run.run(0.5)
    assert run.limiter.limit == 2
    assert run.limiter.why == "trying 2, where 1 brought 38M/s"


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
    assert run.limiter.why.startswith("4 workers bring no more than 2 (")
    run.past.clear()
    run.run(300)
    assert run.share_at({2}) > 0.95


def test_workers_that_each_bring_less_than_the_least_stay_one() -> None:
    run = hydration(Line(1e6))
    assert run.run(60) == 1
    assert {limit for _, limit, _ in run.past} == {1}
    assert run.limiter.why == "each brings less than 3.0M/s"


def test_the_least_speed_is_a_setting() -> None:
    run = hydration(Line(1e6), min_speed=0.5e6)
    assert run.run(20) == 16


def test_more_workers_that_would_each_bring_too_little_are_not_kept() -> None:
    """Each connection slows down by what the others take, and the total still grows."""
    run = hydration(Table({1: 10 * MIB, 2: 16 * MIB, 4: 24 * MIB, 8: 23 * MIB, 16: 20 * MIB}))
    run.limiter = WorkerLimiter(most=16, min_speed=7 * MIB)
    assert run.run(20) == 2
    assert run.limiter.why == "4 workers would bring less than 7.0M/s each"


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
    assert run.limiter.why == "each brings less than 3.0M/s"


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
    assert run.limiter.why == "the server asked for less"
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
    assert (run.limiter.limit, run.limiter.why) == (1, "the server asked for less")
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
    run = Hydration(WorkerLimiter(most=2, bound="the limit set by --workers"), Line(40e6))
    assert run.run(10) == 2
    assert run.limiter.why == "the limit set by --workers"


def test_too_little_work_for_more_workers_proves_nothing() -> None:
    run = hydration(Line(40e6))
    run.work = 1
    assert run.run(10) == 1
    assert run.limiter.why == "there was not enough work to try more"
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
    limiter = WorkerLimiter(most=16)
    run = Hydration(limiter, Line(40e6))
    run.run(20)
    limiter.refused(run.now, None)
    for n in range(400):  # 100 s of 16 workers at the speed of 16
        limiter.sample(run.now + n / 4, int(run.brought) + n * 160_000_000, 16, 0.5, 2)
    assert limiter.limit == 8


def test_time_without_work_does_not_count() -> None:
    limiter = WorkerLimiter(most=16)
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
        limiter = WorkerLimiter(most=16)
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
        WorkerLimiter(**{"most": 8, **options})


# --- whatever happens -----------------------------------------------------------------------------------------------

PAUSES = st.sampled_from([0.0, 0.001, 0.1, 0.2, 0.249, 0.25, 0.25, 0.25, 0.3, 1.0, 5.0])
SAMPLES = st.tuples(
    st.just("sample"), PAUSES, st.sampled_from([0.0, 1e5, 4e6, 40e6, 1e9]), st.sampled_from([0, 0, 0, -1, -4, 1])
)
STEADY = st.tuples(
    st.just("steady"),
    st.integers(1, 300),
    st.sampled_from([0.2, 0.25]),
    st.sampled_from([1e6, 40e6]),
    st.sampled_from([50e6, 1e12]),
)
REFUSED = st.tuples(st.just("refused"), PAUSES, st.none() | st.floats(0, 1e4))
IDLE = st.tuples(st.just("idle"), st.sampled_from([0.1, 10.0, 100.0]))
EVENTS = st.lists(st.one_of(SAMPLES, SAMPLES, STEADY, REFUSED, IDLE), max_size=60)


def history(events: list[tuple[object, ...]], most: int, load: float) -> list[tuple[float, int, str]]:
    limiter = WorkerLimiter(most=most)
    now, fetched = 50.0, 0.0
    past = [(now, limiter.limit, limiter.why)]

    def sample(pause: float, speed: float, more: int) -> None:
        nonlocal now, fetched
        now += pause
        fetched += speed * pause
        told = limiter.sample(now, int(fetched), max(0, limiter.limit + more), load, 2)
        assert told == limiter.limit
        past.append((now, limiter.limit, limiter.why))

    for what, *details in events:
        if what == "sample":
            sample(*details)  # type: ignore[arg-type]
        elif what == "steady":
            times, pause, each, total = details
            for _ in range(times):  # type: ignore[call-overload]
                sample(pause, min(limiter.limit * each, total), 0)  # type: ignore[operator,arg-type]
        elif what == "refused":
            now += details[0]  # type: ignore[operator]
            limiter.refused(now, details[1])  # type: ignore[arg-type]
            past.append((now, limiter.limit, limiter.why))
        else:
            limiter.idle(now)
            now += details[0]  # type: ignore[operator]
    return past


@settings(deadline=None)
@given(events=EVENTS, most=st.sampled_from([1, 2, 3, 8, 16, 100]), load=st.sampled_from([0.5, 9.0]))
def test_the_limit_is_never_out_of_bounds_and_never_grows_faster_than_by_doubling_each_half_second(
    events: list[tuple[object, ...]], most: int, load: float
) -> None:
    past = history(events, most, load)
    for at, (now, limit, why) in enumerate(past):
        assert 1 <= limit <= most
        assert why
        assert limit <= 8 or load <= 2
        for before, earlier, _ in past[max(0, at - 40) : at]:
            allowed = earlier * 2.0 ** (1 + int((now - before) / 0.5))
            assert limit <= allowed, f"from {earlier} to {limit} in {now - before:.2f} s"


@settings(deadline=None)
@given(events=EVENTS, most=st.sampled_from([3, 16, 100]))
def test_the_same_events_lead_to_the_same_decisions(events: list[tuple[object, ...]], most: int) -> None:
    assert history(events, most, 0.5) == history(events, most, 0.5)


@settings(deadline=None)
@given(
    samples=st.lists(st.tuples(st.floats(0.21, 2.0), st.floats(0, 1e9)), min_size=1, max_size=60),
    probe_seconds=st.floats(0, 10),
)
def test_the_first_stretch_is_over_in_time_whatever_the_line_does(
    samples: list[tuple[float, float]], probe_seconds: float
) -> None:
    limiter = WorkerLimiter(most=16, probe_seconds=probe_seconds)
    now = fetched = 0.0
    limiter.sample(now, 0, 1, 0.5, 2)
    for pause, speed in samples:
        now += pause
        fetched += pause * speed
        limiter.sample(now, int(fetched), limiter.limit, 0.5, 2)
        if now >= max(probe_seconds, 0.5) + 0.01:
            assert limiter.why != FIRST


@settings(deadline=None, max_examples=40)
@given(
    each=st.floats(4e6, 1e9),
    full=st.floats(0.5, 40.0),
    most=st.sampled_from([4, 16, 64]),
    round_trip=st.sampled_from([0.001, 0.03, 0.1]),
)
def test_hydration_gets_nearly_all_of_any_line_with_few_more_workers_than_that_takes(
    each: float, full: float, most: int, round_trip: float
) -> None:
    """At least three quarters of what the line or ``most`` connections give, and at most twice the workers for it."""
    total = each * full
    run = hydration(Line(each, total, round_trip), most=most)
    run.noise = 0.0
    run.run(60)
    run.past.clear()
    run.run(100)
    limit = max({limit for _, limit, _ in run.past}, key=lambda limit: run.share_at({limit}))
    if total / limit / 2 < 4 * MIB:  # the least speed decides, not the line
        return
    assert min(total, limit * each) >= 0.75 * min(total, most * each)
    assert (limit + 1) // 2 * each < total * 1.01 or limit == 1
