"""The errors of hffs.

The class names what happened, attributes name to what, ``transient`` says whether a retry may help. Exceptions of
libraries are translated into these in the room that calls the library, and never leave it. ``exit_code`` is the command
line's; errnos are chosen in ``fuse.errnos`` only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Of several failures, those that a second run would not mend come before those that it may. So 5 (the Hub is
# unreachable) means that nothing else was wrong, and that a later run may succeed.
_WORST_FIRST: Final = (6, 7, 4, 3, 1, 5)


class HffsError(Exception):
    """A failure as two sentences for the user: ``what`` happened, and the ``remedy`` where there is one."""

    exit_code = 1
    transient = False

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}" if self.remedy else self.what


class UsageError(HffsError):
    """The request makes no sense: a malformed name, contradicting options."""

    exit_code = 2


class NotFound(HffsError):
    """Repo, revision, file or mount does not exist (or, for a repo, may not be seen)."""

    exit_code = 3


class RepoNotFound(NotFound):
    pass


class RevisionNotFound(NotFound):
    pass


class EntryNotFound(NotFound):
    pass


class MountNotFound(NotFound):
    pass


class AccessDenied(HffsError):
    """The server refuses access: a gated, private or disabled repo, a bad token. ``token``: it refuses the token for
    every request."""

    exit_code = 4

    def __init__(self, what: str, remedy: str = "", *, token: bool = False) -> None:
        super().__init__(what, remedy)
        self.token = token


class AccessLapsed(AccessDenied):
    """The server refuses what it granted before: the token has expired or was revoked, and may be replaced soon."""


class HubUnreachable(HffsError):
    """The server did not answer: network down, timeout, server error. ``retry_after`` is the wait in seconds that the
    server asked for, five minutes at most; None where it named none."""

    exit_code = 5
    transient = True

    def __init__(self, what: str, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, remedy)
        self.retry_after = retry_after


class RateLimited(HubUnreachable):
    """Too many requests: the server asks for a wait."""


class Offline(HubUnreachable):
    """No request was sent: hffs is set offline, or the Hub was unreachable just now. A retry at once is useless."""

    transient = False


class BadResponse(HubUnreachable):
    """A response that breaks the protocol: wrong status, range, length or encoding. None of its bytes is used.

    ``lasting``: the server is made so, and would answer the same again."""

    def __init__(self, what: str, remedy: str = "", retry_after: float | None = None, *, lasting: bool = False) -> None:
        super().__init__(what, remedy, retry_after)
        self.transient = not lasting


class LinkExpired(BadResponse):
    """A fresh signed URL was refused; a later one may work."""


class IntegrityError(HffsError):
    """Bytes are not what their hash says; ``expected`` and ``got`` are hex digests where a whole blob was hashed."""

    exit_code = 6

    def __init__(self, what: str, remedy: str = "", *, expected: str = "", got: str = "") -> None:
        super().__init__(what, remedy)
        self.expected = expected
        self.got = got


class ContentChanged(HffsError):
    """The source now has other content under the same name."""


class NoSpace(HffsError):
    """The disk is full or the budget is spent."""

    exit_code = 7


class CacheUnusable(HffsError):
    """The cache directory cannot be used: unsupported file system, no permission, a newer format."""


class BlockAbsent(HffsError):
    """A block that was to be read is not in the store (any more); it can be fetched again."""

    transient = True


class DeadlineExceeded(HffsError):
    """A wait ended before its result came."""

    transient = True


class Cancelled(HffsError):
    """The operation was cancelled: by the user, or because hffs is shutting down."""

    exit_code = 130


class MountFailed(HffsError):
    """The kernel or libfuse refused the mount, or the mountpoint is not usable."""


class NameRefused(HffsError):
    """A name from a server, archive or definition that must not become a path."""


class ReadOnly(HffsError):
    """A change to a read-only file system was requested."""


class IsDirectory(HffsError):
    pass


class NotDirectory(HffsError):
    pass


class NoAttribute(HffsError):
    """The extended attribute does not exist."""


class AttributeTooLong(HffsError):
    """The extended attribute does not fit into the caller's buffer."""


class BadHandle(HffsError):
    """The handle is not open."""


def worst(exit_codes: Iterable[int]) -> int:
    """The exit code of several failures together; 1 for none."""
    known = [code if code in _WORST_FIRST else 1 for code in exit_codes]
    return min(known, key=_WORST_FIRST.index, default=1)
