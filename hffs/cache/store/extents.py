"""Punching holes and sharing blocks between files: fallocate(2) with FALLOC_FL_PUNCH_HOLE, and the FICLONE ioctl.

It never decides which bytes may be dropped. Any thread; the interpreter lock is released during the calls.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from typing import Final

_KEEP_SIZE: Final = 0x01  # FALLOC_FL_KEEP_SIZE, linux/falloc.h
_PUNCH_HOLE: Final = 0x02  # FALLOC_FL_PUNCH_HOLE; the kernel demands KEEP_SIZE with it
_FICLONE: Final = 0x40049409  # linux/fs.h, _IOW(0x94, 9, int); ioctl_ficlonerange(2)

_libc = ctypes.CDLL(None, use_errno=True)
# glibc on 32-bit machines has a fallocate of 32-bit offsets beside this one; musl has only the other name, 64-bit.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int


def punch(fd: int, start: int, length: int) -> None:
    """Makes a hole of bytes [start, start + length): they read as zeros and take no disk space. Raises OSError."""
    if _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, start, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def reflink(source: int, target: int) -> bool:
    """Makes ``target`` share all blocks of ``source``, copied on write; False where the file system cannot do that."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:  # most file systems cannot, none can across disks; real failures show later too
        return False
    return True
