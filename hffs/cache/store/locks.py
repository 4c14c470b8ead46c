"""Locks between processes on one cache: OFD range locks on a blob's lock file, and the flock rule of the data file.

OFD locks (fcntl(2), "Open file description locks") belong to an open file, not to a process: closing some other
descriptor of the file does not drop them, and the kernel frees them when their holder dies, however it dies. Within one
open file they do not exclude threads from one another, so ``RangeLocks`` remembers what its own threads hold.

Used by the store only. Nothing here waits without a deadline. Any thread.
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
# Blocks are the lock file's bytes from 0 on; what concerns a blob as a whole is locked far behind any block.
HEADER: Final = 1 << 62
PUNCHING: Final = HEADER + 1
# The descriptor of a closed file: every call on it is EBADF, an OSError, where -1 is a ValueError to some of Python's.
CLOSED_FD: Final = 0x7FFF_FFFF
# How files of ours are opened: not through a link that somebody put in their place, and not waiting for a pipe.
OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# These two are held for a handful of system calls. 10 s is far longer than a starved machine needs for those, and far
# shorter than a reader's deadline (120 s).
_PATIENCE_S: Final = 10.0
_PAUSE_S: Final = 0.002


def try_lock(fd: int, start: int, length: int) -> bool:
    """Lock bytes [start, start + length) for this open file alone; False when another holds any of them.

    Raises OSError when the file system cannot lock."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True


def unlock(fd: int, start: int, length: int) -> None:
    """Give up what this open file holds of these bytes; nothing happens where it holds none. Raises OSError."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, length, 0))


@contextmanager
def try_exclusive(fd: int) -> Iterator[bool]:
    """Whether no other open file of this inode carries an flock(2), kept so inside: punching is allowed only then.

    A passthrough open holds LOCK_SH on what the kernel reads from directly, daemon alive or not. Raises OSError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def try_share(fd: int) -> bool:
    """Forbid punching for as long as this file is open anywhere; False when somebody is at it. Raises OSError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class RangeLocks:
    """An open lock file, for any threads; it owns ``fd``. Its methods raise OSError when locking as such fails."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._guard = threading.Lock()
        # guarded by _guard: blocks, HEADER or PUNCHING locked through this file by a thread of this process
        self._held: set[int] = set()

    def try_acquire(self, wanted: range) -> tuple[list[range], list[range]]:
        """What could be locked of ``wanted`` at once, and what others hold (processes, or threads of this one)."""
        with self._guard:
            free = [block for block in wanted if block not in self._held]
            self._held.update(free)
        taken: list[range] = []
        try:
            for run in runs(free):
                self._take_run(run, taken)
        except BaseException:
            undo, taken = taken, []
            for run in undo:
                unlock(self._fd, run.start, len(run))
            raise
        finally:
            got = {block for run in taken for block in run}
            with self._guard:
                self._held.difference_update(block for block in free if block not in got)
        return runs(sorted(got)), runs(block for block in wanted if block not in got)

    def release(self, run: range) -> None:
        """Unlock what ``take`` gave."""
        try:
            unlock(self._fd, run.start, len(run))
        finally:
            with self._guard:
                self._held.difference_update(run)

    def close(self) -> None:
        """Close the file; the kernel drops what was still locked."""
        fd, self._fd = self._fd, CLOSED_FD
        if fd != CLOSED_FD:
            os.close(fd)

    @contextmanager
    def holding(
        self,
        place: int,
        *,
        patience: float = _PATIENCE_S,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> Iterator[None]:
        """Hold HEADER or PUNCHING, waiting ``patience`` seconds at most. Raises CacheUnusable after that, OSError."""
        deadline = now() + patience
        run = range(place, place + 1)
        while not self.try_acquire(run)[0]:
            if now() >= deadline:
                raise CacheUnusable(
                    f"another process has kept the cache locked for {patience:.0f} s",
                    "see whether one of your hffs processes is stopped or stuck",
                )
            pause(_PAUSE_S)
        try:
            yield
        finally:
            self.release(run)

    def _take_run(self, run: range, taken: list[range]) -> None:
        """Lock a run whole, else by halves: one call when nobody else is here, few when somebody is."""
        if try_lock(self._fd, run.start, len(run)):
            taken.append(run)
        elif len(run) > 1:
            middle = len(run) // 2
            self._take_run(run[:middle], taken)
            self._take_run(run[middle:], taken)
