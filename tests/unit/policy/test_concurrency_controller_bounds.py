"""Properties of the number of hydrating workers under any sequence of events."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hffs.policy import ConcurrencyController
from tests.support.profile import examples
from tests.unit.policy.lines import FIRST, MIB, Line, hydration

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
    controller = ConcurrencyController(most=most)
    now, fetched = 50.0, 0.0
    past = [(now, controller.limit, controller.why)]

    def sample(pause: float, speed: float, more: int) -> None:
        nonlocal now, fetched
        now += pause
        fetched += speed * pause
        limit = controller.sample(now, int(fetched), max(0, controller.limit + more), load, 2)
        assert limit == controller.limit
        past.append((now, controller.limit, controller.why))

    for what, *details in events:
        if what == "sample":
            sample(*details)  # type: ignore[arg-type]
        elif what == "steady":
            times, pause, each, total = details
            for _ in range(times):  # type: ignore[call-overload]
                sample(pause, min(controller.limit * each, total), 0)  # type: ignore[operator,arg-type]
        elif what == "refused":
            now += details[0]  # type: ignore[operator]
            controller.refused(now, details[1])  # type: ignore[arg-type]
            past.append((now, controller.limit, controller.why))
        else:
            controller.idle(now)
            now += details[0]  # type: ignore[operator]
    return past


@settings(deadline=None)
@given(events=EVENTS, most=st.sampled_from([1, 2, 3, 8, 16, 100]), load=st.sampled_from([0.5, 9.0]))
def test_the_limit_stays_in_bounds_and_doubles_at_most_every_half_second(
    events: list[tuple[object, ...]], most: int, load: float
) -> None:
    past = history(events, most, load)
    for at, (now, limit, why) in enumerate(past):
        assert 1 <= limit <= most
        assert why
        assert limit <= 8 or load <= 2
        for before, earlier, _ in past[max(0, at - 40) : at]:
            doublings = min(1 + int((now - before) / 0.5), 7)  # the limit never exceeds 100; 2.0 ** 1024 overflows
            allowed = earlier * 2**doublings
            assert limit <= allowed, f"from {earlier} to {limit} in {now - before:.2f} s"


@settings(deadline=None)
@given(events=EVENTS, most=st.sampled_from([3, 16, 100]))
def test_equal_events_lead_to_equal_decisions(events: list[tuple[object, ...]], most: int) -> None:
    assert history(events, most, 0.5) == history(events, most, 0.5)


@settings(deadline=None)
@given(
    samples=st.lists(st.tuples(st.floats(0.21, 2.0), st.floats(0, 1e9)), min_size=1, max_size=60),
    probe_seconds=st.floats(0, 10),
)
def test_the_first_phase_ends_in_time_on_any_line(samples: list[tuple[float, float]], probe_seconds: float) -> None:
    controller = ConcurrencyController(most=16, probe_seconds=probe_seconds)
    now = fetched = 0.0
    controller.sample(now, 0, 1, 0.5, 2)
    for pause, speed in samples:
        now += pause
        fetched += pause * speed
        controller.sample(now, int(fetched), controller.limit, 0.5, 2)
        if now >= max(probe_seconds, 0.5) + 0.01:
            assert controller.why != FIRST


@settings(deadline=None, max_examples=examples(40))
@given(
    each=st.floats(4e6, 1e9),
    full=st.floats(0.5, 40.0),
    most=st.sampled_from([4, 16, 64]),
    round_trip=st.sampled_from([0.001, 0.03, 0.1]),
)
def test_hydration_gets_most_of_any_line_with_few_extra_workers(
    each: float, full: float, most: int, round_trip: float
) -> None:
    """At least three quarters of the speed of the line or of ``most`` connections, with at most twice the workers."""
    total = each * full
    run = hydration(Line(each, total, round_trip), most=most)
    run.noise = 0.0
    run.run(60)
    run.past.clear()
    run.run(100)
    limit = max({limit for _, limit, _ in run.past}, key=lambda limit: run.share_at({limit}))
    if total / limit / 2 < 4 * MIB:  # the minimum speed decides, not the line
        return
    assert min(total, limit * each) >= 0.75 * min(total, most * each)
    assert (limit + 1) // 2 * each < total * 1.01 or limit == 1
