"""The exceptions of hffs, one class for each kind of failure.

Exceptions of libraries are translated into these by the room that calls the library. ``exit_code`` is the command
line's, inherited unless a class sets its own; ``transient`` says whether a retry may help. The errno that a program
gets through a mount is the class's row in ``fuse.errnos``, repeated in its docstring.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Of several failures, those that another run would not mend precede those that it may. So 5 (the Hub is unreachable)
# means that there was no other failure, and that trying later makes sense.
_WORST_FIRST: Final = (6, 7, 4, 3, 1, 5)


class HffsError(Exception):
    """A failure: ``what`` happened and its ``remedy``, texts for the user ("": no remedy). Exit code 1, EIO."""

    exit_code = 1
    transient = False

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}" if self.remedy else self.what


class UsageError(HffsError):
    """The request is invalid: a malformed name, contradicting options. Exit code 2, EINVAL."""

    exit_code = 2


class NotFound(HffsError):
    """A repo, revision, file or mount does not exist, or a repo is hidden from this user. Exit code 3, ENOENT."""

    exit_code = 3


class RepoNotFound(NotFound):
    """The repo does not exist, or is private. ENOENT."""


class RevisionNotFound(NotFound):
    """The repo has no such branch, tag or commit. ENOENT."""


class EntryNotFound(NotFound):
    """The snapshot has no file or directory of this name. ENOENT."""


class MountNotFound(NotFound):
    """No daemon serves this mountpoint or socket. ENOENT."""


class AccessDenied(HffsError):
    """The server refuses access: a gated or disabled repo, an invalid token. ``token``: the token is refused for every
    repo. Exit code 4, EACCES."""

    exit_code = 4

    def __init__(self, what: str, remedy: str = "", *, token: bool = False) -> None:
        super().__init__(what, remedy)
        self.token = token


class AccessLapsed(AccessDenied):
    """The server refuses access it gave before: the token expired or was revoked, and may be replaced. EACCES."""


class HubUnreachable(HffsError):
    """No usable response: network down, timeout, server error. ``retry_after``: the pause the server asked for, in
    seconds, 300 at most. Exit code 5, EIO."""

    exit_code = 5
    transient = True

    def __init__(self, what: str, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, remedy)
        self.retry_after = retry_after


class RateLimited(HubUnreachable):
    """The server refuses requests for a while: its rate limit is reached. EIO."""


class Offline(HubUnreachable):
    """No request was sent: hffs is set offline, or the Hub was unreachable just now. An immediate retry fails. EIO."""

    transient = False


class BadResponse(HubUnreachable):
    """A response breaks the protocol: wrong status, range, length or encoding. Its bytes are not used. EIO.

    ``lasting``: the server always responds like this, so a retry does not help."""

    def __init__(self, what: str, remedy: str = "", retry_after: float | None = None, *, lasting: bool = False) -> None:
        super().__init__(what, remedy, retry_after)
        self.transient = not lasting


class LinkExpired(BadResponse):
    """A signed URL was refused; a new one may work. EIO."""


class IntegrityError(HffsError):
    """Content does not match its hash; ``expected`` and ``got`` are hex digests if a whole blob was hashed. Exit code
    6, EIO."""

    exit_code = 6

    def __init__(self, what: str, remedy: str = "", *, expected: str = "", got: str = "") -> None:
        super().__init__(what, remedy)
        self.expected = expected
        self.got = got


class ContentChanged(HffsError):
    """The source has other content under the same name now. ESTALE."""


class NoSpace(HffsError):
    """The disk is full, or the cache limit is reached and nothing can be evicted. Exit code 7, EIO."""

    exit_code = 7


class CacheUnusable(HffsError):
    """The cache directory cannot be used: unsupported file system, no permission, a newer format. EIO."""


class BlockAbsent(HffsError):
    """The store does not have the requested block, or no longer; fetch it again. EIO."""

    transient = True


class DeadlineExceeded(HffsError):
    """A wait reached its deadline. ETIMEDOUT."""

    transient = True


class Cancelled(HffsError):
    """A wait or job was given up: interrupted, or hffs is shutting down. Exit code 130, EINTR."""

    exit_code = 130


class MountFailed(HffsError):
    """The kernel or libfuse refused the mount, or the mountpoint is not usable. EIO."""


class NameRefused(HffsError):
    """A name from a server, archive or definition must not become a path. ENOENT."""


class ReadOnly(HffsError):
    """The file system is read-only. EROFS."""


class IsDirectory(HffsError):
    """A file is needed. EISDIR."""


class NotDirectory(HffsError):
    """A directory is needed. ENOTDIR."""


class NoAttribute(HffsError):
    """The extended attribute does not exist. ENODATA."""


class AttributeTooLong(HffsError):
    """The extended attribute is longer than the caller's buffer. ERANGE."""


class BadHandle(HffsError):
    """The handle is not open. EBADF."""


def worst(exit_codes: Iterable[int]) -> int:
    """Returns the exit code of several failures together; 1 for none."""
    known = [code if code in _WORST_FIRST else 1 for code in exit_codes]
    return min(known, key=_WORST_FIRST.index, default=1)
