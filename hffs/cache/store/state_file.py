"""The state file of a blob: which blocks are present, their CRCs, when they were used, and the verification.

    header, 1024 bytes | presence, 1 a block | counts, 1 a block | CRC32s, 4 a block | last uses, 4 for 64 blocks

A presence byte is 0 for absent, else 1..250, counting up with each publication, so that a reader that sees the same
byte before and after it read the data knows that the block did not change meanwhile; while a block is absent,
``counts`` keeps the last number used. Everything is little-endian, allocated at creation, and read and written by pread
and pwrite: a store into a hole of a mapped file is SIGBUS when the disk is full.

Takes no locks: the callers hold them. OSErrors are not translated. Any thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ...errors import CacheUnusable
from ...files import write_all
from ...model import Blob, Digest
from ...names import MOST_SIZE
from ...ranges import BLOCK_SIZE, block_count, block_length
from .checksum import crc32
from .layout import etag_name
from .locks import CLOSED_FD, OPEN_FLAGS

VERSION: Final = 1
# Offset of the presence bytes; with this value a blob of up to 140 MiB costs one 4 KiB page of state.
PRESENCE: Final = 1024
GROUP: Final = 64  # blocks that share one time of last use
_MAGIC: Final = b"hffsblob"
# Magic, version, CRC32 of the 1024 bytes with this field 0; the same in all versions.
_PREFIX: Final = struct.Struct("<8sII")
# Block size, blob size, pinned, digest, lengths of etag and origin, boot id.
_FIXED: Final = struct.Struct("<IQBBHH36s")
_RECORD: Final = struct.Struct("<32sQQQQqq")  # digest, when, dev, inode, size, mtime_ns, ctime_ns
_TEXTS: Final = _PREFIX.size + _FIXED.size + _RECORD.size
_ALGORITHMS: Final[tuple[Literal["sha256", "git-sha1"], ...]] = ("sha256", "git-sha1")  # stored as 1 and 2
_MOST_TEXT: Final = 400  # bytes of etag, and of origin
_ZEROS: Final = re.compile(rb"\0+")
_NEXT: Final = bytes(last % 250 + 1 for last in range(256))  # translates each publication's number to the next


class Damaged(Exception):
    """The file is not what was written; nothing in it can be relied on."""


@dataclass(frozen=True, slots=True)
class FileMark:
    """What changes when a file is replaced or written: dev, inode, size, mtime_ns, ctime_ns."""

    dev: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: int | os.stat_result) -> FileMark:
        """Of an open descriptor or a stat result. Raises OSError."""
        seen = os.fstat(file) if isinstance(file, int) else file
        return cls(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class VerificationRecord:
    """The whole blob had this digest ``at`` (seconds since the epoch), when its data file had this mark."""

    digest: Digest
    at: int
    mark: FileMark


@dataclass(frozen=True, slots=True)
class StateHeader:
    """The header: what is known of a blob as a whole."""

    etag: str
    origin: str
    size: int
    boot_id: str
    pinned: bool = False
    verification: VerificationRecord | None = None

    @classmethod
    def of(
        cls, blob: Blob, boot_id: str, pinned: bool = False, verification: VerificationRecord | None = None
    ) -> StateHeader:
        return cls(_stored(blob.etag), _stored(blob.origin), blob.size, boot_id, pinned, verification)

    def encode(self) -> bytes:
        etag, origin = self.etag.encode(), self.origin.encode()
        record, algorithm = bytes(_RECORD.size), 0
        if self.verification is not None:
            digest, mark = self.verification.digest, self.verification.mark
            algorithm = _ALGORITHMS.index(digest.algorithm) + 1
            raw = bytes.fromhex(digest.hex)
            stamps = (mark.dev, mark.inode, mark.size, mark.mtime_ns, mark.ctime_ns)
            record = _RECORD.pack(raw, self.verification.at, *stamps)
        fixed = _FIXED.pack(
            BLOCK_SIZE, self.size, self.pinned, algorithm, len(etag), len(origin), self.boot_id.encode()[:36]
        )
        body = (fixed + record + etag + origin).ljust(PRESENCE - _PREFIX.size, b"\0")
        crc = crc32(body, crc32(_PREFIX.pack(_MAGIC, VERSION, 0)))
        return _PREFIX.pack(_MAGIC, VERSION, crc) + body

    @classmethod
    def decode(cls, raw: bytes, path: str) -> StateHeader:
        """Raises Damaged; CacheUnusable for an undamaged header of a newer version."""
        if len(raw) < PRESENCE:
            raise Damaged("it is too short")
        magic, version, crc = _PREFIX.unpack_from(raw)
        if magic != _MAGIC or crc != crc32(raw[_PREFIX.size :], crc32(_PREFIX.pack(magic, version, 0))):
            raise Damaged("its header does not match its checksum")
        if version > VERSION:
            raise CacheUnusable(
                f"{path} was written by a newer hffs (format {version})",
                "upgrade hffs, choose another --cache-dir, or delete that file to fetch the blob anew",
            )
        block_size, size, pinned, algorithm, etag_bytes, origin_bytes, boot = _FIXED.unpack_from(raw, _PREFIX.size)
        if version < VERSION or block_size != BLOCK_SIZE or algorithm > len(_ALGORITHMS):
            raise Damaged(f"it has format {version} with blocks of {block_size} bytes")
        verification = None
        if algorithm:
            digest, at, *stamps = _RECORD.unpack_from(raw, _PREFIX.size + _FIXED.size)
            name = _ALGORITHMS[algorithm - 1]
            hexed = digest.hex()[: 64 if name == "sha256" else 40]
            verification = VerificationRecord(Digest(name, hexed), at, FileMark(*stamps))
        if etag_bytes > _MOST_TEXT or origin_bytes > _MOST_TEXT or size > MOST_SIZE:
            raise Damaged("its header holds impossible values")
        try:
            etag = raw[_TEXTS : _TEXTS + etag_bytes].decode()
            origin = raw[_TEXTS + etag_bytes : _TEXTS + etag_bytes + origin_bytes].decode()
            boot_id = boot.rstrip(b"\0").decode()
        except UnicodeDecodeError:
            raise Damaged("its header holds no text") from None
        return cls(etag, origin, size, boot_id, bool(pinned), verification)

    def matches(self, blob: Blob) -> bool:
        return (self.etag, self.origin, self.size) == (_stored(blob.etag), _stored(blob.origin), blob.size)


def _stored(text: str) -> str:
    """An etag or origin as the header holds it: itself, or a name for it where it is too long or not UTF-8."""
    try:
        return text if len(text.encode()) <= _MOST_TEXT else etag_name(text)
    except UnicodeEncodeError:
        return etag_name(text)


class StateFile:
    """An open state file. ``size`` is that of the blob, in bytes. The caller closes it."""

    def __init__(self, fd: int, path: str, size: int) -> None:
        self.fd = fd
        self.path = path
        self.size = size
        self.blocks = block_count(size)
        self._counts = PRESENCE + self.blocks
        self._crcs = -(-(self._counts + self.blocks) // 4) * 4
        self._used = self._crcs + 4 * self.blocks
        self.length = self._used + 4 * -(-self.blocks // GROUP)

    @classmethod
    def create(cls, path: str, blob: Blob, boot_id: str) -> StateFile:
        """Creates a file in which every block is absent; it gets its name once it is whole. Raises OSError.

        The caller holds the blob's HEADER lock: all processes use the same temporary name."""
        temporary = path.removesuffix(".state") + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600)
        try:
            made = cls(fd, path, blob.size)
            os.posix_fallocate(fd, 0, made.length)
            made.write_header(StateHeader.of(blob, boot_id))
            os.rename(temporary, path)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        return made

    @classmethod
    def open(cls, path: str, *, writing: bool = True) -> tuple[StateFile, StateHeader]:
        """Opens a file and decodes its header. Raises Damaged, CacheUnusable (a newer version), OSError."""
        try:
            fd = os.open(path, (os.O_RDWR if writing else os.O_RDONLY) | OPEN_FLAGS)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
                raise Damaged("it is no regular file") from None
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Damaged("it is no regular file")
            header = StateHeader.decode(os.pread(fd, PRESENCE, 0), path)
            found = cls(fd, path, header.size)
            length = os.fstat(fd).st_size
            if length != found.length:
                raise Damaged(f"it has {length} bytes instead of {found.length}")
        except BaseException:
            os.close(fd)
            raise
        return found, header

    def close(self) -> None:
        fd, self.fd = self.fd, CLOSED_FD
        if fd != CLOSED_FD:
            os.close(fd)

    def header(self) -> StateHeader:
        """Reads the header, which another process may have changed. Raises Damaged, CacheUnusable, OSError."""
        return StateHeader.decode(os.pread(self.fd, PRESENCE, 0), self.path)

    def write_header(self, header: StateHeader) -> None:
        """Writes the header; the caller holds the blob's HEADER lock."""
        write_all(self.fd, header.encode(), 0)

    def presence(self, first: int, count: int) -> bytes:
        """Returns one byte a block; blocks past the end of a truncated file are absent."""
        return os.pread(self.fd, count, PRESENCE + first).ljust(count, b"\0")

    def missing(self, blocks: range) -> list[range]:
        """Returns the runs of ``blocks`` whose presence byte is 0."""
        present = self.presence(blocks.start, len(blocks))
        first = blocks.start
        return [range(first + run.start(), first + run.end()) for run in _ZEROS.finditer(present)]

    def local_bytes(self) -> int:
        """Returns the bytes of the blob in present blocks."""
        return self.bytes_of(0, self.presence(0, self.blocks))

    def bytes_of(self, first: int, presence: bytes) -> int:
        """Returns the bytes of those blocks, from ``first`` on, whose presence byte is not 0."""
        held = (len(presence) - presence.count(0)) * BLOCK_SIZE
        if presence and presence[-1] and first + len(presence) == self.blocks:
            held -= BLOCK_SIZE - block_length(self.blocks - 1, self.size)
        return held

    def counts(self, first: int, count: int) -> bytes:
        """Returns how often each of these blocks was published, modulo 250."""
        return os.pread(self.fd, count, self._counts + first)

    def next_counts(self, run: range) -> bytes:
        """Numbers the publications that begin now, 1..250, and records the numbers; the caller holds the locks."""
        counts = os.pread(self.fd, len(run), self._counts + run.start).ljust(len(run), b"\0").translate(_NEXT)
        write_all(self.fd, counts, self._counts + run.start)
        return counts

    def set_present(self, first: int, counts: bytes) -> None:
        write_all(self.fd, counts, PRESENCE + first)

    def set_absent(self, run: range) -> None:
        write_all(self.fd, bytes(len(run)), PRESENCE + run.start)

    def crcs(self, first: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", os.pread(self.fd, 4 * count, self._crcs + 4 * first).ljust(4 * count, b"\0"))

    def set_crcs(self, first: int, crcs: Sequence[int]) -> None:
        write_all(self.fd, struct.pack(f"<{len(crcs)}I", *crcs), self._crcs + 4 * first)

    def record_use(self, group: int, now: int, *, again: bool = False) -> None:
        """Records that a block of this group of 64 was used at ``now`` (seconds since the epoch, cut to 32 bits);
        ``again`` as in ``last_use``."""
        now = min(max(now, 0), 0xFFFF_FFFF)
        write_all(self.fd, (now & ~1 | again).to_bytes(4, "little"), self._used + 4 * group)

    def last_use(self, group: int) -> tuple[int, bool]:
        """Returns when a group was last used, to 2 seconds (0: never), and whether it was used repeatedly."""
        found = int.from_bytes(os.pread(self.fd, 4, self._used + 4 * group), "little")
        return found & ~1, bool(found & 1)

    def last_uses(self) -> list[int]:
        """Returns the last use of each group of 64 blocks, seconds since the epoch; 0: never, odd: used repeatedly."""
        count = -(-self.blocks // GROUP)
        return list(struct.unpack(f"<{count}I", os.pread(self.fd, 4 * count, self._used)))


def current_boot_id() -> str:
    """Returns the kernel's id of this boot; empty, always the same, where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
