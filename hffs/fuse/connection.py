"""What of a mount's connection to the kernel outlives the process that serves it. A value; asks nothing of anybody."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Connection:
    """A /dev/fuse descriptor that is mounted and whose INIT was answered: with these flags (FUSE_* of linux/fuse.h,
    those from bit 32 on as in ``flags2``) and this minor version. The kernel never sends INIT again."""

    fd: int
    flags: int
    minor: int

    @property
    def may_be_resumed(self) -> bool:
        """Whether another process can take over: the kernel then sends unanswered requests again when it is asked to
        (FUSE_HAS_RESEND, Linux 6.9). Without that their readers would wait for ever."""
        return bool(self.flags & 1 << 39)


@dataclass(frozen=True, slots=True)
class Resumption:
    """A connection that another worker served until it died. ``refuse_resent``: requests that were in its hands are
    answered EIO, since one of them may be what kills workers."""

    connection: Connection
    refuse_resent: bool = False
