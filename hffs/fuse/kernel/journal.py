"""The handle journal: the open files of a mount, in a small file that outlives the worker.

A new worker cannot ask the kernel which files are open: answered OPENs are not resent. ``passthrough`` writes a
record before each OPEN is answered and another at its release, and reads them back after a restart. The file survives
kill -9, but no reboot, like the mount itself. Each write appends whole records, so a killed worker leaves whole records
and at most a torn one at the end. Not thread-safe: the owner's lock guards it.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from struct import Struct
from typing import Final
from zlib import crc32

from ...files import write_all

log = logging.getLogger(__name__)

_RECORD: Final = Struct("=BxxxiQQ")  # kind, backing id, handle, node; then the CRC of these
_CRC: Final = Struct("=I4x")
RECORD_SIZE: Final = _RECORD.size + _CRC.size
_OPENED: Final = 1
_RELEASED: Final = 2
_NO_BACKING: Final = -1
# Records between two checks whether to compact the file: 2 MiB of a tmpfs, an hour of 10 opens a second.
COMPACT_AFTER: Final = 32768


@dataclass(slots=True)
class OpenNode:
    """The open handles of one node. ``backing`` is the passthrough id they share, None for ordinary ones."""

    backing: int | None
    handles: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Replay:
    """The content of a journal: the open nodes, and unused backing ids that may not have been closed."""

    nodes: dict[int, OpenNode] = field(default_factory=dict)
    orphans: set[int] = field(default_factory=set)


def encode(opened: bool, handle: int, node: int = 0, backing: int | None = None) -> bytes:
    """Returns one record."""
    body = _RECORD.pack(_OPENED if opened else _RELEASED, _NO_BACKING if backing is None else backing, handle, node)
    return body + _CRC.pack(crc32(body))


def replay(data: bytes) -> Replay:
    """Returns the state after the whole records at the start of ``data``; reading stops at a torn or damaged one."""
    found = Replay()
    where: dict[int, int] = {}
    seen: set[int] = set()
    for at in range(0, len(data) - RECORD_SIZE + 1, RECORD_SIZE):
        body = data[at : at + _RECORD.size]
        if _CRC.unpack_from(data, at + _RECORD.size)[0] != crc32(body):
            break
        kind, number, handle, node = _RECORD.unpack(body)
        if kind == _OPENED:
            backing = None if number == _NO_BACKING else number
            where[handle] = node
            found.nodes.setdefault(node, OpenNode(backing)).handles.add(handle)
            if backing is not None:
                seen.add(backing)
        else:
            released = where.pop(handle, None)
            if released is not None:
                found.nodes[released].handles.discard(handle)
                if not found.nodes[released].handles:
                    del found.nodes[released]
    found.orphans = seen - {opened.backing for opened in found.nodes.values() if opened.backing is not None}
    return found


class Journal:
    """The journal at ``path``. ``nodes`` are the open handles: read from the file here, maintained by the owner
    afterwards, and the source when the file is compacted. ``working`` becomes False when a write fails: the file is
    then deleted, and the next worker finds it lost."""

    def __init__(self, path: str, *, resume: bool = False) -> None:
        """Starts empty, or with ``resume`` from the earlier worker's file; ``lost`` is set if that cannot be read."""
        self._path = path
        self._fd = -1
        self._records = 0
        self._compact_at = COMPACT_AFTER
        self.working = True
        self.lost = False
        found = Replay()
        if resume:
            try:
                with open(path, "rb") as file:
                    found = replay(file.read())
            except OSError as error:
                log.error("event=journal-lost error=%s", error)
                self.lost = True
        self.nodes = found.nodes
        self.orphans = found.orphans
        if not self.lost:
            self._compact()

    def opened(self, handle: int, node: int, backing: int | None) -> None:
        """Records an open handle; called before its OPEN is answered."""
        self._append(encode(True, handle, node, backing))

    def released(self, handle: int) -> None:
        """Records a release."""
        self._append(encode(False, handle))

    def close(self) -> None:
        """Closes the file; the process that ends the mount deletes it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, record: bytes) -> None:
        if self._fd < 0:
            return
        try:
            written = os.write(self._fd, record)
            if written != len(record):
                raise OSError(f"{written} of {len(record)} bytes written")
        except OSError as error:
            self._give_up(error)
            return
        self._records += 1
        if self._records >= self._compact_at:
            self._compact()

    def _compact(self) -> None:
        """Replaces the file by one that holds the open handles only."""
        records = [
            encode(True, handle, node, held.backing) for node, held in self.nodes.items() for handle in held.handles
        ]
        temporary = f"{self._path}.tmp"
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                write_all(fd, b"".join(records))
                os.replace(temporary, self._path)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            self._give_up(error)
            return
        self.close()
        self._fd = fd
        self._records = len(records)
        self._compact_at = COMPACT_AFTER + 2 * len(records)

    def _give_up(self, error: OSError) -> None:
        """Deletes the journal: with a handle missing, the next worker would open that node in the wrong mode."""
        log.error("event=journal-unusable error=%s", error)
        self.working = False
        self.close()
        for path in (self._path, f"{self._path}.tmp"):
            with suppress(OSError):
                os.unlink(path)
