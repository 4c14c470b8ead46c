"""What read-ahead may cost and what it must give, on simulated readers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hffs.policy import ReadCursors
from hffs.ranges import BLOCK_SIZE, ByteRange, span_of

KIB, MIB, GIB = 1024, 1024**2, 1024**3
REQUEST = 128 * KIB  # what the kernel asks at a time, as it mounts

Read = tuple[int, int]


def requests(start: int, length: int, size: int = REQUEST) -> list[Read]:
    return [(at, min(size, start + length - at)) for at in range(start, start + length, size)]


def interleaved(readers: list[list[Read]], rng: random.Random) -> Iterator[Read]:
    """The readers' requests, each reader's in its order, otherwise as it happens."""
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
    blocks: set[int] = set()
    for offset, length in reads:
        blocks.update(span_of(ByteRange(offset, offset + length)))
        blocks.update(span_of(cursors.observe(offset, length)))
    return len(blocks) * BLOCK_SIZE


sequences = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 64 * MIB), st.sampled_from(["on", "on", "on", "skip", "back"])),
        st.sampled_from([1, 4096, REQUEST, MIB, 5 * MIB]),
    ),
    max_size=120,
)


@given(size=st.sampled_from([0, 1, 300 * KIB, 20 * MIB, 64 * MIB]), sequence=sequences)
@settings(deadline=None)
def test_whatever_is_read_wants_are_whole_blocks_in_the_file_and_bounded_by_what_was_read(
    size: int, sequence: list[tuple[int | str, int]]
) -> None:
    cursors = ReadCursors(size, max_cursors=4)
    at = read = 0
    for where, length in sequence:
        offset = (
            {"on": at, "skip": at + 3 * MIB, "back": max(at - 600 * KIB, 0)}[where] if isinstance(where, str) else where
        )
        at = offset + length
        read += max(min(at, size) - min(offset, size), 0)
        ahead = cursors.observe(offset, length)
        assert ahead.stop <= size
        if ahead.length:
            assert ahead.start >= min(at, size), "the read itself is wanted by its reader"
            assert ahead.start % BLOCK_SIZE == 0
            assert ahead.stop % BLOCK_SIZE == 0 or ahead.stop == size
        assert len(cursors.windows()) <= 4
        for window in cursors.windows():
            assert window.read <= read
            assert 0 <= window.wanted - window.position <= max(8 * MIB, window.read)


@given(
    start=st.integers(0, GIB), size=st.sampled_from([4 * KIB, REQUEST, MIB, 16 * MIB]), limit=st.integers(0, 64 * MIB)
)
@settings(deadline=None, max_examples=30)
def test_one_sequential_reader_wants_each_byte_once_and_never_more_than_the_limit(
    start: int, size: int, limit: int
) -> None:
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


def test_a_sequential_reader_is_never_left_without_a_want_ahead_of_it() -> None:
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
    assert all(w.window >= MIB for w in cursors.windows())


@given(
    header=st.integers(8, 8 * MIB),
    tensor=st.one_of(st.integers(1, 8 * MIB), st.integers(1, 700 * MIB)),
    where=st.floats(0, 1),
)
@example(header=8, tensor=8 * MIB, where=0.5)
@example(header=8 * MIB, tensor=8 * MIB, where=0.0)
@settings(deadline=None, max_examples=60)
def test_a_header_and_one_tensor_cost_at_most_the_header_twice_the_tensor_and_8_mib(
    header: int, tensor: int, where: float
) -> None:
    size = 2 * GIB
    start = header + int(where * (size - header - tensor))
    page = start // 4096 * 4096
    reads = [(0, 8), *requests(8, header - 8)]
    reads += [(page, REQUEST), (page, REQUEST), *requests(page, start + tensor - page)]  # two faults, then in order
    assert traffic(ReadCursors(size), reads) <= header + 2 * tensor + 8 * MIB


@given(seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=30)
def test_requests_that_change_places_stay_one_reader(seed: int) -> None:
    """The kernel hands over one read-ahead's requests in any order: here within four of 128 KiB."""
    rng = random.Random(seed)
    reads = requests(0, 64 * MIB)
    shuffled = [read for at in range(0, len(reads), 4) for read in rng.sample(reads[at : at + 4], 4)]
    cursors = ReadCursors(2 * GIB)
    assert traffic(cursors, shuffled) <= 2 * 64 * MIB
    (only,) = cursors.windows()
    assert only.read >= 60 * MIB
    assert only.window >= 32 * MIB
