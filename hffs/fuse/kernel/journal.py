"""The handle journal: which files are open, in a small file that outlives the process that serves them.

The kernel never tells a new worker what is open: answered OPENs are not sent again. ``passthrough`` writes a record
before each OPEN is answered and another when the handle goes, and reads them back after a restart. The file survives
kill -9, not the machine: neither does the mount. It is written with one append of whole records, so that what a dying
worker leaves is whole records and perhaps a torn one at the end. Not thread-safe: its owner's lock guards it.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from struct import Struct
from typing import Final
from zlib import crc32

log = logging.getLogger(__name__)

_RECORD: Final = Struct("=BxxxiQQ")  # kind, backing id, handle, node; then the CRC of these
_CRC: Final = Struct("=I4x")
RECORD_SIZE: Final = _RECORD.size + _CRC.size
_OPENED: Final = 1
_RELEASED: Final = 2
_NO_BACKING: Final = -1
# Records between two looks at whether the file is worth rewriting: 2 MiB of a tmpfs, an hour of 10 opens a second.
COMPACT_AFTER: Final = 32768


@dataclass(slots=True)
class OpenNode:
    """The open handles of one node. ``backing`` is the passthrough id they share, None for ordinary ones."""

    backing: int | None
    handles: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Replay:
    """What a journal says: the open nodes, and ids that nobody uses any more but that were perhaps not closed."""

    nodes: dict[int, OpenNode] = field(default_factory=dict)
    orphans: set[int] = field(default_factory=set)


def encode(opened: bool, handle: int, node: int = 0, backing: int | None = None) -> bytes:
    """One record."""
    body = _RECORD.pack(_OPENED if opened else _RELEASED, _NO_BACKING if backing is None else backing, handle, node)
    return body + _CRC.pack(crc32(body))


def replay(data: bytes) -> Replay:
    """What the whole records at the beginning of ``data`` say; a torn or damaged one ends it."""
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
            gone = where.pop(handle, None)
            if gone is not None:
                found.nodes[gone].handles.discard(handle)
                if not found.nodes[gone].handles:
                    del found.nodes[gone]
    found.orphans = seen - {opened.backing for opened in found.nodes.values() if opened.backing is not None}
    return found


class Journal:
    """The journal at ``path``. ``nodes`` are the open handles: read from the file here, from then on kept by the owner,
    and what the file is rewritten from when it has grown. ``working`` is False once it could not be written: then the
    file is gone, and a worker after us finds it lost."""

    def __init__(self, path: str, *, resume: bool = False) -> None:
        """Begins anew, or with what a process before us left. ``lost`` then says that it left nothing to go by."""
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
        """Remember a handle; called before its OPEN is answered."""
        self._append(encode(True, handle, node, backing))

    def released(self, handle: int) -> None:
        """Forget a handle."""
        self._append(encode(False, handle))

    def close(self) -> None:
        """The file stays: whoever ends the mount removes it."""
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
        """A file of the open handles only takes the journal's place."""
        records = [
            encode(True, handle, node, held.backing) for node, held in self.nodes.items() for handle in held.handles
        ]
        temporary = f"{self._path}.tmp"
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                data = memoryview(b"".join(records))
                while data:
                    data = data[os.write(fd, data) :]
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
        """A journal that lacks a handle is worse than none: the next worker would open that node the wrong way."""
        log.error("event=journal-unusable error=%s", error)
        self.working = False
        self.close()
        for path in (self._path, f"{self._path}.tmp"):
            with suppress(OSError):
                os.unlink(path)
