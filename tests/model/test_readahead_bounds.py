"""Bounds on the cost of read-ahead, and on what it must provide, with simulated readers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hffs.formats import ReadPlan
from hffs.policy import ReadCursors
from hffs.ranges import BLOCK_SIZE, ByteRange, span_of
from tests.support.profile import examples

KIB, MIB, GIB = 1024, 1024**2, 1024**3
REQUEST = 128 * KIB  # what the kernel asks at a time, as it mounts

Read = tuple[int, int]


def requests(start: int, length: int, size: int = REQUEST) -> list[Read]:
    return [(at, min(size, start + length - at)) for at in range(start, start + length, size)]


def interleaved(readers: list[list[Read]], rng: random.Random) -> Iterator[Read]:
    """The readers' requests in a random order that keeps each reader's own."""
    waiting = [iter(reader) for reader in readers]
    while waiting:
        reader = rng.choice(waiting)
        read = next(reader, None)
        if read is None:
            waiting.remove(reader)
        else:
            yield read


def byte_union(reads: Iterable[Read]) -> int:
    total = end = 0
    for start, length in sorted(reads):
        total += max(start + length - max(start, end), 0)
        end = max(end, start + length)
    return total


def traffic(cursors: ReadCursors, reads: Iterable[Read]) -> int:
    """Bytes fetched in all: the blocks read and the blocks wanted ahead, each once."""
    return len({block for read in reads for block in blocks_of(cursors, read)}) * BLOCK_SIZE


def blocks_of(cursors: ReadCursors, read: Read) -> set[int]:
    """The blocks that are read and those wanted ahead."""
    offset, length = read
    return {*span_of(ByteRange(offset, offset + length)), *span_of(cursors.observe(offset, length))}


sequences = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 64 * MIB), st.sampled_from(["on", "on", "on", "skip", "back"])),
        st.sampled_from([1, 4096, REQUEST, MIB, 5 * MIB]),
    ),
    max_size=120,
)


@st.composite
def plans(draw: st.DrawFn, size: int) -> ReadPlan:
    """Any tensors in any order; a plan may be wrong about the file, too."""
    starts = sorted(draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=30)))
    return ReadPlan(size, starts, draw(st.one_of(st.permutations(range(len(starts))), st.just(range(len(starts))))))


@given(data=st.data(), size=st.sampled_from([0, 1, 300 * KIB, 20 * MIB, 64 * MIB]), sequence=sequences)
@settings(deadline=None)
def test_readahead_is_whole_blocks_in_the_file_bounded_by_what_was_read(
    data: st.DataObject, size: int, sequence: list[tuple[int | str, int]]
) -> None:
    cursors = ReadCursors(size, max_cursors=4)
    at = read = 0
    plan = data.draw(st.none() | plans(size)) if size else None
    for number, (where, length) in enumerate(sequence):
        if number == 20:
            cursors.plan = plan
        offset = (
            {"on": at, "skip": at + 3 * MIB, "back": max(at - 600 * KIB, 0)}[where] if isinstance(where, str) else where
        )
        at = offset + length
        read += max(min(at, size) - min(offset, size), 0)
        ahead = cursors.observe(offset, length)
        assert ahead.stop <= size
        assert ahead.length <= max(8 * MIB, read)
        if ahead.length:
            assert ahead.start >= min(at, size) or cursors.plan, "the read itself is wanted by its reader"
            assert ahead.start % BLOCK_SIZE == 0
            assert ahead.stop % BLOCK_SIZE == 0 or ahead.stop == size
        assert len(cursors.windows()) <= 4
        for window in cursors.windows():
            assert window.read <= read
            assert 0 <= window.wanted - window.position <= max(8 * MIB, window.read)


def plan_of(header: int, *tensors: int, order: Iterable[int] | None = None) -> ReadPlan:
    starts = [header + sum(tensors[:number]) for number in range(len(tensors))]
    return ReadPlan(header + sum(tensors), starts, list(range(len(tensors)) if order is None else order))


@given(
    order=st.permutations(range(24)) | st.just(list(range(24))),
    taken=st.permutations(range(24)) | st.none(),
    threads=st.integers(1, 6),
    seed=st.integers(0, 2**16),
    weight=st.sampled_from([300 * KIB, 3 * MIB, 20 * MIB]),
)
@settings(deadline=None, max_examples=examples(60))
def test_loading_tensors_in_any_order_wants_at_most_three_times_the_reads(
    order: list[int], taken: list[int] | None, threads: int, seed: int, weight: int
) -> None:
    """And no more than what was read and 8 MiB ahead of each reader at any time; by any number of threads."""
    plan = plan_of(100_000, *[weight] * 24, order=order)
    cursors = ReadCursors(plan.size)
    cursors.plan = plan
    rng = random.Random(seed)
    waiting = list(taken or order)
    readers: list[Iterator[Read]] = []
    read = wanted = 0
    while waiting or readers:
        if waiting and len(readers) < threads:
            piece = waiting.pop(0)
            page = plan.start_of(piece) // 4096 * 4096
            readers.append(iter(requests(page, plan.end_of(piece) - page, MIB)))
        reader = rng.choice(readers)
        request = next(reader, None)
        if request is None:
            readers.remove(reader)
            continue
        read += request[1]
        ahead = cursors.observe(*request)
        wanted += ahead.length
        assert ahead.stop <= plan.size
        assert ahead.length <= max(8 * MIB, read)
    assert wanted <= 3 * read


@given(
    start=st.integers(0, GIB), size=st.sampled_from([4 * KIB, REQUEST, MIB, 16 * MIB]), limit=st.integers(0, 64 * MIB)
)
@settings(deadline=None, max_examples=examples(30))
def test_a_sequential_reader_wants_each_byte_once_within_the_limit(start: int, size: int, limit: int) -> None:
    cursors = ReadCursors(2 * GIB)
    wanted = start
    for offset, length in requests(start, min(64 * MIB, 2000 * size), size):
        ahead = cursors.observe(offset, length, window_limit=limit)
        if ahead.length:
            assert ahead.start >= wanted
            assert ahead.stop - (offset + length) <= limit
            wanted = ahead.stop


@pytest.mark.parametrize("request_size", [REQUEST, MIB])
@pytest.mark.parametrize("processes", [1, 8])
@pytest.mark.parametrize("seed", range(5))
def test_random_reads_of_4_mib_cost_at_most_1_35_times_their_bytes(
    request_size: int, processes: int, seed: int
) -> None:
    rng = random.Random(seed)
    readers = [
        [read for _ in range(240 // processes) for read in requests(rng.randrange(2044 * MIB), 4 * MIB, request_size)]
        for _ in range(processes)
    ]
    reads = list(interleaved(readers, rng))
    assert traffic(ReadCursors(2 * GIB), reads) <= 1.35 * byte_union(reads)


@pytest.mark.parametrize("seed", range(5))
def test_random_reads_of_4_mib_cost_no_more_with_a_plan(seed: int) -> None:
    """Slices out of the middle of tensors; where one begins with its tensor it is taken for the whole of it."""
    rng = random.Random(seed)
    plan = plan_of(100_000, *[64 * MIB] * 31)
    readers = [
        [read for _ in range(30) for read in requests(rng.randrange(plan.size - 4 * MIB), 4 * MIB)] for _ in range(8)
    ]
    reads = list(interleaved(readers, rng))
    cursors = ReadCursors(plan.size)
    cursors.plan = plan
    assert traffic(cursors, reads) <= 1.35 * byte_union(reads)


@given(offsets=st.lists(st.integers(0, 2 * GIB // 4096 - 1).map(lambda page: page * 4096), unique=True, max_size=300))
@example(offsets=[0, 4096, 2 * 4096])
def test_random_reads_of_one_page_cost_their_block(offsets: list[int]) -> None:
    reads = [(offset, 4096) for offset in offsets]
    assert traffic(ReadCursors(2 * GIB), reads) == len({offset // BLOCK_SIZE for offset in offsets}) * BLOCK_SIZE


def test_a_sequential_reader_has_a_window_of_64_mib_after_128_mib() -> None:
    cursors = ReadCursors(2 * GIB)
    pieces = [cursors.observe(*read).length for read in requests(0, 128 * MIB)]
    assert cursors.windows()[0].window >= 64 * MIB
    assert sum(1 for piece in pieces if piece) <= 40, "wants come in pieces, not one for each request"


def test_a_sequential_reader_always_has_half_a_window_ahead() -> None:
    cursors = ReadCursors(2 * GIB)
    for number, read in enumerate(requests(0, 256 * MIB)):
        cursors.observe(*read)
        window = cursors.windows()[0]
        if number >= 8:
            assert window.wanted - window.position >= window.window // 2 - BLOCK_SIZE


@pytest.mark.parametrize("spacing", [128 * MIB, 25 * MIB])
@pytest.mark.parametrize("seed", range(3))
def test_sixteen_interleaved_streams_each_keep_their_window(spacing: int, seed: int) -> None:
    cursors = ReadCursors(2 * GIB)
    streams = [requests(number * spacing, 24 * MIB, MIB) for number in range(16)]
    for read in interleaved(streams, random.Random(seed)):
        cursors.observe(*read)
    assert sorted(w.position for w in cursors.windows()) == [number * spacing + 24 * MIB for number in range(16)]
    assert all(w.window >= 16 * MIB for w in cursors.windows())


def test_sixteen_threads_that_share_out_100_mib_each_keep_their_window() -> None:
    """Closer together than a skip: the next thread's first read looks like the last one's skip."""
    part = 6 * MIB + 256 * KIB
    cursors = ReadCursors(2 * GIB)
    for nth in range(part // REQUEST):
        for thread in range(16):
            cursors.observe(thread * part + nth * REQUEST, REQUEST)
    assert sorted(w.position for w in cursors.windows()) == [(thread + 1) * part for thread in range(16)]
    assert all(w.window >= MIB // 2 for w in cursors.windows())


tensor_sizes = st.one_of(st.integers(1, 8 * MIB), st.integers(1, 700 * MIB))


@given(header=st.integers(8, 8 * MIB), tensor=tensor_sizes, where=st.floats(0, 1))
@example(header=8, tensor=8 * MIB, where=0.5)
@example(header=8 * MIB, tensor=8 * MIB, where=0.0)
@settings(deadline=None, max_examples=examples(60))
def test_without_a_plan_one_tensor_costs_at_most_twice_its_size_and_8_mib(
    header: int, tensor: int, where: float
) -> None:
    size = 2 * GIB
    start = header + int(where * (size - header - tensor))
    page = start // 4096 * 4096
    reads = [(0, 8), *requests(8, header - 8)]
    reads += [(page, REQUEST), (page, REQUEST), *requests(page, start + tensor - page)]  # two faults, then in order
    assert traffic(ReadCursors(size), reads) <= header + 2 * tensor + 8 * MIB


@given(
    header=st.integers(8, 8 * MIB),
    tensor=tensor_sizes,
    where=st.floats(0, 1),
    around=st.sampled_from([0, 512 * KIB, MIB]),
    overshot=st.sampled_from([0, MIB, 4 * MIB]),
    step=st.sampled_from([REQUEST, MIB]),
)
@example(header=8 * MIB, tensor=8 * MIB, where=0.0, around=0, overshot=4 * MIB, step=MIB)
@example(header=8, tensor=6 * MIB, where=0.0, around=0, overshot=4 * MIB, step=MIB)
@example(header=2000, tensor=1, where=0.5, around=MIB, overshot=4 * MIB, step=REQUEST)
@settings(deadline=None, max_examples=examples(200))
def test_with_a_plan_one_tensor_costs_at_most_a_fifth_more_and_8_mib(
    header: int, tensor: int, where: float, around: int, overshot: int, step: int
) -> None:
    """As safetensors reads: the header by one handle, the tensor by another. The kernel adds to both what is near."""
    size = 2 * GIB
    start = header + int(where * (size - header - tensor))
    starts = sorted({header, start, start + tensor} - {size})
    plan = ReadPlan(size, starts, range(len(starts)))
    opened = ReadCursors(size)
    blocks = {block for read in requests(0, header, step) for block in blocks_of(opened, read)}
    mapped = ReadCursors(size)
    mapped.plan = plan
    page = max(start // 4096 * 4096 - around, -(-header // 4096) * 4096)  # the header's pages are not asked for again
    # Its own read-ahead goes on where three quarters of the first window were used, which is half a MiB of the tensor.
    stop = start + tensor + (overshot if tensor > 512 * KIB else MIB)
    for read in requests(page, min(stop, size) - page, step):
        blocks.update(blocks_of(mapped, read))
    assert len(blocks) * BLOCK_SIZE <= header + 1.2 * tensor + 8 * MIB


@given(seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=examples(30))
def test_reordered_requests_stay_one_reader(seed: int) -> None:
    """The kernel hands over one read-ahead's requests in any order: here within four of 128 KiB."""
    rng = random.Random(seed)
    reads = requests(0, 64 * MIB)
    shuffled = [read for at in range(0, len(reads), 4) for read in rng.sample(reads[at : at + 4], 4)]
    cursors = ReadCursors(2 * GIB)
    assert traffic(cursors, shuffled) <= 2 * 64 * MIB
    (only,) = cursors.windows()
    assert only.read >= 60 * MIB
    assert only.window >= 32 * MIB
