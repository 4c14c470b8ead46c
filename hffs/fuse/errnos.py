"""The one table from our exceptions to errnos; spoken at the kernel's door and nowhere else.

Every class of ``hffs.errors`` has its own line (a test walks them), so that a new one cannot fall through unnoticed.
EAGAIN is never used: Python and most programs take it for a bug on a regular file.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

from .. import errors

log = logging.getLogger(__name__)

# What a request of a kind we do not know is told; the kernel remembers, and asks no more where it may.
UNKNOWN_OPERATION: Final = errno.ENOSYS
# What a request that makes no sense is told.
MALFORMED: Final = errno.EIO
# What a kernel is told whose protocol we do not speak.
UNKNOWN_PROTOCOL: Final = errno.EPROTO

ERRNOS: Final[dict[type[BaseException], int]] = {
    errors.HffsError: errno.EIO,
    errors.UsageError: errno.EINVAL,
    errors.NotFound: errno.ENOENT,
    errors.RepoNotFound: errno.ENOENT,
    errors.RevisionNotFound: errno.ENOENT,
    errors.EntryNotFound: errno.ENOENT,
    errors.MountNotFound: errno.ENOENT,
    errors.AccessDenied: errno.EACCES,
    errors.AccessLapsed: errno.EACCES,
    errors.HubUnreachable: errno.EIO,
    errors.RateLimited: errno.EIO,
    errors.Offline: errno.EIO,
    errors.BadResponse: errno.EIO,
    errors.LinkExpired: errno.EIO,
    errors.IntegrityError: errno.EIO,
    errors.ContentChanged: errno.ESTALE,
    errors.NoSpace: errno.EIO,  # never ENOSPC: nobody who reads can make room
    errors.CacheUnusable: errno.EIO,
    errors.BlockAbsent: errno.EIO,
    errors.DeadlineExceeded: errno.ETIMEDOUT,
    errors.Cancelled: errno.EINTR,
    errors.MountFailed: errno.EIO,
    errors.NameRefused: errno.ENOENT,
    errors.ReadOnly: errno.EROFS,
    errors.IsDirectory: errno.EISDIR,
    errors.NotDirectory: errno.ENOTDIR,
    errors.NoAttribute: errno.ENODATA,
    errors.AttributeTooLong: errno.ERANGE,
    errors.BadHandle: errno.EBADF,
}


def errno_of(error: BaseException) -> int:
    """The errno a program sees. What is not ours is a bug: logged with its traceback, and EIO."""
    for kind in type(error).__mro__:
        if kind in ERRNOS:
            return ERRNOS[kind]
    log.error("event=unexpected-error", exc_info=error)
    return errno.EIO
