"""The state of a mount's kernel connection that outlives the process serving it. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Connection:
    """A mounted /dev/fuse descriptor whose INIT was answered with these flags (FUSE_* of linux/fuse.h; bits 32 and up
    are ``flags2``) and this minor version. The kernel never sends INIT again."""

    fd: int
    flags: int
    minor: int

    @property
    def may_be_resumed(self) -> bool:
        """Whether another process can take over: the kernel can resend unanswered requests (FUSE_HAS_RESEND, Linux
        6.9). Without that, their readers would wait forever."""
        return bool(self.flags & 1 << 39)


@dataclass(frozen=True, slots=True)
class Resumption:
    """The connection of a worker that died or left. With ``refuse_resent``, requests it had not answered get EIO,
    since one of them may be what kills workers."""

    connection: Connection
    refuse_resent: bool = False
