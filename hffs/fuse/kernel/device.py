"""The /dev/fuse descriptor: messages in, replies and notifications out.

Any thread may reply to any request at any time and in any order. A reply to a request that was interrupted or whose
mount has gone is dropped, as nobody is there to hear it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from typing import Final

from . import abi

log = logging.getLogger(__name__)

# Requests carry names and small structs, never data, since nothing is written: max_write stays at its least, and the
# kernel wants room for a WRITE of that size beside its headers (FUSE_MIN_READ_BUFFER).
MAX_WRITE: Final = 4096
BUFFER_SIZE: Final = 2 * abi.MIN_READ_BUFFER
# ENOENT: the request was interrupted before it could be read. EINTR, EAGAIN: nothing yet.
_AGAIN: Final = frozenset({errno.ENOENT, errno.EINTR, errno.EAGAIN})
# ENODEV: unmounted. ECONNABORTED: aborted through fusectl (FUSE_ABORT_ERROR). EBADF: closed by us.
OVER: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF})


class Device:
    """Owns the descriptor until ``close``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._silent = False

    def receive(self, buffer: bytearray) -> int | None:
        """The length of the next message, now in ``buffer``; None when the mount is gone. Blocks."""
        while True:
            try:
                return os.readv(self.fd, [buffer])
            except OSError as error:
                if error.errno in _AGAIN:
                    continue
                if error.errno not in OVER:
                    log.error("event=device-read-failed error=%s", error)
                return None

    def reply(self, unique: int, *parts: bytes | memoryview) -> None:
        """Answer a request with a body of these parts."""
        length = abi.out_header.size + sum(map(len, parts))
        self._write([abi.out_header.pack(length, 0, unique), *parts])

    def refuse(self, unique: int, number: int) -> None:
        """Answer a request with an errno."""
        self._write([abi.out_header.pack(abi.out_header.size, -number, unique)])

    def notify(self, code: abi.NotifyCode, body: bytes = b"") -> None:
        """Tell the kernel something unasked. Raises OSError: ENOENT when it does not know the inode (any more)."""
        os.writev(self.fd, [abi.out_header.pack(abi.out_header.size + len(body), code, 0), body])

    def open_backing(self, fd: int) -> int:
        """A backing id for a descriptor, for passthrough. Raises OSError: EPERM without CAP_SYS_ADMIN, ELOOP when the
        file system below is stacked too deep."""
        # With a bytearray ioctl returns the call's own result, with bytes the buffer.
        return int(fcntl.ioctl(self.fd, abi.DEV_IOC_BACKING_OPEN, bytearray(abi.backing_map.pack(fd, 0, 0))))

    def close_backing(self, number: int) -> None:
        """Raises OSError."""
        fcntl.ioctl(self.fd, abi.DEV_IOC_BACKING_CLOSE, abi.backing_id.pack(number))

    def fall_silent(self) -> None:
        """From here on no request is answered: whoever takes the descriptor over has them all sent again."""
        self._silent = True

    def close(self) -> None:
        os.close(self.fd)

    def _write(self, parts: list[bytes | memoryview]) -> None:
        if self._silent:
            return
        try:
            os.writev(self.fd, parts)
        except OSError as error:
            if error.errno not in OVER | {errno.ENOENT}:
                log.error("event=reply-failed error=%s length=%d", error, sum(map(len, parts)))
