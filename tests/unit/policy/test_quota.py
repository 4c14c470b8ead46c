"""Background use of a quota: unpaced, then spread, never the last tenth, whatever readers do meanwhile."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hffs.policy import Quota, RequestPacer
from hffs.policy.quota import SHORT

WINDOW = 300.0


def test_above_a_quarter_of_the_quota_no_request_waits() -> None:
    pacer = RequestPacer()
    quota = Quota(3000, 3000, WINDOW)
    for left in range(3000, 751, -1):
        assert pacer.wait(replace(quota, left=left), 0.0) == 0


def test_below_a_quarter_spare_requests_are_spread_over_the_window() -> None:
    pacer, quota = RequestPacer(), Quota(750, 3000, WINDOW)
    assert quota.spare() == 450
    assert pacer.wait(quota, 0.0) == 0
    assert pacer.wait(quota, 0.0) == WINDOW / 450
    assert pacer.wait(quota, WINDOW / 450) == 0


def test_the_last_tenth_is_kept_for_readers_until_the_window_ends() -> None:
    pacer, quota = RequestPacer(), Quota(300, 3000, WINDOW)
    assert pacer.wait(quota, 100.0) == 200.0
    assert pacer.wait(quota, WINDOW) == 0


def test_an_unknown_limit_is_assumed_to_be_the_smallest() -> None:
    assert RequestPacer().wait(Quota(126, None, WINDOW), 0.0) == 0
    assert Quota(126, None, WINDOW).interval(0.0) == 0
    assert Quota(125, None, WINDOW).interval(0.0) > 0
    assert RequestPacer().wait(Quota(50, None, WINDOW), 0.0) == WINDOW


def test_without_a_quota_no_request_waits() -> None:
    pacer = RequestPacer()
    assert [pacer.wait(None, 0.0) for _ in range(3)] == [0, 0, 0]


@given(
    limit=st.integers(1, 6000),
    share=st.floats(0, 1),
    steps=st.lists(st.tuples(st.sampled_from(["background", "reader"]), st.floats(0, 5)), max_size=300),
)
def test_background_keeps_the_readers_share_and_never_waits_past_the_window(
    limit: int, share: float, steps: list[tuple[str, float]]
) -> None:
    pacer, now = RequestPacer(), 0.0
    quota = Quota(int(limit * share), limit, WINDOW)
    free = 0
    for sender, seconds in steps:
        now += seconds
        if now >= WINDOW:
            break
        if sender == "reader":
            quota = replace(quota, left=max(0, quota.left - 1))
            continue
        wait = pacer.wait(quota, now)
        assert 0 <= wait <= WINDOW - now + 1e-9
        if wait:
            continue
        assert quota.left > 0.1 * limit, "the reserved requests are never used"
        quota = replace(quota, left=quota.left - 1)
        free += quota.left > SHORT * limit
    assert free <= limit


@given(limit=st.integers(10, 6000), left=st.integers(0, 6000), since=st.floats(0, 299))
def test_continuous_background_work_uses_exactly_the_spare_requests(limit: int, left: int, since: float) -> None:
    pacer, now, sent = RequestPacer(), since, 0
    quota = Quota(min(left, limit), limit, WINDOW)
    spare = quota.spare()
    while now < WINDOW:
        wait = pacer.wait(quota, now)
        if wait:
            now += wait + 1e-6
            continue
        sent += 1
        quota = replace(quota, left=quota.left - 1)
    assert sent <= spare
    assert sent >= spare - 1 - spare * 1e-3, "spare requests expire with the window"
