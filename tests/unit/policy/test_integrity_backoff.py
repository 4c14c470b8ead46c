"""Wrong content comes once more at once, then after an hour, two, four, …, and never more seldom than once a day."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hffs.policy.integrity_backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, pause


def test_one_wrong_copy_may_be_chance_two_are_not() -> None:
    assert [pause(copies) for copies in range(5)] == [0.0, 0.0, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]


@given(st.integers(0, 10_000))
def test_pauses_grow_and_end(copies: int) -> None:
    assert pause(copies) <= pause(copies + 1) <= LONGEST_PAUSE_S
