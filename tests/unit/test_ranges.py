"""Blocks and bytes: every property by hypothesis, the corners by name."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hffs import ranges
from hffs.ranges import BLOCK_SIZE, ByteRange

sizes = st.integers(0, 40 * BLOCK_SIZE) | st.sampled_from([0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1])
numbers = st.integers(-BLOCK_SIZE, 50 * BLOCK_SIZE)


@given(size=sizes)
def test_blocks_of_a_blob_cover_it_exactly(size: int) -> None:
    lengths = [ranges.block_length(block, size) for block in range(ranges.block_count(size))]
    assert sum(lengths) == size
    assert all(0 < length <= BLOCK_SIZE for length in lengths)


@given(size=sizes, offset=numbers, length=st.integers(0, 50 * BLOCK_SIZE))
@example(size=BLOCK_SIZE, offset=BLOCK_SIZE, length=1)
def test_a_clipped_range_is_what_reading_a_bytes_object_would_give(size: int, offset: int, length: int) -> None:
    asked = ranges.clip(offset, length, size)
    whole = range(size)
    start = max(offset, 0)
    expected = whole[start : max(start, offset + length)]
    assert asked.length == len(expected)
    if expected:
        assert (asked.start, asked.stop) == (expected[0], expected[-1] + 1)


@given(size=sizes.filter(bool), offset=numbers, length=st.integers(1, 9 * BLOCK_SIZE))
def test_a_span_is_the_smallest_run_of_blocks_that_holds_the_range(size: int, offset: int, length: int) -> None:
    asked = ranges.clip(offset, length, size)
    span = ranges.span_of(asked)
    if not asked.length:
        assert not span
        return
    held = ranges.bytes_of(span, size)
    assert held.start <= asked.start
    assert asked.stop <= held.stop <= size
    assert asked.start - held.start < BLOCK_SIZE
    assert held.stop - asked.stop < BLOCK_SIZE


@given(blocks=st.sets(st.integers(0, 200)))
def test_runs_hold_the_same_blocks_and_never_touch(blocks: set[int]) -> None:
    found = ranges.runs(sorted(blocks))
    assert [block for run in found for block in run] == sorted(blocks)
    assert all(before.stop < after.start for before, after in itertools.pairwise(found))


def test_a_range_header_counts_inclusively() -> None:
    assert ByteRange(0, 1).header() == "bytes=0-0"
    assert ByteRange(100, 200).header() == "bytes=100-199"


def test_an_empty_range_has_no_header() -> None:
    with pytest.raises(ValueError, match="empty"):
        ByteRange(5, 5).header()


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3)])
def test_a_range_that_runs_backwards_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="not a byte range"):
        ByteRange(start, stop)
