"""How much a cache directory holds, has reserved, and may hold: one small file for all processes.

    magic, version, CRC32, bytes held, when counted | 128 slots: limit, bytes reserved

Each process has a slot and an OFD lock on the slot's byte (far behind the file's end). When it dies, the kernel
releases the lock, and its limit and reservations end. The table is read and written under flock(2), for a
few system calls at a time. It is never fsynced: a process that starts alone counts again.

Used by ``CacheBudget`` only. It counts and evicts nothing itself. Any thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ...errors import CacheUnusable
from ..store.checksum import crc32
from ..store.layout import disk_errors
from ..store.locks import CLOSED_FD, OPEN_FLAGS, poll, try_flock, try_lock, unlock

SLOTS: Final = 128  # processes on one cache at once; a mount is one
_MAGIC: Final = b"hffsledg"
_VERSION: Final = 1
# Magic, version, CRC32 of all behind it, held, counted; then limit (0: none) and reserved of each slot.
_TABLE: Final = struct.Struct(f"<8sIIqq{2 * SLOTS}q")
_CHECKED: Final = 16  # offset of what the CRC covers
_LIVING: Final = 1 << 62  # slot n counts while a process has a lock on this byte + n
_PATIENCE_S: Final = 10.0  # as for the locks of a blob: the table is locked for a handful of system calls
_MOST: Final = 1 << 60  # bytes; sums of larger values might not fit into the table


@dataclass(frozen=True, slots=True)
class Account:
    """The ledger at a moment, in bytes. ``limit`` is the smallest of all living processes; ``counted`` is when the
    directory was last counted (seconds since the epoch; 0: never)."""

    held: int
    reserved: int
    limit: int | None
    counted: int


class _Table:
    """The file's content, unpacked. Slots without a living process are 0."""

    __slots__ = ("counted", "held", "slots")

    def __init__(self, raw: bytes) -> None:
        self.held = self.counted = 0
        self.slots = [0] * (2 * SLOTS)  # limit and reserved, in turn
        if len(raw) != _TABLE.size:
            return
        magic, version, crc, self.held, self.counted, *self.slots = _TABLE.unpack(raw)
        # Anything else was truncated, or is of another version: the directory is counted again then.
        values = (self.held, self.counted, *self.slots)
        sane = all(-_MOST <= each <= _MOST for each in values)  # held may be below 0 until the next count
        if (magic, version) != (_MAGIC, _VERSION) or crc != crc32(raw[_CHECKED:]) or not sane:
            self.__init__(b"")  # type: ignore[misc]

    def packed(self) -> bytes:
        raw = _TABLE.pack(_MAGIC, _VERSION, 0, self.held, self.counted, *self.slots)
        return raw[: _CHECKED - 4] + crc32(raw[_CHECKED:]).to_bytes(4, "little") + raw[_CHECKED:]

    def account(self) -> Account:
        limit = min(filter(None, self.slots[::2]), default=None)
        return Account(self.held, sum(self.slots[1::2]), limit, self.counted)


class Ledger:
    """The ledger of a cache directory as one process uses it; ``limit`` is that of this process. Opened at first use.
    All methods raise CacheUnusable, NoSpace."""

    def __init__(self, path: str, limit: int | None = None) -> None:
        self.path = path
        self.stale = False  # a process died with bytes reserved, of which some may be on disk: a count is due
        self._limit = limit or 0
        self._lock = threading.Lock()
        # guarded by _lock
        self._fd = CLOSED_FD
        self._slot = -1
        self._reserved = 0
        self._alone = self._closed = False

    def reserve(self, size: int, ceiling: int | None = None) -> int | None:
        """Reserves ``size`` bytes and returns 0; else returns by how many bytes the limit would be exceeded, or None
        when the directory has never been counted. ``ceiling`` is another limit, for this call."""
        with self._opened() as table:
            account = table.account()
            if not account.counted:
                return None
            most = min((each for each in (account.limit, ceiling) if each is not None), default=None)
            over = 0 if most is None else max(0, account.held + account.reserved + size - most)
            if not over:
                self._reserved += size
            return over

    def settle(self, reserved: int, stored: int) -> None:
        """Ends a reservation: ``stored`` bytes (which may exceed it) are on disk now."""
        with self._opened() as table:
            self._reserved -= reserved
            table.held += stored

    def adjust(self, more: int) -> None:
        """Adds bytes that came to the disk without a reservation, or (negative) were freed."""
        with self._opened() as table:
            table.held += more

    def read(self) -> Account:
        with self._opened() as table:
            return table.account()

    def record_count(self, found: int, before: Account, now: float) -> None:
        """Records a count of the directory; what has changed since ``before`` was read is added."""
        with self._opened() as table:
            table.held = max(0, found + table.held - before.held)
            table.counted = max(1, int(now))
            self.stale = False

    def is_alone(self) -> bool:
        """Whether no other process had a slot when this one claimed its own."""
        with self._opened():
            return self._alone

    def close(self) -> None:
        """Releases the slot and what is reserved; later calls raise CacheUnusable."""
        with self._lock:
            fd, self._fd, self._closed = self._fd, CLOSED_FD, True
        if fd != CLOSED_FD:
            os.close(fd)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[_Table]:
        """Yields the table, locked, and writes it back at the end."""
        with disk_errors(f"the cache's ledger {self.path}"), self._lock, self._locked() as fd:
            raw = os.pread(fd, _TABLE.size + 1, 0)
            table = _Table(raw)
            self._reap(table)
            table.slots[2 * self._slot : 2 * self._slot + 2] = self._limit, self._reserved
            yield table
            table.slots[2 * self._slot : 2 * self._slot + 2] = self._limit, self._reserved
            packed = table.packed()
            if packed != raw:
                os.pwrite(fd, packed, 0)
                if len(raw) > _TABLE.size:
                    os.truncate(fd, _TABLE.size)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        if self._closed:
            raise CacheUnusable(f"the cache's ledger {self.path} is closed")
        if not poll(self._try_lock, _PATIENCE_S):
            raise CacheUnusable(
                f"another process has kept {self.path} locked for {_PATIENCE_S:.0f} s",
                "check whether one of your hffs processes is stopped or hangs",
            )
        fd = self._fd
        try:
            if self._slot < 0:
                self._claim_slot(fd)
            yield fd
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def _try_lock(self) -> bool:
        """Locks the file, opened first where it is not open, or was removed with the whole cache."""
        while True:
            if self._fd == CLOSED_FD:
                os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600)
                self._slot = -1
            if not try_flock(self._fd):
                return False
            if os.fstat(self._fd).st_nlink:
                return True
            fd, self._fd = self._fd, CLOSED_FD
            os.close(fd)

    def _claim_slot(self, fd: int) -> None:
        """Claims a free slot."""
        self._alone = True
        for slot in range(SLOTS):
            if not try_lock(fd, _LIVING + slot, 1):
                self._alone = False
            elif self._slot < 0:
                self._slot = slot
            else:
                unlock(fd, _LIVING + slot, 1)
        if self._slot < 0:
            raise CacheUnusable(f"{SLOTS} processes use the cache already", "choose another --cache-dir")

    def _reap(self, table: _Table) -> None:
        """Clears slots whose process no longer holds its liveness lock."""
        if not any(table.slots):
            return
        for slot in {at // 2 for at, value in enumerate(table.slots) if value}:
            if slot != self._slot and try_lock(self._fd, _LIVING + slot, 1):
                self.stale = self.stale or bool(table.slots[2 * slot + 1])
                table.slots[2 * slot : 2 * slot + 2] = 0, 0
                unlock(self._fd, _LIVING + slot, 1)
