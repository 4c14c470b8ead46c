"""A disk that refused is left alone, and tried again."""

from __future__ import annotations

from hffs.policy import DiskBreaker

MIB = 1 << 20


def test_a_disk_works_until_it_fails_and_again_when_it_did() -> None:
    outage = DiskBreaker(30.0)
    assert (outage.is_open, outage.may_try(0.0)) == (False, True)
    outage.failed(0.0)
    assert (outage.is_open, outage.may_try(0.0)) == (True, False)
    outage.worked()
    assert (outage.is_open, outage.may_try(0.0)) == (False, True)


def test_one_in_thirty_seconds_may_try() -> None:
    outage = DiskBreaker(30.0)
    outage.failed(100.0)
    assert [now for now in range(100, 200) if outage.may_try(float(now))] == [130, 160, 190]


def test_more_free_space_is_worth_one_attempt_at_once() -> None:
    outage = DiskBreaker(30.0)
    outage.failed(100.0, 5 * MIB)
    assert not outage.may_try(101.0, 9 * MIB - 1)
    assert outage.may_try(102.0, 9 * MIB)
    assert not outage.may_try(103.0, 9 * MIB)
    assert not outage.may_try(104.0, None)
    assert outage.may_try(105.0, 13 * MIB)
    outage.failed(106.0)  # for another reason than room
    assert not outage.may_try(107.0, 1000 * MIB)
