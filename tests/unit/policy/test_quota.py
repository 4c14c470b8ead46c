"""What the background may use of a quota: freely, then spread, never the last of it; whatever readers do meanwhile."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hffs.policy import Quota, RequestPacer
from hffs.policy.quota import SHORT

WINDOW = 300.0


def test_while_most_is_left_nobody_waits() -> None:
    pace = RequestPacer()
    quota = Quota(3000, 3000, WINDOW)
    for left in range(3000, 751, -1):
        assert pace.wait(replace(quota, left=left), 0.0) == 0


def test_from_a_quarter_down_what_is_spare_is_spread_over_the_rest_of_the_window() -> None:
    pace, quota = RequestPacer(), Quota(750, 3000, WINDOW)
    assert quota.spare() == 450
    assert pace.wait(quota, 0.0) == 0
    assert pace.wait(quota, 0.0) == WINDOW / 450
    assert pace.wait(quota, WINDOW / 450) == 0


def test_the_last_tenth_is_for_readers_until_the_window_ends() -> None:
    pace, quota = RequestPacer(), Quota(300, 3000, WINDOW)
    assert pace.wait(quota, 100.0) == 200.0
    assert pace.wait(quota, WINDOW) == 0


def test_a_server_that_does_not_say_how_many_there_are_is_taken_for_a_small_one() -> None:
    assert RequestPacer().wait(Quota(126, None, WINDOW), 0.0) == 0
    assert Quota(126, None, WINDOW).interval(0.0) == 0
    assert Quota(125, None, WINDOW).interval(0.0) > 0
    assert RequestPacer().wait(Quota(50, None, WINDOW), 0.0) == WINDOW


def test_no_quota_no_wait() -> None:
    pace = RequestPacer()
    assert [pace.wait(None, 0.0) for _ in range(3)] == [0, 0, 0]


@given(
    limit=st.integers(1, 6000),
    share=st.floats(0, 1),
    steps=st.lists(st.tuples(st.sampled_from(["background", "reader"]), st.floats(0, 5)), max_size=300),
)
def test_however_readers_ask_the_background_leaves_them_theirs_and_never_waits_beyond_the_window(
    limit: int, share: float, steps: list[tuple[str, float]]
) -> None:
    pace, now = RequestPacer(), 0.0
    quota = Quota(int(limit * share), limit, WINDOW)
    free = 0
    for who, seconds in steps:
        now += seconds
        if now >= WINDOW:
            break
        if who == "reader":
            quota = replace(quota, left=max(0, quota.left - 1))
            continue
        wait = pace.wait(quota, now)
        assert 0 <= wait <= WINDOW - now + 1e-9
        if wait:
            continue
        assert quota.left > 0.1 * limit, "what is kept is never used"
        quota = replace(quota, left=quota.left - 1)
        free += quota.left > SHORT * limit
    assert free <= limit


@given(limit=st.integers(10, 6000), left=st.integers(0, 6000), since=st.floats(0, 299))
def test_who_asks_as_soon_as_it_may_uses_what_is_spare_and_no_more(limit: int, left: int, since: float) -> None:
    pace, now, sent = RequestPacer(), since, 0
    quota = Quota(min(left, limit), limit, WINDOW)
    spare = quota.spare()
    while now < WINDOW:
        wait = pace.wait(quota, now)
        if wait:
            now += wait + 1e-6
            continue
        sent += 1
        quota = replace(quota, left=quota.left - 1)
    assert sent <= spare
    assert sent >= spare - 1 - spare * 1e-3, "what is spare is no use after the window"
