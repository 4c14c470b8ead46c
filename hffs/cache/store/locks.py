"""Locks between processes on one cache: OFD range locks on a blob's lock file, and flock(2) on whole files.

OFD locks (fcntl(2), "Open file description locks") belong to an open file, not to a process: closing another
descriptor of the file does not release them, and the kernel releases them when their holder dies. Within one open file
they do not exclude threads from one another, so ``RangeLocks`` records what its own threads hold.

Every wait has a deadline. Any thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ...errors import CacheUnusable
from ...ranges import runs

# struct flock of <fcntl.h>: short l_type, short l_whence, off_t l_start, off_t l_len, pid_t l_pid; native alignment,
# 64-bit offsets (CPython is built with them everywhere). l_pid must be 0 for the F_OFD_ commands.
_FLOCK: Final = struct.Struct("@hhqqi4x")
# A block's lock is the byte of its number in the lock file; the locks of the whole blob are far behind any block.
HEADER: Final = 1 << 62
PUNCHING: Final = HEADER + 1
# The descriptor of a closed file: every call on it is EBADF, an OSError, where -1 is a ValueError to some of Python's.
CLOSED_FD: Final = 0x7FFF_FFFF
# Flags for opening the cache's own files: a link in their place is not followed, and a pipe does not block.
OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# HEADER and PUNCHING, like the flock of a small file, are held for a handful of system calls. 10 s is far longer than a
# starved machine needs for those, and far shorter than a reader's deadline (120 s).
PATIENCE_S: Final = 10.0
_PAUSE_S: Final = 0.002


def try_lock(fd: int, start: int, length: int) -> bool:
    """Locks bytes [start, start + length) for this open file exclusively; False when another one holds any of them.

    Raises OSError when the file system cannot lock."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True


def unlock(fd: int, start: int, length: int) -> None:
    """Releases the locks that this open file holds on these bytes, if any. Raises OSError."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, length, 0))


def try_flock(fd: int, operation: int = fcntl.LOCK_EX) -> bool:
    """Locks the whole file with flock(2); False when another open file's lock excludes it. Raises OSError."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_share(fd: int) -> bool:
    """Takes the shared flock, which forbids punching while this file is open anywhere. Raises OSError."""
    return try_flock(fd, fcntl.LOCK_SH)


@contextmanager
def try_exclusive(fd: int) -> Iterator[bool]:
    """Yields whether the exclusive flock was obtained, and holds it inside; punching is allowed only then.

    A passthrough open holds LOCK_SH on the file that the kernel reads directly, also after the daemon died.
    Raises OSError."""
    locked = try_flock(fd)
    try:
        yield locked
    finally:
        if locked:
            fcntl.flock(fd, fcntl.LOCK_UN)


def poll(
    attempt: Callable[[], bool],
    patience: float = PATIENCE_S,
    pause: float = _PAUSE_S,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Calls ``attempt`` every ``pause`` seconds until it succeeds; False after ``patience`` seconds without success.

    ``attempt`` is called at least once."""
    deadline = now() + patience
    while not attempt():
        if now() >= deadline:
            return False
        sleep(pause)
    return True


class RangeLocks:
    """An open lock file, for any threads; it owns ``fd``. Its methods raise OSError when locking itself fails."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._guard = threading.Lock()
        # guarded by _guard: blocks, HEADER or PUNCHING locked through this file by a thread of this process
        self._held: set[int] = set()

    def try_acquire(self, wanted: range) -> tuple[list[range], list[range]]:
        """Locks what is free of ``wanted``. Returns the runs obtained, and those that other processes or other threads
        of this one hold."""
        with self._guard:
            free = [block for block in wanted if block not in self._held]
            self._held.update(free)
        acquired: list[range] = []
        try:
            for run in runs(free):
                self._acquire_run(run, acquired)
        except BaseException:
            undo, acquired = acquired, []
            for run in undo:
                unlock(self._fd, run.start, len(run))
            raise
        finally:
            got = {block for run in acquired for block in run}
            with self._guard:
                self._held.difference_update(block for block in free if block not in got)
        return runs(sorted(got)), runs(block for block in wanted if block not in got)

    def release(self, run: range) -> None:
        """Unlocks blocks obtained by ``try_acquire``."""
        try:
            unlock(self._fd, run.start, len(run))
        finally:
            with self._guard:
                self._held.difference_update(run)

    @contextmanager
    def trying(self, wanted: range) -> Iterator[tuple[list[range], list[range]]]:
        """Yields what ``try_acquire`` returns, and releases it at the end."""
        acquired, busy = self.try_acquire(wanted)
        try:
            yield acquired, busy
        finally:
            for run in acquired:
                self.release(run)

    def close(self) -> None:
        """Closes the file; the kernel releases the locks still held."""
        fd, self._fd = self._fd, CLOSED_FD
        if fd != CLOSED_FD:
            os.close(fd)

    @contextmanager
    def holding(
        self,
        lock: int,
        *,
        patience: float = PATIENCE_S,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> Iterator[None]:
        """Holds HEADER or PUNCHING inside. Raises CacheUnusable after ``patience`` seconds of waiting, OSError."""
        run = range(lock, lock + 1)
        if not poll(lambda: bool(self.try_acquire(run)[0]), patience, now=now, sleep=pause):
            raise CacheUnusable(
                f"another process has kept the cache locked for {patience:.0f} s",
                "check whether one of your hffs processes is stopped or hangs",
            )
        try:
            yield
        finally:
            self.release(run)

    def _acquire_run(self, run: range, acquired: list[range]) -> None:
        """Locks a run whole, else by halves: one call without contention, few with it."""
        if try_lock(self._fd, run.start, len(run)):
            acquired.append(run)
        elif len(run) > 1:
            middle = len(run) // 2
            self._acquire_run(run[:middle], acquired)
            self._acquire_run(run[middle:], acquired)
