"""A window that ends with its tensor, and one that goes on in load order."""

from __future__ import annotations

from collections.abc import Sequence

from hffs.formats import ReadPlan
from hffs.policy import ReadCursors
from hffs.ranges import BLOCK_SIZE, ByteRange

KIB, MIB = 1024, 1024**2
HEADER = 100 * KIB + 8
TENSOR = 64 * MIB


def plan_of(tensors: int = 20, weight: int = TENSOR, order: Sequence[int] | None = None) -> ReadPlan:
    """Tensors of one weight, loaded as they lie if no order is given."""
    starts = [HEADER + n * weight for n in range(tensors)]
    return ReadPlan(HEADER + tensors * weight, starts, range(tensors) if order is None else order)


def cursors_of(plan: ReadPlan) -> ReadCursors:
    cursors = ReadCursors(plan.size)
    cursors.plan = plan
    return cursors


def read_on(cursors: ReadCursors, start: int, stop: int, step: int = MIB) -> list[ByteRange]:
    """Read in order; what is wanted ahead."""
    wanted = [cursors.observe(at, min(step, stop - at)) for at in range(start, stop, step)]
    return [ahead for ahead in wanted if ahead.length]


def up(position: int) -> int:
    return -(-position // BLOCK_SIZE) * BLOCK_SIZE


def load(cursors: ReadCursors, plan: ReadPlan, piece: int, overshot: int = 2 * MIB) -> list[ByteRange]:
    """One tensor by page faults: from a little before it to a little behind it, as the kernel reads."""
    start = max(plan.start_of(piece) // 4096 * 4096 - MIB, 4096)
    return read_on(cursors, start, min(plan.end_of(piece) + overshot, plan.size))


def test_a_window_ends_with_the_tensor_that_its_reader_began_in() -> None:
    plan = plan_of()
    cursors = cursors_of(plan)
    wanted = load(cursors, plan, 7)
    assert max(ahead.stop for ahead in wanted) == up(plan.end_of(7))
    assert sum(ahead.length for ahead in wanted) <= TENSOR


def test_it_does_so_for_a_reader_that_knows_where_the_tensor_begins() -> None:
    plan = plan_of()
    cursors = cursors_of(plan)
    wanted = read_on(cursors, plan.start_of(7) // 4096 * 4096, plan.end_of(7) + 4 * MIB)
    assert max(ahead.stop for ahead in wanted) == up(plan.end_of(7))


def test_who_reads_on_through_the_end_of_a_tensor_gets_a_full_window_again() -> None:
    plan = plan_of()
    cursors = cursors_of(plan)
    start = plan.start_of(7) + 5 * MIB
    read_on(cursors, start, plan.end_of(7) + 4 * MIB)
    assert cursors.windows()[0].wanted <= up(plan.end_of(7) + 4 * MIB)
    wanted = read_on(cursors, start + (plan.end_of(7) + 4 * MIB - start) // MIB * MIB + MIB, plan.end_of(7) + 8 * MIB)
    assert wanted[-1].stop - plan.end_of(7) >= 32 * MIB
    assert wanted[-1].stop > plan.end_of(8) - 24 * MIB


def test_a_request_that_overtakes_another_at_a_tensors_end_opens_no_window_on_the_next() -> None:
    """Two threads take the kernel's requests, of 1 MiB each: the later one may be first, twice in a row."""
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


def test_who_begins_at_the_files_first_byte_reads_it_front_to_back() -> None:
    plan = plan_of()
    with_plan, without = cursors_of(plan), ReadCursors(plan.size)
    assert read_on(with_plan, 0, 300 * MIB) == read_on(without, 0, 300 * MIB)


def test_a_reader_that_began_at_a_tensor_and_reads_on_has_no_trial() -> None:
    plan = plan_of()
    cursors = cursors_of(plan)
    start = plan.start_of(7) // 4096 * 4096
    assert cursors.observe(start, MIB).length <= MIB
    cursors.observe(start + MIB, MIB)
    assert cursors.windows()[0].window == 4 * MIB
    read_on(cursors, start + 2 * MIB, start + 5 * MIB)
    assert cursors.windows()[0].window == 8 * MIB


def test_one_that_began_inside_a_tensor_has() -> None:
    plan = plan_of()
    with_plan, without = cursors_of(plan), ReadCursors(plan.size)
    start = plan.start_of(7) + 10 * MIB
    assert read_on(with_plan, start, start + 12 * MIB) == read_on(without, start, start + 12 * MIB)


def test_a_touch_of_a_tensors_first_page_wants_no_more_than_without_a_plan() -> None:
    """What from_pretrained does where nothing is converted: the kernel brings 2 MiB, computing reads the rest."""
    plan = plan_of()
    around = plan.start_of(7) // 4096 * 4096 - MIB
    for step in (128 * KIB, MIB):
        wanted = read_on(cursors_of(plan), around, around + 2 * MIB, step)
        without = read_on(ReadCursors(plan.size), around, around + 2 * MIB, step)
        assert wanted[-1].stop == without[-1].stop
        assert wanted[-1].stop <= around + 3 * MIB


def test_a_skip_from_the_end_of_one_tensor_to_another_was_no_mistake() -> None:
    plan = plan_of(weight=12 * MIB)
    cursors = cursors_of(plan)
    read_on(cursors, plan.start_of(3) // 4096 * 4096, plan.end_of(3))
    before = cursors.windows()[0].window
    cursors.observe(plan.start_of(5) // 4096 * 4096, MIB)
    assert cursors.windows()[0].window == before
    wanted = read_on(cursors, plan.start_of(5) // 4096 * 4096 + MIB, plan.end_of(5))
    assert max(ahead.stop for ahead in wanted) == up(plan.end_of(5))


def test_a_plan_that_comes_late_holds_for_readers_under_way() -> None:
    plan = plan_of()
    cursors = ReadCursors(plan.size)
    middle = plan.start_of(7) // 4096 * 4096 + 16 * MIB
    read_on(cursors, plan.start_of(7) // 4096 * 4096, middle)
    cursors.plan = plan
    wanted = read_on(cursors, middle, plan.end_of(7))
    assert max(ahead.stop for ahead in wanted) == up(plan.end_of(7))


# the order in which tensors are loaded


def beyond(wanted: list[ByteRange], plan: ReadPlan, piece: int) -> int:
    """Bytes wanted outside of a tensor and its neighbourhood."""
    return sum(ahead.length for ahead in wanted if not plan.start_of(piece) <= ahead.start < up(plan.end_of(piece)))


def jumps(count: int) -> ReadPlan:
    """No tensor lies next to the one before it in order."""
    return plan_of(count, order=[piece for first in range(3) for piece in range(first, count, 3)])


def test_a_jump_that_was_foreseen_keeps_the_window() -> None:
    plan = jumps(30)
    cursors = cursors_of(plan)
    order = sorted(range(30), key=plan.rank_of)
    for piece in order[:5]:  # four jumps in order, and the first reader
        wanted = load(cursors, plan, piece)
        if piece != order[4]:
            assert beyond(wanted, plan, piece) == 0, "not enough was seen"
    following = order[5]
    ahead = [want for want in wanted if plan.start_of(following) - BLOCK_SIZE <= want.start < plan.end_of(following)]
    assert sum(want.length for want in ahead) == beyond(wanted, plan, order[4])
    assert sum(want.length for want in ahead) >= 32 * MIB
    window = cursors.windows()[0]
    load(cursors, plan, following)
    assert cursors.windows()[0].window >= window.window
    assert cursors.windows()[0].read > window.read


def test_a_jump_out_of_order_ends_the_trust() -> None:
    plan = jumps(30)
    cursors = cursors_of(plan)
    order = sorted(range(30), key=plan.rank_of)
    for piece in order[:6]:
        load(cursors, plan, piece)
    load(cursors, plan, order[20])
    assert beyond(load(cursors, plan, order[12]), plan, order[12]) == 0


def test_four_threads_that_take_tensors_in_turn_are_in_order() -> None:
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
    assert 12 in ranks, "the one after the last four"
    assert max(ranks) == 12


def test_a_window_in_order_goes_through_neighbours_that_follow_and_then_jumps() -> None:
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


def test_tensors_at_random_prove_no_order() -> None:
    plan = jumps(60)
    cursors = cursors_of(plan)
    for number in (40, 3, 17, 55, 9, 31, 22, 48, 12, 59, 1, 36):
        assert beyond(load(cursors, plan, number), plan, number) == 0
