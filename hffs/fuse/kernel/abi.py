"""The kernel's FUSE messages: each struct beside its name in linux/fuse.h (7.45), each constant by its name there.

Packing and unpacking only. The byte order is the machine's own.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Final, NamedTuple

MAJOR: Final = 7
MINOR: Final = 40  # the first with passthrough; an older kernel's lower number is used in INIT
ROOT_ID: Final = 1  # FUSE_ROOT_ID
MIN_READ_BUFFER: Final = 8192  # FUSE_MIN_READ_BUFFER
UNIQUE_RESEND: Final = 1 << 63  # FUSE_UNIQUE_RESEND


class Op(IntEnum):
    """enum fuse_opcode: the operations that a read-only file system answers other than with ENOSYS."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    READLINK = 5
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    GETXATTR = 22
    LISTXATTR = 23
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    READDIRPLUS = 44


# Requests without a reply.
UNANSWERED: Final = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT, Op.NOTIFY_REPLY})


class Init(IntFlag):
    """INIT flags; those from bit 32 on are in ``flags2``."""

    ASYNC_READ = 1 << 0
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    EXPLICIT_INVAL_DATA = 1 << 25
    INIT_EXT = 1 << 30
    PASSTHROUGH = 1 << 37
    HAS_RESEND = 1 << 39


class OpenFlag(IntFlag):
    """FOPEN_*"""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    PASSTHROUGH = 1 << 7


class NotifyCode(IntEnum):
    """enum fuse_notify_code"""

    INVAL_INODE = 2
    RESEND = 7


# _IOW(229, 1, struct fuse_backing_map), _IOW(229, 2, uint32_t)
DEV_IOC_BACKING_OPEN: Final = 0x4010E501
DEV_IOC_BACKING_CLOSE: Final = 0x4004E502

in_header: Final = Struct("=IIQQIIIHH")  # fuse_in_header: len opcode unique nodeid uid gid pid total_extlen padding
out_header: Final = Struct("=IiQ")  # fuse_out_header: len error unique
init_in: Final = Struct("=IIII")  # fuse_init_in: major minor max_readahead flags, then flags2 of newer kernels
init_in_flags2: Final = Struct("=I")
init_out: Final = Struct("=IIIIHHIIHHII6I")  # fuse_init_out: … max_pages map_alignment flags2 max_stack_depth unused[6]
attr: Final = Struct("=QQQQQQIIIIIIIIII")  # fuse_attr
entry_out: Final = Struct("=QQQQII")  # fuse_entry_out before its attr
attr_out: Final = Struct("=QII")  # fuse_attr_out before its attr
open_in: Final = Struct("=II")  # fuse_open_in: flags open_flags
open_out: Final = Struct("=QIi")  # fuse_open_out: fh open_flags backing_id
read_in: Final = Struct("=QQIIQII")  # fuse_read_in: fh offset size read_flags lock_owner flags padding
release_in: Final = Struct("=QIIQ")  # fuse_release_in: fh flags release_flags lock_owner
getxattr_in: Final = Struct("=II")  # fuse_getxattr_in: size padding
getxattr_out: Final = Struct("=II")  # fuse_getxattr_out: size padding
kstatfs: Final = Struct("=QQQQQIIII6I")  # fuse_kstatfs: blocks bfree bavail files ffree bsize namelen frsize padding
interrupt_in: Final = Struct("=Q")  # fuse_interrupt_in: unique
dirent: Final = Struct("=QQII")  # fuse_dirent before its name: ino off namelen type
inval_inode_out: Final = Struct("=Qqq")  # fuse_notify_inval_inode_out: ino off len
backing_map: Final = Struct("=iIQ")  # fuse_backing_map: fd flags padding
backing_id: Final = Struct("=i")


class RequestHeader(NamedTuple):
    """The part of fuse_in_header that is used."""

    length: int
    opcode: int
    unique: int
    node: int

    @property
    def number(self) -> int:
        """The request's number without the resend bit, which occurs once in the life of a mount, over all workers."""
        return self.unique & ~UNIQUE_RESEND


def parse_header(message: memoryview) -> RequestHeader:
    """Raises ValueError for a message shorter than a header or of another length than its header says."""
    if len(message) < in_header.size:
        raise ValueError(f"a message of {len(message)} bytes")
    length, opcode, unique, node, *_ = in_header.unpack_from(message)
    if length != len(message):
        raise ValueError(f"a message of {len(message)} bytes whose header says {length}")
    return RequestHeader(length, opcode, unique, node)


class InitRequest(NamedTuple):
    """An INIT request: the kernel's protocol version and read-ahead, and the flags it offers."""

    unique: int
    major: int
    minor: int
    readahead: int
    offered: Init

    def reply(self, flags: Init, *, background: int, congestion: int, write: int, pages: int, stack: int) -> bytes:
        """Returns the body of a reply that accepts ``flags`` with these limits: background requests, and those until
        congestion, bytes of a write, pages of a request, depth of stacked file systems."""
        return init_out.pack(
            MAJOR, min(self.minor, MINOR), self.readahead, flags & 0xFFFFFFFF, background, congestion,
            write, 1, pages, 0, flags >> 32, stack, *[0] * 6,
        )  # fmt: skip


def parse_init(message: memoryview) -> InitRequest:
    """Raises ValueError for a message that is no INIT request."""
    header = parse_header(message)
    if header.opcode != Op.INIT:
        raise ValueError(f"its opcode is {header.opcode}")
    try:
        major, minor, readahead, low = init_in.unpack_from(message, in_header.size)
        # Before 7.36 the bytes after the first flags are no flags.
        at = in_header.size + init_in.size
        high = init_in_flags2.unpack_from(message, at)[0] if low & Init.INIT_EXT else 0
    except StructError as error:
        raise ValueError(str(error)) from error
    return InitRequest(header.unique, major, minor, readahead, Init(low | high << 32))


def name_in(body: memoryview) -> bytes:
    """Returns the NUL-terminated name at the start of a body. Raises ValueError if there is none."""
    text, end, _ = bytes(body).partition(b"\0")
    if not end or not text:
        raise ValueError("a name without an end")
    return text


def padded(length: int) -> int:
    """Returns ``length`` rounded up to 8 bytes, the alignment of records (FUSE_REC_ALIGN)."""
    return (length + 7) & ~7
