"""The order in which blocks of a full cache are evicted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffs.policy.eviction import Segment, bytes_over, choose, granularity, window
from hffs.policy.eviction import order as parted
from hffs.ranges import BLOCK_SIZE

MIB = 1 << 20
WHOLE = 64 * BLOCK_SIZE

segments = st.lists(
    st.builds(
        Segment,
        blob=st.sampled_from("abc"),
        group=st.integers(0, 40),
        held=st.integers(0, 64).map(lambda blocks: blocks * BLOCK_SIZE),
        used=st.integers(0, 9).map(float),
        again=st.booleans(),
    ),
    max_size=40,
    unique_by=lambda each: (each.blob, each.group),
)


def order(found: Iterable[Segment]) -> list[Segment]:
    loose, protected = parted(found)
    return [*loose, *protected]


def once(group: int, used: float) -> Segment:
    return Segment("scanned", group, WHOLE, used)


def hot(group: int, used: float) -> Segment:
    return Segment("hot", group, WHOLE, used, again=True)


def test_the_least_recently_used_segment_comes_first() -> None:
    assert [each.group for each in order([once(1, 5.25), once(2, 5.0), once(3, 4.9), once(4, 5.5)])] == [3, 2, 1, 4]


def test_of_equals_the_earlier_part_of_a_file_comes_first() -> None:
    assert [each.group for each in order([once(2, 5), once(0, 5), once(1, 5)])] == [0, 1, 2]


def test_segments_used_once_precede_those_used_again_long_ago() -> None:
    assert order([hot(0, 1.0), *(once(n, 100.0 + n) for n in range(3))])[-1] == hot(0, 1.0)


def test_protection_ends_beyond_three_quarters_of_the_cache() -> None:
    """Segments used again are protected up to three quarters of the bytes: of four, the three last used."""
    assert order([hot(n, float(n)) for n in range(4)])[0] == hot(0, 0.0)
    assert order([*(hot(n, float(n)) for n in range(1, 9)), once(0, 0.5)])[:3] == [
        once(0, 0.5),
        hot(1, 1.0),
        hot(2, 2.0),
    ]


@given(limit=st.integers(4, 40), length=st.integers(1, 200), share=st.integers(1, 100))
def test_a_hot_set_survives_a_scan_of_any_length(limit: int, length: int, share: int) -> None:
    """A cache of ``limit`` segments, a hot set in up to three quarters of it, and a scan that evicts each time."""
    hot_set = [hot(n, float(n)) for n in range(max(1, limit * 3 // 4 * share // 100))]
    held = list(hot_set)
    for n in range(length):
        if len(held) == limit:
            (victim,) = choose(order(held), WHOLE)
            held.remove(victim)
        held.append(once(n, 1000.0 + n))
    assert set(hot_set) <= set(held)


@given(segments, st.integers(0, 3000 * BLOCK_SIZE))
def test_choose_returns_enough_segments_and_at_most_one_in_excess(found: list[Segment], needed: int) -> None:
    ordered = order(found)
    assert sorted(ordered, key=repr) == sorted((each for each in found if each.held), key=repr), "each occurs once"
    chosen = choose(ordered, needed)
    assert chosen == ordered[: len(chosen)]
    total = sum(each.held for each in chosen)
    assert total >= needed or chosen == ordered
    assert total - needed < WHOLE or not chosen
    if chosen:
        assert total - chosen[-1].held < needed, "the last segment is needed"


@given(segments)
def test_a_use_never_moves_a_segment_forward(found: list[Segment]) -> None:
    for number, each in enumerate(order(found)):
        used = [replace(other, used=10.0) if other == each else other for other in found]
        places = [(other.blob, other.group) for other in order(used)]
        assert places.index((each.blob, each.group)) >= number


@pytest.mark.parametrize(
    ("over", "limit", "freed"),
    [(0, 100 * MIB, 0), (-5, 100 * MIB, 0), (1, 100 * MIB, 5 * MIB + 1), (MIB, 1 << 40, 257 * MIB), (7, 0, 7)],
)
def test_a_twentieth_of_the_limit_is_freed_on_top_up_to_256_mib(over: int, limit: int, freed: int) -> None:
    assert bytes_over(over, limit) == freed


@pytest.mark.parametrize(
    ("budget", "reserved"),
    [
        (None, 16 * MIB),
        (1 << 40, 16 * MIB),
        (512 * MIB, 8 * MIB),
        (128 * MIB, 2 * MIB),
        (24 * MIB, BLOCK_SIZE),
        (0, BLOCK_SIZE),
    ],
)
def test_reservations_shrink_with_the_cache(budget: int | None, reserved: int) -> None:
    assert granularity(budget, BLOCK_SIZE) == reserved


def test_read_ahead_windows_share_a_quarter_of_the_cache() -> None:
    assert window(None, 3) is None
    assert window(512 * MIB, 0) == window(512 * MIB, 1) == 128 * MIB
    assert window(512 * MIB, 4) == 32 * MIB
    assert window(512 * MIB, 1000) == window(0, 1) == 8 * MIB
