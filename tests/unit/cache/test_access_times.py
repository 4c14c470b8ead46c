"""Access times: fine in this process, coarse for others; repeated use only after a while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hffs.cache.store.access_times import AGAIN_AFTER_S, AccessTimes
from hffs.cache.store.state_file import StateFile
from hffs.model import Blob
from hffs.ranges import BLOCK_SIZE
from tests.support.clock import Clock

BEGAN = 1_700_000_000.0


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    made = StateFile.create(str(tmp_path / "x.state"), Blob("e", 130 * BLOCK_SIZE, "https://hub"), "boot")
    yield made
    made.close()


@pytest.fixture
def uses(state: StateFile, clock: Clock) -> AccessTimes:
    return AccessTimes(state, clock)


def test_unused_blocks_have_no_access_time(uses: AccessTimes) -> None:
    assert uses.last(0) == (0, False)


def test_a_use_counts_for_all_its_groups_with_fractions_of_a_second(uses: AccessTimes, state: StateFile, clock) -> None:
    clock.now += 0.25
    uses.record(range(60, 130), read=True)
    assert [uses.last(group) for group in range(3)] == [(BEGAN + 0.25, False)] * 3
    assert state.last_uses() == [1_700_000_000] * 3


def test_repeated_requests_within_two_seconds_are_one_use(uses: AccessTimes, clock: Clock) -> None:
    uses.record(range(4), read=False)
    for _ in range(4):
        uses.record(range(4), read=True)
        clock.now += AGAIN_AFTER_S / 5
    assert not uses.last(0)[1]


def test_a_slow_sequential_reader_uses_no_block_repeatedly(uses: AccessTimes, clock: Clock) -> None:
    uses.record(range(64), read=False)
    for block in range(64):
        clock.now += 10
        uses.record(range(block, block + 1), read=True)
    assert not uses.last(0)[1]


def test_a_block_read_again_later_counts_as_used_repeatedly(uses: AccessTimes, state: StateFile, clock: Clock) -> None:
    uses.record(range(4), read=False)
    uses.record(range(4), read=True)
    clock.now += AGAIN_AFTER_S
    uses.record(range(3, 4), read=True)
    assert uses.last(0) == (BEGAN + AGAIN_AFTER_S, True)
    assert state.last_use(0) == (1_700_000_002, True), "at once, for others"


def test_a_read_after_a_later_open_counts_as_repeated_use(uses: AccessTimes, state: StateFile, clock: Clock) -> None:
    uses.record(range(4), read=False)
    clock.now += AGAIN_AFTER_S
    later = AccessTimes(state, clock)
    later.record(range(1), read=True)
    assert later.last(0)[1]
    assert uses.last(0)[1], "also for a store that has it open still"


def test_republished_blocks_do_not_count_as_used_repeatedly(uses: AccessTimes, state: StateFile, clock: Clock) -> None:
    uses.record(range(4), read=True)
    clock.now += AGAIN_AFTER_S
    uses.record(range(4), read=True)
    uses.forget([0, 1])
    assert uses.last(0)[1], "a part of it is here"
    uses.forget([2, 3])
    uses.record(range(4), read=False)
    assert not uses.last(0)[1]
    clock.now += AGAIN_AFTER_S
    uses.record(range(4), read=True)
    assert not uses.last(0)[1]
