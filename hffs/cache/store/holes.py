"""Giving the space of dropped blocks back: fallocate(2) with FALLOC_FL_PUNCH_HOLE, which Python has no name for.

Called by the store for blocks it has already made absent, and by layout to learn whether a file system can do it. It
never decides what may go. Any thread; the interpreter lock is released during the call.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_KEEP_SIZE: Final = 0x01  # FALLOC_FL_KEEP_SIZE, linux/falloc.h
_PUNCH_HOLE: Final = 0x02  # FALLOC_FL_PUNCH_HOLE; the kernel demands KEEP_SIZE with it

_libc = ctypes.CDLL(None, use_errno=True)
# glibc on 32-bit machines has a fallocate of 32-bit offsets beside this one; musl has only the other name, 64-bit.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int


def punch(fd: int, start: int, length: int) -> None:
    """Bytes [start, start + length) read as zeros from now on and cost no disk. Raises OSError."""
    if _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, start, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
