"""Wrong content is fetched again at once, then after 1, 2, 4, … hours, and at least once a day."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hffs.policy.integrity_backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, pause


def test_one_wrong_copy_gives_no_pause_two_do() -> None:
    assert [pause(copies) for copies in range(5)] == [0.0, 0.0, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]


@given(st.integers(0, 10_000))
def test_pauses_grow_up_to_a_day(copies: int) -> None:
    assert pause(copies) <= pause(copies + 1) <= LONGEST_PAUSE_S
