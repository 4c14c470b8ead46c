"""One budget for readers and background work: what may never come through, and who may never be kept waiting.

Takers are simulated on a clock of their own: each asks again when it was told to, or 50 ms later, as workers do.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hffs.policy import Bandwidth
from hffs.ranges import BLOCK_SIZE

KIB, MIB = 1024, 1024**2
BLOCK = BLOCK_SIZE
SLICE = 0.05


@dataclass(frozen=True)
class Taker:
    """Wants ``count`` bytes again and again from ``start`` on, each time ``pause`` seconds after it got them."""

    urgent: bool
    count: int = BLOCK
    start: float = 0.0
    pause: float = 0.0


@dataclass(frozen=True)
class Grant:
    at: float
    taker: int
    count: int
    waited: float


def simulate(bandwidth: Bandwidth, takers: Iterable[Taker], seconds: float, most: int = 1000) -> list[Grant]:
    """What is granted from 0 to ``seconds``, or the first ``most`` of it."""
    told = list(takers)
    asking = [(taker.start, number, number, taker.start) for number, taker in enumerate(told)]
    heapq.heapify(asking)
    grants: list[Grant] = []
    order = len(told)
    while asking and len(grants) < most:
        now, _, number, since = heapq.heappop(asking)
        if now > seconds:
            break
        taker = told[number]
        pause = bandwidth.take(taker.count, now, urgent=taker.urgent)
        assert pause >= 0.0
        order += 1
        if pause:
            heapq.heappush(asking, (now + min(pause, SLICE), order, number, since))
        else:
            grants.append(Grant(now, number, taker.count, now - since))
            heapq.heappush(asking, (now + taker.pause, order, number, now + taker.pause))
    return grants


def granted(grants: Iterable[Grant], *takers: int) -> int:
    return sum(grant.count for grant in grants if not takers or grant.taker in takers)


def most_above(grants: list[Grant], rate: float) -> float:
    """By how many bytes the window of which that is most true exceeds ``rate``."""
    most = so_far = 0.0
    before = 0.0
    for grant in grants:
        so_far = max(so_far - rate * (grant.at - before), 0.0) + grant.count
        before = grant.at
        most = max(most, so_far)
    return most


RATES = st.sampled_from([10_000.0, 300_000.0, 3e6, 50e6, 1e9])
TAKERS = st.builds(
    Taker,
    urgent=st.booleans(),
    count=st.sampled_from([1, 4096, BLOCK - 1, BLOCK, BLOCK, BLOCK]),
    start=st.floats(0, 60),
    pause=st.sampled_from([0.0, 0.0, 0.001, 0.3, 20.0]),
)


@settings(deadline=None)
@given(rate=RATES, takers=st.lists(TAKERS, min_size=1, max_size=8))
def test_no_window_ever_sees_more_than_the_rate_and_two_small_bursts(rate: float, takers: list[Taker]) -> None:
    grants = simulate(Bandwidth(rate), takers, 120.0)
    slack = 2 * len(grants)  # accounts are compared to the byte
    assert most_above(grants, rate) <= max(BLOCK, 0.1 * rate) + max(BLOCK, 0.05 * rate) + slack


@settings(deadline=None)
@given(rate=RATES, counts=st.lists(st.integers(1, 40 * MIB), min_size=1, max_size=6), urgent=st.booleans())
def test_more_than_a_burst_is_granted_too_and_paid_off(rate: float, counts: list[int], urgent: bool) -> None:
    takers = [Taker(urgent=urgent and n % 2 == 0, count=count) for n, count in enumerate(counts)]
    grants = simulate(Bandwidth(rate), takers, 1e6, most=20)
    assert len(grants) == 20
    bandwidth = Bandwidth(rate)
    assert most_above(grants, rate) <= bandwidth.burst + bandwidth.urgent_burst + 2 * max(counts) + 100


@settings(deadline=None)
@given(rate=RATES, background=st.lists(TAKERS, max_size=8), start=st.floats(0, 60))
@example(rate=10_000.0, background=[Taker(urgent=False)] * 8, start=30.0)
def test_a_reader_gets_the_whole_rate_whatever_the_background_takes_or_took(
    rate: float, background: list[Taker], start: float
) -> None:
    others = [Taker(urgent=False, count=t.count, start=t.start, pause=t.pause) for t in background]
    reader = Taker(urgent=True, start=start)
    grants = simulate(Bandwidth(rate), [*others, reader], 180.0)
    own = [grant for grant in grants if grant.taker == len(others)]
    if not own:  # the others have used up what is simulated before
        assert grants[-1].at <= start
        return
    assert own[0].waited == 0.0, "what was saved up for readers is theirs"
    for number, grant in enumerate(own):  # never behind a line of the rate that began with his first byte
        assert number * BLOCK >= rate * (grant.at - start) - 2 * BLOCK - rate * 0.0002


def test_at_ten_kilobytes_a_second_a_reader_has_his_first_block_at_once() -> None:
    bandwidth = Bandwidth(10_000)
    assert bandwidth.take(BLOCK, 0.0, urgent=False) == 0.0
    assert bandwidth.take(BLOCK, 0.0, urgent=False) == pytest.approx(26.2144)
    assert bandwidth.take(BLOCK, 0.0, urgent=True) == 0.0
    assert bandwidth.take(BLOCK, 0.0, urgent=True) == pytest.approx(26.2144)
    assert bandwidth.take(BLOCK, 0.0, urgent=False) == pytest.approx(2 * 26.2144), "what the reader took is owed"


def test_readers_that_want_all_leave_the_background_nothing() -> None:
    rate = 4.0 * MIB
    takers = [Taker(urgent=False), Taker(urgent=False), Taker(urgent=True), Taker(urgent=True)]
    grants = simulate(Bandwidth(rate), takers, 60.0)
    early = [grant for grant in grants if grant.at < 1.0]
    late = [grant for grant in grants if grant.at >= 1.0]
    assert granted(early, 0, 1) <= Bandwidth(rate).burst
    assert granted(late, 0, 1) == 0
    assert granted(late, 2, 3) == pytest.approx(59 * rate, rel=0.02)


@pytest.mark.parametrize("rate", [10_000.0, 4.0 * MIB])
def test_the_background_gets_what_readers_leave(rate: float) -> None:
    """A reader of half the rate; after a while the background has the other half."""
    reader = Taker(urgent=True, pause=2 * BLOCK / rate)
    seconds = 100 * BLOCK / rate
    grants = simulate(Bandwidth(rate), [Taker(urgent=False), reader], seconds, most=10**6)
    assert granted(grants, 1) == pytest.approx(0.5 * rate * seconds, rel=0.05)
    assert granted(grants, 0) == pytest.approx(0.5 * rate * seconds, rel=0.1)
    assert max(grant.waited for grant in grants if grant.taker == 1) == 0.0


@settings(deadline=None)
@given(rate=RATES, share=st.floats(0.05, 0.9), readers=st.integers(1, 4))
def test_background_work_is_served_in_the_end_where_readers_leave_anything(
    rate: float, share: float, readers: int
) -> None:
    each = Taker(urgent=True, pause=readers * BLOCK / (rate * share))
    grants = simulate(Bandwidth(rate), [Taker(urgent=False), *[each] * readers], 150 * BLOCK / rate, most=10**6)
    waits = [grant.waited for grant in grants if grant.taker == 0]
    assert len(waits) >= 150 * (1 - share) / 2
    longest = (4 + 2 * readers) * BLOCK / rate / (1 - share) + 0.2 / (1 - share)
    assert max(waits) <= longest


def test_background_alone_has_the_whole_rate() -> None:
    grants = simulate(Bandwidth(3e6), [Taker(urgent=False)] * 4, 80.0)
    assert granted(grants) == pytest.approx(240e6, rel=0.01)


def test_a_pause_saves_up_no_more_than_a_burst() -> None:
    bandwidth = Bandwidth(100.0 * MIB)
    simulate(bandwidth, [Taker(urgent=False)], 1.0)
    grants = simulate(bandwidth, [Taker(urgent=False, start=1000.0)], 1000.0)
    assert granted(grants) == 10 * MIB
    assert bandwidth.burst == 10 * MIB


def test_whoever_asks_again_when_told_is_served() -> None:
    bandwidth = Bandwidth(7_777_777.7)
    now = 1e9  # the clock of a machine that has been up for 30 years is coarse
    for _ in range(1000):
        pause = bandwidth.take(BLOCK, now, urgent=False)
        if pause:
            now += pause
            assert bandwidth.take(BLOCK, now, urgent=False) == 0.0


def test_without_a_limit_everything_comes_at_once() -> None:
    bandwidth = Bandwidth(None)
    assert [bandwidth.take(1 << 40, 0.0, urgent=urgent) for urgent in (False, True)] == [0.0, 0.0]
    assert (bandwidth.rate, bandwidth.burst, bandwidth.urgent_burst) == (None, 0.0, 0.0)


def test_nothing_costs_nothing() -> None:
    bandwidth = Bandwidth(1)
    bandwidth.take(BLOCK, 0.0, urgent=False)
    assert bandwidth.take(0, 0.0, urgent=False) == 0.0


def test_a_new_rate_holds_for_who_waits_already() -> None:
    bandwidth = Bandwidth(10_000)
    bandwidth.take(BLOCK, 0.0, urgent=False)
    assert bandwidth.take(BLOCK, 0.0, urgent=False) == pytest.approx(26.2144)
    bandwidth.set_rate(BLOCK, 0.0)
    assert bandwidth.take(BLOCK, 0.0, urgent=False) == pytest.approx(1.0)
    assert bandwidth.take(BLOCK, 1.0, urgent=False) == 0.0
    bandwidth.set_rate(None, 1.0)
    assert bandwidth.take(BLOCK, 1.0, urgent=False) == 0.0


def test_a_new_rate_counts_from_its_own_moment() -> None:
    bandwidth = Bandwidth(10_000)
    bandwidth.take(BLOCK, 0.0, urgent=False)
    bandwidth.set_rate(BLOCK, 10.0)
    assert bandwidth.take(BLOCK, 10.0, urgent=False) == pytest.approx((BLOCK - 100_000) / BLOCK)


def test_a_lower_rate_takes_back_what_was_saved_up() -> None:
    bandwidth = Bandwidth(100.0 * MIB)
    bandwidth.set_rate(MIB, 0.0)
    grants = simulate(bandwidth, [Taker(urgent=False)], 0.0)
    assert granted(grants) == BLOCK


@settings(deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(1e4, 1e8)), min_size=1, max_size=8),
    takers=st.lists(TAKERS, min_size=1, max_size=4),
)
def test_changing_the_rate_again_and_again_lets_nothing_extra_through(
    changes: list[tuple[float, float]], takers: list[Taker]
) -> None:
    """Bytes never exceed the sum of what each rate allows in its time, and one burst of the highest."""
    bandwidth = Bandwidth(changes[0][1])
    at = allowed = total = 0.0
    for seconds, rate in changes:
        bandwidth.set_rate(rate, at)
        greedy = [Taker(t.urgent, t.count, at) for t in takers]
        total += granted(simulate(bandwidth, greedy, at + seconds))
        at += seconds
        allowed += rate * seconds
    highest = Bandwidth(max(rate for _, rate in changes))
    assert total <= allowed + highest.burst + highest.urgent_burst + 2000 * len(changes)


def test_a_clock_that_steps_back_gives_nothing_and_takes_nothing() -> None:
    bandwidth = Bandwidth(BLOCK)
    assert bandwidth.take(BLOCK, 10.0, urgent=False) == 0.0
    assert bandwidth.take(BLOCK, 5.0, urgent=False) == pytest.approx(1.0)
    assert bandwidth.take(BLOCK, 11.0, urgent=False) == 0.0


@pytest.mark.parametrize("rate", [0, -1.0, float("inf"), float("nan")])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        Bandwidth(rate)
    with pytest.raises(ValueError, match="not a rate"):
        Bandwidth(None).set_rate(rate, 0.0)
