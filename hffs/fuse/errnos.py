"""The one table from hffs exceptions to errnos; errnos are used in this room only.

Every class of ``hffs.errors`` has its own row, held by a test, so that no new class gets an errno by accident. EAGAIN
is never used: Python and most programs treat it as a bug on a regular file.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

from .. import errors

log = logging.getLogger(__name__)

# The answer to an unknown operation; for some operations the kernel remembers it and never sends them again.
UNKNOWN_OPERATION: Final = errno.ENOSYS
# The answer to a malformed request.
MALFORMED: Final = errno.EIO
# The answer to INIT of an unsupported protocol version.
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
    errors.NoSpace: errno.EIO,  # never ENOSPC: a reader cannot free space
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
    """Returns the errno a program gets. An exception that is no HffsError is a bug: it is logged with its traceback and
    gives EIO."""
    for kind in type(error).__mro__:
        if kind in ERRNOS:
            return ERRNOS[kind]
    log.error("event=unexpected-error", exc_info=error)
    return errno.EIO
