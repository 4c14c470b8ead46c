from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffs.policy import RetryPolicy

ALMOST_ONE = 1 - 2**-53


def test_waits_double_from_base_to_cap_under_full_jitter() -> None:
    policy = RetryPolicy(attempts=9)
    waits = [policy.decide(n, transient=True, retry_after=None, random=0.5) for n in range(8)]
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 8, 8]
    assert policy.decide(3, transient=True, retry_after=None, random=0.0) == 0.0


def test_the_sixth_failure_is_the_last() -> None:
    policy = RetryPolicy()
    assert policy.decide(4, transient=True, retry_after=None, random=0.5) is not None
    assert policy.decide(5, transient=True, retry_after=None, random=0.5) is None


def test_a_permanent_error_is_not_retried() -> None:
    assert RetryPolicy().decide(0, transient=False, retry_after=1.0, random=0.5) is None


def test_a_retry_never_precedes_retry_after() -> None:
    policy = RetryPolicy()
    assert policy.decide(0, transient=True, retry_after=30.0, random=0.9) == 30.0
    assert policy.decide(4, transient=True, retry_after=1.0, random=0.5) == 4.0


@given(st.integers(0, 10**6), st.floats(0, ALMOST_ONE), st.none() | st.floats(0, 1e6))
def test_every_wait_is_between_retry_after_and_the_cap(attempt: int, random: float, retry_after: float | None) -> None:
    wait = RetryPolicy(attempts=10**7).decide(attempt, transient=True, retry_after=retry_after, random=random)
    assert wait is not None
    assert (retry_after or 0.0) <= wait <= max(16.0, retry_after or 0.0)


@given(st.lists(st.floats(0, ALMOST_ONE), min_size=6, max_size=6))
def test_six_attempts_leave_a_reads_deadline_to_the_requests(dice: list[float]) -> None:
    """The waits double at most and sum to at most 15.5 s of the deadline of 120."""
    policy = RetryPolicy()
    waits = [policy.decide(n, transient=True, retry_after=None, random=random) for n, random in enumerate(dice)]
    assert waits[-1] is None
    for number, wait in enumerate(waits[:-1]):
        assert wait is not None
        assert 0 <= wait < 0.5 * 2**number
    assert sum(wait for wait in waits if wait is not None) < 15.5


@given(st.integers(0, 10), st.booleans(), st.none() | st.floats(0, 300), st.floats(0, ALMOST_ONE))
def test_giving_up_depends_on_the_error_and_the_attempt_only(
    attempt: int, transient: bool, retry_after: float | None, random: float
) -> None:
    wait = RetryPolicy().decide(attempt, transient=transient, retry_after=retry_after, random=random)
    assert (wait is not None) == (transient and attempt < 5)


def test_an_invalid_policy_raises_value_error() -> None:
    for attempts, base, cap in ((0, 0.5, 16.0), (6, 2.0, 1.0), (6, -1.0, 16.0)):
        with pytest.raises(ValueError, match="not a retry policy"):
            RetryPolicy(attempts, base, cap)
    for attempt, random in ((-1, 0.5), (0, 1.0), (0, -0.1)):
        with pytest.raises(ValueError, match="from 0"):
            RetryPolicy().decide(attempt, transient=True, retry_after=None, random=random)
