from __future__ import annotations

import pytest

from hffs.policy import ReadCursors
from hffs.ranges import BLOCK_SIZE

KIB, MIB, GIB = 1024, 1024**2, 1024**3
REQUEST = 128 * KIB


def read_on(cursors: ReadCursors, start: int, length: int, step: int = REQUEST) -> int:
    """Reads in order and returns the bytes wanted ahead."""
    return sum(cursors.observe(at, min(step, start + length - at)).length for at in range(start, start + length, step))


def test_a_first_read_wants_nothing_ahead_even_at_the_start_of_a_file() -> None:
    cursors = ReadCursors(GIB)
    assert cursors.observe(0, MIB).length == 0
    assert cursors.observe(500 * MIB, 4 * MIB).length == 0


def test_the_second_sequential_read_wants_a_quarter_of_the_bytes_read() -> None:
    cursors = ReadCursors(GIB)
    cursors.observe(0, MIB // 2)
    ahead = cursors.observe(MIB // 2, MIB // 2)
    assert (ahead.start, ahead.stop) == (MIB, MIB + MIB // 4)


def test_after_8_mib_in_order_the_trial_ends() -> None:
    cursors = ReadCursors(GIB)
    read_on(cursors, 0, 8 * MIB - REQUEST)
    assert cursors.windows()[0].window == MIB // 2
    read_on(cursors, 8 * MIB - REQUEST, REQUEST)
    assert cursors.windows()[0].window == 2 * MIB


def test_a_window_never_exceeds_the_bytes_read() -> None:
    cursors = ReadCursors(GIB)
    for at in range(0, 200 * MIB, MIB):
        cursors.observe(at, MIB)
        assert cursors.windows()[0].window <= max(8 * MIB, at + MIB)


def test_a_new_window_is_wanted_only_after_half_of_it_is_used() -> None:
    cursors = ReadCursors(GIB)
    read_on(cursors, 0, 64 * MIB)
    window = cursors.windows()[0]
    used = window.window // 2 - (window.window - (window.wanted - window.position))
    assert used > 4 * MIB
    assert read_on(cursors, window.position, used // REQUEST * REQUEST - REQUEST) == 0


def test_an_empty_read_or_one_past_the_end_creates_no_cursor() -> None:
    cursors = ReadCursors(MIB)
    assert cursors.observe(0, 0).length == 0
    assert cursors.observe(MIB, 4096).length == 0
    assert cursors.windows() == []


def test_the_last_short_block_is_wanted_and_no_byte_beyond() -> None:
    size = 2 * MIB + 100
    cursors = ReadCursors(size)
    cursors.observe(0, MIB)
    assert cursors.observe(MIB, MIB - 4096).stop == size
    assert cursors.observe(2 * MIB - 4096, 4096 + 100).length == 0


def test_a_window_limit_of_zero_wants_nothing_and_a_later_one_catches_up() -> None:
    cursors = ReadCursors(GIB)
    for at in range(0, 32 * MIB, MIB):
        assert cursors.observe(at, MIB, window_limit=0).length == 0
    assert cursors.observe(32 * MIB, MIB, window_limit=4 * MIB).length == 4 * MIB


def test_the_window_stops_at_its_maximum() -> None:
    cursors = ReadCursors(4 * GIB, max_window=16 * MIB)
    read_on(cursors, 0, 512 * MIB, MIB)
    assert cursors.windows()[0].window == 16 * MIB


def test_a_skip_within_the_wanted_range_keeps_the_window() -> None:
    cursors = ReadCursors(GIB)
    read_on(cursors, 0, 64 * MIB, MIB)
    before = cursors.windows()[0]
    start = before.position + 10 * MIB
    assert start < before.wanted
    assert cursors.observe(start, MIB).length == 0, "the first read there may be the only one"
    assert cursors.windows()[0].window == before.window
    ahead = cursors.observe(start + MIB, MIB)
    assert cursors.windows()[0].window >= before.window
    assert ahead.length == 0 or ahead.start >= before.wanted, "no byte is wanted twice"


def test_a_skip_past_the_wanted_range_halves_the_window() -> None:
    cursors = ReadCursors(GIB)
    read_on(cursors, 0, 14 * MIB, MIB)
    before = cursors.windows()[0]
    start = before.wanted + MIB
    assert start - before.position <= 16 * MIB
    cursors.observe(start, MIB)
    assert cursors.windows()[0].window == before.window // 2
    assert cursors.observe(start + MIB, MIB).length >= before.window // 2 - BLOCK_SIZE


def test_a_farther_jump_starts_a_new_cursor() -> None:
    cursors = ReadCursors(GIB)
    read_on(cursors, 0, 8 * MIB)
    far = cursors.windows()[0].position + 16 * MIB + 1
    cursors.observe(far, REQUEST)
    assert cursors.windows()[0].window == 0
    assert cursors.windows()[0].read == REQUEST


def test_a_reader_keeps_its_window_after_another_reads_just_ahead_of_it() -> None:
    cursors = ReadCursors(GIB)
    read_on(cursors, 0, 8 * MIB)
    before = cursors.windows()[0]
    cursors.observe(before.position + 12 * MIB, 4096)
    read_on(cursors, 8 * MIB, MIB)
    assert cursors.windows()[0].read == before.read + MIB
    assert cursors.windows()[0].window >= before.window


def test_the_least_recently_used_cursor_is_dropped_first() -> None:
    cursors = ReadCursors(GIB, max_cursors=2)
    for at in (0, 100 * MIB, 0 + 4096, 200 * MIB):
        cursors.observe(at, 4096)
    assert [w.position for w in cursors.windows()] == [200 * MIB + 4096, 2 * 4096]


def test_reading_the_same_bytes_repeatedly_gives_no_window() -> None:
    cursors = ReadCursors(GIB)
    for _ in range(1000):
        assert cursors.observe(0, REQUEST).length == 0
    assert [window.read for window in cursors.windows()] == [REQUEST]


def test_reordered_bytes_count_once() -> None:
    cursors = ReadCursors(GIB)
    for at in (0, 3 * REQUEST, REQUEST, 2 * REQUEST, 2 * REQUEST):
        cursors.observe(at, REQUEST)
    assert [window.read for window in cursors.windows()] == [4 * REQUEST]


def test_a_misprediction_starts_a_new_trial() -> None:
    cursors = ReadCursors(GIB)
    read_on(cursors, 0, 6 * MIB)
    read_on(cursors, cursors.windows()[0].wanted + MIB, 4 * MIB)
    assert cursors.windows()[0].read >= 10 * MIB
    assert cursors.windows()[0].window == MIB // 2


def test_a_read_continues_the_nearer_of_two_cursors() -> None:
    cursors = ReadCursors(GIB)
    for at in (0, 4 * MIB, REQUEST, 4 * MIB + REQUEST, 2 * REQUEST):
        cursors.observe(at, REQUEST)
    assert [window.position for window in cursors.windows()] == [3 * REQUEST, 4 * MIB + 2 * REQUEST]


def test_the_cursor_that_was_skipped_from_is_dropped_first() -> None:
    cursors = ReadCursors(GIB, max_cursors=3)
    for at in (0, 100 * MIB, 110 * MIB, 500 * MIB):
        cursors.observe(at, REQUEST)
    assert [window.position // MIB for window in cursors.windows()] == [500, 110, 0]


def test_reading_backwards_wants_nothing_ahead() -> None:
    cursors = ReadCursors(GIB)
    assert all(cursors.observe(at, REQUEST).length == 0 for at in range(64 * MIB, 0, -REQUEST))


@pytest.mark.parametrize("wrong", [{"size": -1}, {"size": 1, "max_cursors": 0}, {"size": 1, "max_window": -1}])
def test_invalid_bounds_raise_value_error(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one cursor"):
        ReadCursors(**wrong)
