"""What can go wrong, in our own words.

One class says what happened, attributes say to what, ``transient`` says whether trying again may help. Exceptions of
other people's libraries are translated into these at the room that called the library, and never travel further.
``exit_code`` is the command line's (interface table); errnos are spoken in ``fuse.errnos`` only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Of several failures, what running it again would not mend goes before what it may. So 5 (the Hub is out of reach)
# means that nothing else was wrong, and that trying later is worth it.
_WORST_FIRST: Final = (6, 7, 4, 3, 1, 5)


class HffsError(Exception):
    """A failure with a sentence for the user: ``what``, and ``remedy`` where there is one."""

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
    """The server refuses: gated, private, a bad token, disabled. ``token``: whatever the token is shown for."""

    exit_code = 4

    def __init__(self, what: str, remedy: str = "", *, token: bool = False) -> None:
        super().__init__(what, remedy)
        self.token = token


class AccessLapsed(AccessDenied):
    """The server refuses what it gave before: a token that has expired or was revoked. Another may come any moment."""


class HubUnreachable(HffsError):
    """No answer could be had: network down, timeout, server error. ``retry_after`` in seconds when the server said how
    long it wants to be left alone, five minutes at most."""

    exit_code = 5
    transient = True

    def __init__(self, what: str, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, remedy)
        self.retry_after = retry_after


class RateLimited(HubUnreachable):
    """Too many requests: the server asked us to wait."""


class Offline(HubUnreachable):
    """Nobody was asked: hffs is told to be offline, or the Hub was away just now. To try again at once is no use."""

    transient = False


class BadResponse(HubUnreachable):
    """An answer that breaks the protocol: wrong status, range, length or encoding. Its bytes were not used.

    ``lasting``: the server is made so, and would answer the same again."""

    def __init__(self, what: str, remedy: str = "", retry_after: float | None = None, *, lasting: bool = False) -> None:
        super().__init__(what, remedy, retry_after)
        self.transient = not lasting


class LinkExpired(BadResponse):
    """A signed URL was refused; a fresh one may work."""


class IntegrityError(HffsError):
    """Bytes are not what their hash says; ``expected`` and ``got`` are hex digests where a whole blob was hashed."""

    exit_code = 6

    def __init__(self, what: str, remedy: str = "", *, expected: str = "", got: str = "") -> None:
        super().__init__(what, remedy)
        self.expected = expected
        self.got = got


class ContentChanged(HffsError):
    """The source now holds other content under the same name."""


class NoSpace(HffsError):
    """The disk is full or the budget is spent."""

    exit_code = 7


class CacheUnusable(HffsError):
    """The cache directory cannot be used: unsupported file system, no permission, a newer format."""


class BlockAbsent(HffsError):
    """A block that was asked of the store is not there (any more); ask for it again."""

    transient = True


class DeadlineExceeded(HffsError):
    """A wait ended before its result came."""

    transient = True


class Cancelled(HffsError):
    """Whoever waited no longer does: interrupted, or hffs is shutting down."""

    exit_code = 130


class MountFailed(HffsError):
    """The kernel or libfuse refused the mount, or the mountpoint is not usable."""


class NameRefused(HffsError):
    """A name from a server, archive or definition that must not become a path."""


class ReadOnly(HffsError):
    """A change was asked of a read-only file system."""


class IsDirectory(HffsError):
    pass


class NotDirectory(HffsError):
    pass


class NoAttribute(HffsError):
    """The extended attribute does not exist."""


class AttributeTooLong(HffsError):
    """The extended attribute does not fit into what the caller has room for."""


class BadHandle(HffsError):
    """The handle is not open."""


def worst(exit_codes: Iterable[int]) -> int:
    """The exit code that several failures together have; 1 for none."""
    known = [code if code in _WORST_FIRST else 1 for code in exit_codes]
    return min(known, key=_WORST_FIRST.index, default=1)
