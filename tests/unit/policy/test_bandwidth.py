"""One bandwidth limit for readers and background work: the upper bound of both, and the rate guaranteed to readers.

Takers are simulated with their own clock: each retries after the returned wait, or 50 ms later, as workers do.
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
    """Takes ``count`` bytes repeatedly from ``start`` on, ``pause`` seconds after each grant."""

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
    """Returns the grants from 0 to ``seconds``, at most ``most``."""
    everyone = list(takers)
    pending = [(taker.start, number, number, taker.start) for number, taker in enumerate(everyone)]
    heapq.heapify(pending)
    grants: list[Grant] = []
    order = len(everyone)
    while pending and len(grants) < most:
        now, _, number, since = heapq.heappop(pending)
        if now > seconds:
            break
        taker = everyone[number]
        pause = bandwidth.take(taker.count, now, urgent=taker.urgent)
        assert pause >= 0.0
        order += 1
        if pause:
            heapq.heappush(pending, (now + min(pause, SLICE), order, number, since))
        else:
            grants.append(Grant(now, number, taker.count, now - since))
            heapq.heappush(pending, (now + taker.pause, order, number, now + taker.pause))
    return grants


def granted(grants: Iterable[Grant], *takers: int) -> int:
    return sum(grant.count for grant in grants if not takers or grant.taker in takers)


def most_above(grants: list[Grant], rate: float) -> float:
    """Returns the largest excess of any time window over ``rate``, in bytes."""
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
def test_no_window_exceeds_the_rate_plus_both_bursts(rate: float, takers: list[Taker]) -> None:
    grants = simulate(Bandwidth(rate), takers, 120.0)
    slack = 2 * len(grants)  # balances are compared with a slack of one byte
    assert most_above(grants, rate) <= max(BLOCK, 0.1 * rate) + max(BLOCK, 0.05 * rate) + slack


@settings(deadline=None)
@given(rate=RATES, counts=st.lists(st.integers(1, 40 * MIB), min_size=1, max_size=6), urgent=st.booleans())
def test_a_take_larger_than_a_burst_is_granted_and_becomes_a_debt(rate: float, counts: list[int], urgent: bool) -> None:
    takers = [Taker(urgent=urgent and n % 2 == 0, count=count) for n, count in enumerate(counts)]
    grants = simulate(Bandwidth(rate), takers, 1e6, most=20)
    assert len(grants) == 20
    bandwidth = Bandwidth(rate)
    assert most_above(grants, rate) <= bandwidth.burst + bandwidth.urgent_burst + 2 * max(counts) + 100


@settings(deadline=None)
@given(rate=RATES, background=st.lists(TAKERS, max_size=8), start=st.floats(0, 60))
@example(rate=10_000.0, background=[Taker(urgent=False)] * 8, start=30.0)
def test_a_reader_gets_the_full_rate_despite_past_or_present_background_work(
    rate: float, background: list[Taker], start: float
) -> None:
    others = [Taker(urgent=False, count=t.count, start=t.start, pause=t.pause) for t in background]
    reader = Taker(urgent=True, start=start)
    grants = simulate(Bandwidth(rate), [*others, reader], 180.0)
    own = [grant for grant in grants if grant.taker == len(others)]
    if not own:  # the others used up the simulated grants before
        assert grants[-1].at <= start
        return
    assert own[0].waited == 0.0, "the urgent bucket is for readers only"
    for number, grant in enumerate(own):  # never behind the rate, counted from its first byte
        assert number * BLOCK >= rate * (grant.at - start) - 2 * BLOCK - rate * 0.0002


def test_at_10_kb_per_second_the_first_block_of_a_reader_is_granted_at_once() -> None:
    bandwidth = Bandwidth(10_000)
    assert bandwidth.take(BLOCK, 0.0, urgent=False) == 0.0
    assert bandwidth.take(BLOCK, 0.0, urgent=False) == pytest.approx(26.2144)
    assert bandwidth.take(BLOCK, 0.0, urgent=True) == 0.0
    assert bandwidth.take(BLOCK, 0.0, urgent=True) == pytest.approx(26.2144)
    assert bandwidth.take(BLOCK, 0.0, urgent=False) == pytest.approx(2 * 26.2144), "the bytes of the reader are owed"


def test_readers_that_take_the_full_rate_leave_background_nothing() -> None:
    rate = 4.0 * MIB
    takers = [Taker(urgent=False), Taker(urgent=False), Taker(urgent=True), Taker(urgent=True)]
    grants = simulate(Bandwidth(rate), takers, 60.0)
    early = [grant for grant in grants if grant.at < 1.0]
    late = [grant for grant in grants if grant.at >= 1.0]
    assert granted(early, 0, 1) <= Bandwidth(rate).burst
    assert granted(late, 0, 1) == 0
    assert granted(late, 2, 3) == pytest.approx(59 * rate, rel=0.02)


@pytest.mark.parametrize("rate", [10_000.0, 4.0 * MIB])
def test_background_gets_the_rate_that_readers_leave(rate: float) -> None:
    """A reader takes half of the rate; after a while background gets the other half."""
    reader = Taker(urgent=True, pause=2 * BLOCK / rate)
    seconds = 100 * BLOCK / rate
    grants = simulate(Bandwidth(rate), [Taker(urgent=False), reader], seconds, most=10**6)
    assert granted(grants, 1) == pytest.approx(0.5 * rate * seconds, rel=0.05)
    assert granted(grants, 0) == pytest.approx(0.5 * rate * seconds, rel=0.1)
    assert max(grant.waited for grant in grants if grant.taker == 1) == 0.0


@settings(deadline=None)
@given(rate=RATES, share=st.floats(0.05, 0.9), readers=st.integers(1, 4))
def test_background_is_eventually_served_if_readers_leave_any_rate(rate: float, share: float, readers: int) -> None:
    each = Taker(urgent=True, pause=readers * BLOCK / (rate * share))
    grants = simulate(Bandwidth(rate), [Taker(urgent=False), *[each] * readers], 150 * BLOCK / rate, most=10**6)
    waits = [grant.waited for grant in grants if grant.taker == 0]
    assert len(waits) >= 150 * (1 - share) / 2
    longest = (4 + 2 * readers) * BLOCK / rate / (1 - share) + 0.2 / (1 - share)
    assert max(waits) <= longest


def test_background_alone_gets_the_full_rate() -> None:
    grants = simulate(Bandwidth(3e6), [Taker(urgent=False)] * 4, 80.0)
    assert granted(grants) == pytest.approx(240e6, rel=0.01)


def test_a_pause_accumulates_at_most_a_burst() -> None:
    bandwidth = Bandwidth(100.0 * MIB)
    simulate(bandwidth, [Taker(urgent=False)], 1.0)
    grants = simulate(bandwidth, [Taker(urgent=False, start=1000.0)], 1000.0)
    assert granted(grants) == 10 * MIB
    assert bandwidth.burst == 10 * MIB


def test_a_retry_after_the_returned_wait_is_granted() -> None:
    bandwidth = Bandwidth(7_777_777.7)
    now = 1e9  # after 30 years of uptime the clock is coarse
    for _ in range(1000):
        pause = bandwidth.take(BLOCK, now, urgent=False)
        if pause:
            now += pause
            assert bandwidth.take(BLOCK, now, urgent=False) == 0.0


def test_without_a_limit_every_take_is_granted_at_once() -> None:
    bandwidth = Bandwidth(None)
    assert [bandwidth.take(1 << 40, 0.0, urgent=urgent) for urgent in (False, True)] == [0.0, 0.0]
    assert (bandwidth.rate, bandwidth.burst, bandwidth.urgent_burst) == (None, 0.0, 0.0)


def test_taking_zero_bytes_is_free() -> None:
    bandwidth = Bandwidth(1)
    bandwidth.take(BLOCK, 0.0, urgent=False)
    assert bandwidth.take(0, 0.0, urgent=False) == 0.0


def test_a_new_rate_applies_to_takers_already_waiting() -> None:
    bandwidth = Bandwidth(10_000)
    bandwidth.take(BLOCK, 0.0, urgent=False)
    assert bandwidth.take(BLOCK, 0.0, urgent=False) == pytest.approx(26.2144)
    bandwidth.set_rate(BLOCK, 0.0)
    assert bandwidth.take(BLOCK, 0.0, urgent=False) == pytest.approx(1.0)
    assert bandwidth.take(BLOCK, 1.0, urgent=False) == 0.0
    bandwidth.set_rate(None, 1.0)
    assert bandwidth.take(BLOCK, 1.0, urgent=False) == 0.0


def test_a_new_rate_applies_from_its_own_time_on() -> None:
    bandwidth = Bandwidth(10_000)
    bandwidth.take(BLOCK, 0.0, urgent=False)
    bandwidth.set_rate(BLOCK, 10.0)
    assert bandwidth.take(BLOCK, 10.0, urgent=False) == pytest.approx((BLOCK - 100_000) / BLOCK)


def test_a_lower_rate_shrinks_accumulated_bytes() -> None:
    bandwidth = Bandwidth(100.0 * MIB)
    bandwidth.set_rate(MIB, 0.0)
    grants = simulate(bandwidth, [Taker(urgent=False)], 0.0)
    assert granted(grants) == BLOCK


@settings(deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(1e4, 1e8)), min_size=1, max_size=8),
    takers=st.lists(TAKERS, min_size=1, max_size=4),
)
def test_repeated_rate_changes_grant_no_extra_bytes(changes: list[tuple[float, float]], takers: list[Taker]) -> None:
    """The bytes never exceed the sum of each rate over its time, plus one burst of the highest rate."""
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


def test_a_clock_that_steps_back_neither_adds_nor_removes_bytes() -> None:
    bandwidth = Bandwidth(BLOCK)
    assert bandwidth.take(BLOCK, 10.0, urgent=False) == 0.0
    assert bandwidth.take(BLOCK, 5.0, urgent=False) == pytest.approx(1.0)
    assert bandwidth.take(BLOCK, 11.0, urgent=False) == 0.0


@pytest.mark.parametrize("rate", [0, -1.0, float("inf"), float("nan")])
def test_an_invalid_rate_raises_value_error(rate: float) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        Bandwidth(rate)
    with pytest.raises(ValueError, match="not a rate"):
        Bandwidth(None).set_rate(rate, 0.0)
