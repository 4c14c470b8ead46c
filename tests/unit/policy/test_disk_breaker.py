"""A failing disk is tried again from time to time."""

from __future__ import annotations

from hffs.policy import DiskBreaker

MIB = 1 << 20


def test_the_breaker_opens_on_failure_and_closes_on_success() -> None:
    breaker = DiskBreaker(30.0)
    assert (breaker.is_open, breaker.may_try(0.0)) == (False, True)
    breaker.failed(0.0)
    assert (breaker.is_open, breaker.may_try(0.0)) == (True, False)
    breaker.worked()
    assert (breaker.is_open, breaker.may_try(0.0)) == (False, True)


def test_one_attempt_per_30_seconds_is_allowed() -> None:
    breaker = DiskBreaker(30.0)
    breaker.failed(100.0)
    assert [now for now in range(100, 200) if breaker.may_try(float(now))] == [130, 160, 190]


def test_more_free_space_allows_one_attempt_at_once() -> None:
    breaker = DiskBreaker(30.0)
    breaker.failed(100.0, 5 * MIB)
    assert not breaker.may_try(101.0, 9 * MIB - 1)
    assert breaker.may_try(102.0, 9 * MIB)
    assert not breaker.may_try(103.0, 9 * MIB)
    assert not breaker.may_try(104.0, None)
    assert breaker.may_try(105.0, 13 * MIB)
    breaker.failed(106.0)  # not for lack of space
    assert not breaker.may_try(107.0, 1000 * MIB)
