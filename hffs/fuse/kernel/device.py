"""The /dev/fuse descriptor: messages in, replies and notifications out.

Any thread may reply to any request at any time and in any order. A reply to an interrupted request, or after the mount
is gone, is dropped.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from typing import Final

from . import abi

log = logging.getLogger(__name__)

# Requests carry names and small structs, never data, since the mount is read-only: max_write stays at its minimum, and
# the kernel wants room for a WRITE of that size beside its headers (FUSE_MIN_READ_BUFFER).
MAX_WRITE: Final = 4096
BUFFER_SIZE: Final = 2 * abi.MIN_READ_BUFFER
# ENOENT: the request was interrupted before it could be read. EINTR, EAGAIN: nothing yet.
_AGAIN: Final = frozenset({errno.ENOENT, errno.EINTR, errno.EAGAIN})
# ENODEV: unmounted. ECONNABORTED: aborted through fusectl (FUSE_ABORT_ERROR). EBADF: closed by us.
OVER: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF})

NO_PASSTHROUGH: Final = "this kernel has no passthrough (Linux 6.9 is the first)"


class Device:
    """Owns the descriptor until ``close``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._silent = False

    def receive(self, buffer: bytearray) -> int | None:
        """Reads the next message into ``buffer`` and returns its length; None when the mount is gone. Blocks."""
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
        """Answers a request with a body of these parts."""
        length = abi.out_header.size + sum(map(len, parts))
        self._write([abi.out_header.pack(length, 0, unique), *parts])

    def refuse(self, unique: int, number: int) -> None:
        """Answers a request with an errno."""
        self._write([abi.out_header.pack(abi.out_header.size, -number, unique)])

    def notify(self, code: abi.NotifyCode, body: bytes = b"") -> None:
        """Sends the kernel a notification. Raises OSError: ENOENT when it does not know the inode."""
        os.writev(self.fd, [abi.out_header.pack(abi.out_header.size + len(body), code, 0), body])

    def open_backing(self, fd: int) -> int:
        """Registers a descriptor for passthrough and returns its backing id. Raises OSError: EPERM without
        CAP_SYS_ADMIN, ELOOP when the file system below is stacked too deep."""
        # With a bytearray ioctl returns the call's own result, with bytes the buffer.
        return int(fcntl.ioctl(self.fd, abi.DEV_IOC_BACKING_OPEN, bytearray(abi.backing_map.pack(fd, 0, 0))))

    def close_backing(self, number: int) -> None:
        """Raises OSError."""
        fcntl.ioctl(self.fd, abi.DEV_IOC_BACKING_CLOSE, abi.backing_id.pack(number))

    def stop_replying(self) -> None:
        """Drops all further replies: the process that takes over the descriptor has the requests resent."""
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


def passthrough_refusal(error: OSError) -> str:
    """Returns why the kernel refused a file for passthrough."""
    if error.errno == errno.EPERM:
        return "passthrough needs root (CAP_SYS_ADMIN)"
    if error.errno == errno.ELOOP:
        return "the cache is on a file system stacked too deep for passthrough"
    return f"the kernel refuses passthrough from the cache's file system: {error.strerror}"
