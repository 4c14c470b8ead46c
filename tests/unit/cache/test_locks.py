"""Locks exclude other open files, in this process and others, and end with their holder."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from hffs.cache.store.locks import HEADER, RangeLocks, try_exclusive, try_lock, unlock
from hffs.errors import CacheUnusable


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[RangeLocks, RangeLocks]]:
    """One lock file, opened twice, as two processes would."""
    pair = RangeLocks(opened(tmp_path / "lock")), RangeLocks(opened(tmp_path / "lock"))
    yield pair
    for locks in pair:
        locks.close()


def test_the_lock_struct_has_the_kernels_size(tmp_path: Path) -> None:
    # The kernel fills in a conflicting lock; a wrong layout would show in start and length.
    fd, other = opened(tmp_path / "lock"), opened(tmp_path / "lock")
    try:
        assert try_lock(fd, 70_000_000_000, 5)
        asked = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, start, length, pid = struct.unpack("@hhqqi4x", fcntl.fcntl(other, fcntl.F_OFD_GETLK, asked))
        assert (kind, start, length, pid) == (fcntl.F_WRLCK, 70_000_000_000, 5, -1)
    finally:
        os.close(fd)
        os.close(other)


def test_only_overlapping_ranges_are_refused(tmp_path: Path) -> None:
    one, other = opened(tmp_path / "lock"), opened(tmp_path / "lock")
    assert try_lock(one, 2, 3)
    assert try_lock(other, 0, 2)
    assert try_lock(other, 5, 1)
    assert not try_lock(other, 4, 1)
    unlock(one, 4, 1)
    assert try_lock(other, 4, 1)
    os.close(one)
    assert try_lock(other, 0, 10)
    os.close(other)


def test_closing_another_descriptor_of_the_file_releases_no_lock(tmp_path: Path) -> None:
    one, other = opened(tmp_path / "lock"), opened(tmp_path / "lock")
    assert try_lock(one, 0, 1)
    os.close(opened(tmp_path / "lock"))  # with the older fcntl locks this would have been the end of it
    assert not try_lock(other, 0, 1)
    os.close(one)
    os.close(other)


def test_free_blocks_around_a_held_range_are_locked(two: tuple[RangeLocks, RangeLocks]) -> None:
    one, other = two
    assert other.try_acquire(range(5, 6)) == ([range(5, 6)], [])
    assert one.try_acquire(range(16)) == ([range(5), range(6, 16)], [range(5, 6)])
    other.release(range(5, 6))
    assert one.try_acquire(range(5, 6)) == ([range(5, 6)], [])


def test_threads_of_one_open_file_exclude_one_another_too(two: tuple[RangeLocks, RangeLocks]) -> None:
    one, other = two
    assert one.try_acquire(range(4)) == ([range(4)], [])
    assert one.try_acquire(range(2, 6)) == ([range(4, 6)], [range(2, 4)])
    one.release(range(4))
    assert one.try_acquire(range(3)) == ([range(3)], [])
    assert other.try_acquire(range(6)) == ([range(3, 4)], [range(3), range(4, 6)])


def test_waiting_for_the_header_lock_has_a_deadline(two: tuple[RangeLocks, RangeLocks]) -> None:
    one, other = two
    time, pauses = [0.0], []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        time[0] += 1.0

    waiting = one.holding(HEADER, patience=3.0, now=lambda: time[0], pause=pause)
    with other.holding(HEADER), pytest.raises(CacheUnusable, match="kept the cache locked for 3 s"), waiting:
        pytest.fail("two hold one lock")
    assert len(pauses) == 3
    with one.holding(HEADER, patience=0.0):
        pass


def test_a_waiter_gets_the_header_lock_when_it_is_released(two: tuple[RangeLocks, RangeLocks]) -> None:
    one, other = two
    assert other.try_acquire(range(HEADER, HEADER + 1))[0]
    with one.holding(HEADER, pause=lambda _: other.release(range(HEADER, HEADER + 1))):
        assert other.try_acquire(range(HEADER, HEADER + 1)) == ([], [range(HEADER, HEADER + 1)])


def test_no_block_stays_locked_when_locking_fails(tmp_path: Path) -> None:
    locks = RangeLocks(opened(tmp_path / "lock"))
    locks.close()
    for _ in range(2):
        with pytest.raises(OSError):
            locks.try_acquire(range(3))


def test_a_shared_flock_of_another_file_excludes_punching(tmp_path: Path) -> None:
    one, other = opened(tmp_path / "data"), opened(tmp_path / "data")
    fcntl.flock(other, fcntl.LOCK_SH)
    with try_exclusive(one) as alone:
        assert not alone
    fcntl.flock(other, fcntl.LOCK_UN)
    with try_exclusive(one) as alone:
        assert alone
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(one)
    os.close(other)
