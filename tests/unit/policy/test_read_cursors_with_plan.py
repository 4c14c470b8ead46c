"""Windows that end with a tensor, and windows that continue in load order."""

from __future__ import annotations

from collections.abc import Sequence

from hffs.formats import ReadPlan
from hffs.policy import ReadCursors
from hffs.ranges import BLOCK_SIZE, ByteRange

KIB, MIB = 1024, 1024**2
HEADER = 100 * KIB + 8
TENSOR = 64 * MIB


def plan_of(tensors: int = 20, weight: int = TENSOR, order: Sequence[int] | None = None) -> ReadPlan:
    """Tensors of equal size, loaded in file order by default."""
    starts = [HEADER + n * weight for n in range(tensors)]
    return ReadPlan(HEADER + tensors * weight, starts, range(tensors) if order is None else order)


def cursors_of(plan: ReadPlan) -> ReadCursors:
    cursors = ReadCursors(plan.size)
    cursors.plan = plan
    return cursors


def read_on(cursors: ReadCursors, start: int, stop: int, step: int = MIB) -> list[ByteRange]:
    """Reads in order and returns the ranges wanted ahead."""
    wanted = [cursors.observe(at, min(step, stop - at)) for at in range(start, stop, step)]
    return [ahead for ahead in wanted if ahead.length]


def up(position: int) -> int:
    return -(-position // BLOCK_SIZE) * BLOCK_SIZE


def load(cursors: ReadCursors, plan: ReadPlan, piece: int, overshot: int = 2 * MIB) -> list[ByteRange]:
    """Reads a tensor by page faults: from a little before it to a little past it, as the kernel does."""
    start = max(plan.start_of(piece) // 4096 * 4096 - MIB, 4096)
    return read_on(cursors, start, min(plan.end_of(piece) + overshot, plan.size))


def test_a_window_ends_with_the_tensor_its_reader_began_in() -> None:
    plan = plan_of()
    cursors = cursors_of(plan)
    wanted = load(cursors, plan, 7)
    assert max(ahead.stop for ahead in wanted) == up(plan.end_of(7))
    assert sum(ahead.length for ahead in wanted) <= TENSOR


def test_a_window_of_a_reader_that_begins_at_a_tensor_ends_with_it() -> None:
    plan = plan_of()
    cursors = cursors_of(plan)
    wanted = read_on(cursors, plan.start_of(7) // 4096 * 4096, plan.end_of(7) + 4 * MIB)
    assert max(ahead.stop for ahead in wanted) == up(plan.end_of(7))


def test_reading_on_past_the_end_of_a_tensor_restores_the_full_window() -> None:
    plan = plan_of()
    cursors = cursors_of(plan)
    start = plan.start_of(7) + 5 * MIB
    read_on(cursors, start, plan.end_of(7) + 4 * MIB)
    assert cursors.windows()[0].wanted <= up(plan.end_of(7) + 4 * MIB)
    wanted = read_on(cursors, start + (plan.end_of(7) + 4 * MIB - start) // MIB * MIB + MIB, plan.end_of(7) + 8 * MIB)
    assert wanted[-1].stop - plan.end_of(7) >= 32 * MIB
    assert wanted[-1].stop > plan.end_of(8) - 24 * MIB


def test_a_reordered_request_at_a_tensors_end_opens_no_window_on_the_next() -> None:
    """Two threads take the kernel's requests of 1 MiB each: the later may arrive first, twice in a row."""
    plan = plan_of()
    for late in (1, 2, 3):
        for last in range(4):
            cursors = cursors_of(plan)
            start = plan.start_of(7) // 4096 * 4096
            end = start + TENSOR - last * MIB
            read_on(cursors, start, end)
            wanted = [cursors.observe(end + late * MIB, MIB)]
            wanted += read_on(cursors, end, end + late * MIB)
            wanted += read_on(cursors, end + (late + 1) * MIB, plan.end_of(7) + 4 * MIB)
            beyond = max((ahead.stop for ahead in wanted if ahead.length), default=0)
            assert beyond <= up(plan.end_of(7)), (late, last)


def test_a_reader_that_begins_at_the_first_byte_gets_windows_across_tensors() -> None:
    plan = plan_of()
    with_plan, without = cursors_of(plan), ReadCursors(plan.size)
    assert read_on(with_plan, 0, 300 * MIB) == read_on(without, 0, 300 * MIB)


def test_a_reader_that_begins_at_a_tensor_and_continues_has_no_trial() -> None:
    plan = plan_of()
    cursors = cursors_of(plan)
    start = plan.start_of(7) // 4096 * 4096
    assert cursors.observe(start, MIB).length <= MIB
    cursors.observe(start + MIB, MIB)
    assert cursors.windows()[0].window == 4 * MIB
    read_on(cursors, start + 2 * MIB, start + 5 * MIB)
    assert cursors.windows()[0].window == 8 * MIB


def test_a_reader_that_begins_inside_a_tensor_has_a_trial() -> None:
    plan = plan_of()
    with_plan, without = cursors_of(plan), ReadCursors(plan.size)
    start = plan.start_of(7) + 10 * MIB
    assert read_on(with_plan, start, start + 12 * MIB) == read_on(without, start, start + 12 * MIB)


def test_a_page_fault_at_a_tensors_start_wants_no_more_than_without_a_plan() -> None:
    """from_pretrained without conversion: the kernel reads 2 MiB, the computation reads the rest."""
    plan = plan_of()
    around = plan.start_of(7) // 4096 * 4096 - MIB
    for step in (128 * KIB, MIB):
        wanted = read_on(cursors_of(plan), around, around + 2 * MIB, step)
        without = read_on(ReadCursors(plan.size), around, around + 2 * MIB, step)
        assert wanted[-1].stop == without[-1].stop
        assert wanted[-1].stop <= around + 3 * MIB


def test_a_skip_from_the_end_of_a_tensor_is_no_misprediction() -> None:
    plan = plan_of(weight=12 * MIB)
    cursors = cursors_of(plan)
    read_on(cursors, plan.start_of(3) // 4096 * 4096, plan.end_of(3))
    before = cursors.windows()[0].window
    cursors.observe(plan.start_of(5) // 4096 * 4096, MIB)
    assert cursors.windows()[0].window == before
    wanted = read_on(cursors, plan.start_of(5) // 4096 * 4096 + MIB, plan.end_of(5))
    assert max(ahead.stop for ahead in wanted) == up(plan.end_of(5))


def test_a_plan_set_later_applies_to_existing_cursors() -> None:
    plan = plan_of()
    cursors = ReadCursors(plan.size)
    middle = plan.start_of(7) // 4096 * 4096 + 16 * MIB
    read_on(cursors, plan.start_of(7) // 4096 * 4096, middle)
    cursors.plan = plan
    wanted = read_on(cursors, middle, plan.end_of(7))
    assert max(ahead.stop for ahead in wanted) == up(plan.end_of(7))


# load order


def beyond(wanted: list[ByteRange], plan: ReadPlan, piece: int) -> int:
    """Returns the bytes wanted outside of a tensor."""
    return sum(ahead.length for ahead in wanted if not plan.start_of(piece) <= ahead.start < up(plan.end_of(piece)))


def jumps(count: int) -> ReadPlan:
    """A plan in which no tensor is adjacent to its predecessor in load order."""
    return plan_of(count, order=[piece for first in range(3) for piece in range(first, count, 3)])


def test_a_predicted_jump_keeps_the_window() -> None:
    plan = jumps(30)
    cursors = cursors_of(plan)
    order = sorted(range(30), key=plan.rank_of)
    for piece in order[:5]:  # four jumps in order, and the first reader
        wanted = load(cursors, plan, piece)
        if piece != order[4]:
            assert beyond(wanted, plan, piece) == 0, "not enough evidence"
    following = order[5]
    ahead = [want for want in wanted if plan.start_of(following) - BLOCK_SIZE <= want.start < plan.end_of(following)]
    assert sum(want.length for want in ahead) == beyond(wanted, plan, order[4])
    assert sum(want.length for want in ahead) >= 32 * MIB
    window = cursors.windows()[0]
    load(cursors, plan, following)
    assert cursors.windows()[0].window >= window.window
    assert cursors.windows()[0].read > window.read


def test_a_jump_out_of_order_stops_following_the_order() -> None:
    plan = jumps(30)
    cursors = cursors_of(plan)
    order = sorted(range(30), key=plan.rank_of)
    for piece in order[:6]:
        load(cursors, plan, piece)
    load(cursors, plan, order[20])
    assert beyond(load(cursors, plan, order[12]), plan, order[12]) == 0


def test_four_threads_that_take_turns_count_as_in_order() -> None:
    plan = jumps(60)
    cursors = cursors_of(plan)
    order = sorted(range(60), key=plan.rank_of)
    wanted = [
        cursors.observe(plan.start_of(piece) // 4096 * 4096 + at * MIB, MIB)
        for first in range(0, 12, 4)
        for at in range(-1, 66)
        for piece in order[first : first + 4]
        if first or piece or at > 0
    ]
    ranks = {plan.rank_of(plan.piece_at((want.start + want.stop) // 2)) for want in wanted if want.length}
    assert 12 in ranks, "the tensor after the last four"
    assert max(ranks) == 12


def test_a_window_in_load_order_passes_adjacent_tensors_and_then_jumps() -> None:
    pairs = [0, 4, 8, 12, 16, 2, 6, 10, 14, 18]
    plan = plan_of(20, 8 * MIB, [piece for pair in pairs for piece in (pair, pair + 1)])
    cursors = cursors_of(plan)
    for pair in pairs[1:6]:
        read_on(cursors, plan.start_of(pair) // 4096 * 4096, plan.end_of(pair + 1))
    wanted = read_on(cursors, plan.start_of(6) // 4096 * 4096, plan.end_of(6) - MIB)
    within = [want for want in wanted if want.start < up(plan.end_of(7))]
    assert within[-1].stop == up(plan.end_of(7))
    after = [want for want in wanted if want.start >= up(plan.end_of(7))]
    assert after[0].start == plan.start_of(10) // BLOCK_SIZE * BLOCK_SIZE
    assert after[-1].stop <= up(plan.end_of(11))


def test_tensors_read_at_random_are_not_followed() -> None:
    plan = jumps(60)
    cursors = cursors_of(plan)
    for number in (40, 3, 17, 55, 9, 31, 22, 48, 12, 59, 1, 36):
        assert beyond(load(cursors, plan, number), plan, number) == 0
