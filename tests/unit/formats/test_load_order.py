"""The pieces of a plan and their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffs.formats import ReadPlan
from hffs.formats.load_order import MOST_PIECES, PlanSegment, name_order
from hffs.ranges import ByteRange

ORDERED = ReadPlan(100, [10, 20, 50], [0, 1, 2])
SHUFFLED = ReadPlan(100, [10, 20, 50, 60], [1, 2, 0, 3])


def test_a_piece_ends_where_the_next_begins_and_the_last_at_the_end() -> None:
    assert [ORDERED.piece_at(at) for at in (-1, 0, 9, 10, 19, 20, 99)] == [-1, -1, -1, 0, 0, 1, 2]
    assert [(ORDERED.start_of(piece), ORDERED.end_of(piece)) for piece in range(-1, 3)] == [
        (0, 10), (10, 20), (20, 50), (50, 100),
    ]  # fmt: skip


def test_a_segment_extends_until_the_order_jumps() -> None:
    assert ORDERED.segment_from(0) == PlanSegment(100, None)
    assert SHUFFLED.segment_from(1) == PlanSegment(60, ByteRange(10, 20))
    assert SHUFFLED.segment_from(0) == PlanSegment(20, ByteRange(60, 100))
    assert SHUFFLED.segment_from(3) == PlanSegment(100, None)


def test_the_first_piece_in_order_follows_the_header() -> None:
    assert ORDERED.segment_from(-1) == PlanSegment(10, ByteRange(10, 100))
    assert SHUFFLED.segment_from(-1) == PlanSegment(10, ByteRange(20, 60))
    assert SHUFFLED.rank_of(-1) == -1


@pytest.mark.parametrize(
    ("starts", "order"),
    [([], []), ([1, 1], [0, 1]), ([2, 1], [0, 1]), ([100], [0]), ([-1], [0]), ([1, 2], [0, 0]), ([1, 2], [0])],
)
def test_an_invalid_plan_raises_value_error(starts: list[int], order: list[int]) -> None:
    with pytest.raises(ValueError, match=r"not a plan|do not ascend"):
        ReadPlan(100, starts, order)


def test_a_plan_has_a_maximum_of_pieces() -> None:
    with pytest.raises(ValueError, match="not a plan"):
        ReadPlan(1 << 30, range(MOST_PIECES + 1), range(MOST_PIECES + 1))


@given(st.data())
def test_following_the_segments_passes_every_byte_once_in_order_of_rank(data: st.DataObject) -> None:
    starts = sorted(data.draw(st.sets(st.integers(0, 999), min_size=1, max_size=40)))
    plan = ReadPlan(1000, starts, data.draw(st.permutations(range(len(starts)))))
    passed, rank = 0, -1
    segment = plan.segment_from(-1)
    while segment.then is not None:
        at = segment.then
        assert plan.rank_of(plan.piece_at(at.start)) == rank + 1
        rank = plan.rank_of(plan.piece_at(at.stop - 1))
        passed += at.length
        segment = plan.segment_from(plan.piece_at(at.start))
        assert segment.stop == at.stop
    assert passed == 1000 - plan.end_of(-1)
    assert rank == len(plan) - 1


def test_names_sort_as_transformers_sorts_them() -> None:
    """Compared by parts between dots; numbers precede words, and trailing numbers compare as numbers."""
    names = [
        "2.weight", "10.weight", "lm_head.weight", "model.layers.2.mlp", "model.layers.2.mlp.bias",
        "model.layers.2.mlp2.bias", "model.layers.2.mlp10.bias", "model.layers.10.mlp", "model.norm",
    ]  # fmt: skip
    backwards = names[::-1]
    assert sorted(backwards, key=name_order) == names


@given(st.lists(st.text(st.sampled_from("0123456789.ab²"), max_size=40)))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    """Including very long numbers and non-ASCII digits."""
    assert sorted(map(name_order, [*names, "9" * 100_000]))
