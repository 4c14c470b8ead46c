"""The operations of the FUSE protocol on a file system: request bodies in, reply bodies out.

``Operations.answer`` returns the parts of a reply, or a PendingRead whose bytes will be the reply, and never writes to
the device. ``may_wait`` predicts whether a request may need the network, so that it does not run on a thread that
serves all others. Any thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ...errors import AttributeTooLong, EntryNotFound
from ...vfs import Attributes, Filesystem, Node, PageCache, PendingRead
from . import abi
from .passthrough import Passthrough

# Names and content of a commit never change, so the kernel may cache names, missing ones included, and attributes. Only
# st_blocks of an incomplete file changes and may be a minute old; once the file is local a notification drops them.
VALID_SECONDS: Final = 3600
ARRIVING_SECONDS: Final = 60
BLOCK: Final = 4096  # st_blksize, and the unit of statfs

_OPEN_FLAGS: Final = {
    PageCache.KEEP: abi.OpenFlag.KEEP_CACHE,
    PageCache.DROP_AT_OPEN: abi.OpenFlag(0),
    PageCache.BYPASS: abi.OpenFlag.DIRECT_IO,
}

Parts = tuple["bytes | memoryview", ...]
Answer = Parts | PendingRead


@dataclass(frozen=True, slots=True)
class OpenDirectory:
    """A listing as of OPENDIR, so that offsets into it stay valid."""

    node: Node
    children: Sequence[Node]


class Operations:
    """The operations of one mount. A handle is the number of the OPEN that created it."""

    def __init__(self, filesystem: Filesystem, passthrough: Passthrough) -> None:
        self._filesystem = filesystem
        self._passthrough = passthrough
        self._view = filesystem.view
        self._owner = (os.geteuid(), os.getegid())
        self._lock = threading.Lock()
        # guarded by _lock
        self._directories: dict[int, OpenDirectory] = {}
        self._answers: dict[int, Callable[[abi.RequestHeader, memoryview], Answer]] = {
            abi.Op.LOOKUP: self._lookup,
            abi.Op.GETATTR: self._getattr,
            abi.Op.READLINK: self._readlink,
            abi.Op.OPEN: self._open,
            abi.Op.READ: self._read,
            abi.Op.RELEASE: self._release,
            abi.Op.OPENDIR: self._opendir,
            abi.Op.READDIR: self._readdir,
            abi.Op.READDIRPLUS: self._readdir,
            abi.Op.RELEASEDIR: self._releasedir,
            abi.Op.STATFS: self._statfs,
            abi.Op.GETXATTR: self._getxattr,
            abi.Op.LISTXATTR: self._listxattr,
        }

    def knows(self, opcode: int) -> bool:
        return opcode in self._answers

    def may_wait(self, header: abi.RequestHeader, body: memoryview) -> bool:
        """Returns whether answering may need the network or take long. Raises EntryNotFound, ValueError."""
        opcode = header.opcode
        if opcode == abi.Op.READ or opcode == abi.Op.RELEASE:  # noqa: PLR1714 - the two most frequent
            return opcode == abi.Op.READ and self._reopening_waits(header, body)
        if opcode == abi.Op.LOOKUP:
            return self._view.lookup_waits(self._view.node(header.node), abi.name_in(body).decode("utf-8", "replace"))
        if opcode == abi.Op.OPENDIR:
            return self._view.listing_waits(self._view.node(header.node))
        if opcode in {abi.Op.READDIR, abi.Op.READDIRPLUS}:
            handle, *_ = abi.read_in.unpack_from(body)
            return handle not in self._directories and self._view.listing_waits(self._view.node(header.node))
        if opcode == abi.Op.OPEN:
            return self._view.open_waits(self._view.node(header.node))
        if opcode in {abi.Op.GETATTR, abi.Op.GETXATTR}:
            return self._view.attributes_wait(self._view.node(header.node))
        return False

    def answer(self, header: abi.RequestHeader, body: memoryview) -> Answer:
        """Raises HffsError; ValueError and struct.error for a malformed message."""
        return self._answers[header.opcode](header, body)

    def undo(self, header: abi.RequestHeader) -> None:
        """Closes what ``answer`` opened, if its process was interrupted meanwhile."""
        if header.opcode == abi.Op.OPEN:
            self._passthrough.release(header.node, header.number)
            self._filesystem.release(header.number)
        elif header.opcode == abi.Op.OPENDIR:
            with self._lock:
                self._directories.pop(header.number, None)

    # --- names and attributes ---------------------------------------------------------------------------------------

    def _lookup(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        name, parent = abi.name_in(body), self._view.node(header.node)
        seconds = _names_valid(parent)
        try:
            node = self._view.lookup(parent, name.decode("utf-8"))
        except (EntryNotFound, UnicodeDecodeError):
            # Node 0: no such name, which the kernel may cache.
            return (abi.entry_out.pack(0, 0, seconds, 0, 0, 0), abi.attr.pack(*[0] * 16))
        return (self._entry(node, seconds),)

    def _getattr(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        del body
        node = self._view.node(header.node)
        found = self._view.attributes(node)
        return (abi.attr_out.pack(_valid(node, found), 0, 0) + self._attr(found),)

    def _entry(self, node: Node, seconds: int) -> bytes:
        """``seconds``: for how long the kernel may cache the name."""
        found = self._view.attributes(node)
        return abi.entry_out.pack(node.id, 0, seconds, _valid(node, found), 0, 0) + self._attr(found)

    def _attr(self, found: Attributes) -> bytes:
        seconds = int(found.mtime)
        fraction = int((found.mtime - seconds) * 1e9)
        uid, gid = self._owner
        links = 2 if found.is_directory else 1
        return abi.attr.pack(
            found.node, found.size, found.blocks, seconds, seconds, seconds,
            fraction, fraction, fraction, found.mode, links, uid, gid, 0, BLOCK, 0,
        )  # fmt: skip

    def _statfs(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        del header, body
        space = self._view.space()
        total, free = space.total // BLOCK, space.free // BLOCK
        return (abi.kstatfs.pack(total, free, free, 0, 0, BLOCK, 255, BLOCK, 0, *[0] * 6),)

    # --- files ------------------------------------------------------------------------------------------------------

    def _readlink(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        del body
        return (os.fsencode(self._view.readlink(self._view.node(header.node))),)

    def _open(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        del body
        node = self._view.node(header.node)
        handle = self._filesystem.open(node, header.number)
        try:
            backing = self._passthrough.open(header.node, handle, lambda: self._filesystem.dup_fd(handle))
        except BaseException:  # the kernel never releases a handle that it was not given
            self._filesystem.release(handle)
            raise
        if backing is None:
            return (abi.open_out.pack(handle, _OPEN_FLAGS[node.content.page_cache], 0),)
        return (abi.open_out.pack(handle, abi.OpenFlag.PASSTHROUGH, backing),)

    def _read(self, header: abi.RequestHeader, body: memoryview) -> Answer:
        handle, offset, size, *_ = abi.read_in.unpack_from(body)
        if not self._filesystem.is_open(handle) and self._passthrough.holds(header.node, handle):
            self._filesystem.open(self._view.node(header.node), handle)  # opened under an earlier worker
        answer = self._filesystem.read(handle, offset, size)
        return (answer,) if isinstance(answer, bytes) else answer

    def _release(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        handle, *_ = abi.release_in.unpack_from(body)
        self._passthrough.release(header.node, handle)
        self._filesystem.release(handle)
        return ()

    def _reopening_waits(self, header: abi.RequestHeader, body: memoryview) -> bool:
        handle, *_ = abi.read_in.unpack_from(body)
        return not self._filesystem.is_open(handle) and self._view.attributes_wait(self._view.node(header.node))

    # --- directories ------------------------------------------------------------------------------------------------

    def _opendir(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        del body
        node = self._view.node(header.node)
        opened = OpenDirectory(node, self._view.children(node))
        with self._lock:
            self._directories[header.number] = opened
        cached = abi.OpenFlag.KEEP_CACHE | abi.OpenFlag.CACHE_DIR if _names_valid(node) else 0
        return (abi.open_out.pack(header.number, cached, 0),)

    def _releasedir(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        del header
        handle, *_ = abi.release_in.unpack_from(body)
        with self._lock:
            self._directories.pop(handle, None)
        return ()

    def _readdir(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        """Returns as many records from ``offset`` on as fit into ``size`` bytes. A record's ``off`` is that of the next
        record: 1 and 2 follow the two dots, then the children in order."""
        plus = header.opcode == abi.Op.READDIRPLUS
        handle, offset, size, *_ = abi.read_in.unpack_from(body)
        opened = self._directories.get(handle)
        if opened is None:  # opened under an earlier worker; a commit's listing does not change
            node = self._view.node(header.node)
            opened = OpenDirectory(node, self._view.children(node))
            with self._lock:
                opened = self._directories.setdefault(handle, opened)
        parts: list[bytes] = []
        left, seconds = size, _names_valid(opened.node)
        while offset < len(opened.children) + 2:
            if offset < 2:
                record = self._record(opened.node, b"." * (offset + 1), offset + 1, plus=plus, dots=True, seconds=0)
            else:
                node = opened.children[offset - 2]
                name = node.name.encode("utf-8", "surrogateescape")
                record = self._record(node, name, offset + 1, plus=plus, dots=False, seconds=seconds)
            if len(record) > left:
                break
            parts.append(record)
            left -= len(record)
            offset += 1
        return (b"".join(parts),)

    def _record(self, node: Node, name: bytes, after: int, *, plus: bool, dots: bool, seconds: int) -> bytes:
        tail = abi.dirent.pack(node.id, after, len(name), node.content.format >> 12) + name  # DT_DIR, DT_REG, DT_LNK
        tail = tail.ljust(abi.padded(len(tail)), b"\0")
        if not plus:
            return tail
        if dots or self._view.attributes_wait(node):  # node 0: without attributes, and not counted as looked up
            return abi.entry_out.pack(0, 0, 0, 0, 0, 0) + abi.attr.pack(*[0] * 16) + tail
        return self._entry(node, seconds) + tail

    # --- extended attributes ----------------------------------------------------------------------------------------

    def _getxattr(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        size, _ = abi.getxattr_in.unpack_from(body)
        name = abi.name_in(body[abi.getxattr_in.size :])
        return self._sized(self._filesystem.xattr(self._view.node(header.node), name.decode("utf-8", "replace")), size)

    def _listxattr(self, header: abi.RequestHeader, body: memoryview) -> Parts:
        size, _ = abi.getxattr_in.unpack_from(body)
        names = self._filesystem.xattr_names(self._view.node(header.node))
        return self._sized(b"".join(name.encode() + b"\0" for name in names), size)

    @staticmethod
    def _sized(value: bytes, size: int) -> Parts:
        if not size:  # only the length is requested
            return (abi.getxattr_out.pack(len(value), 0),)
        if len(value) > size:
            raise AttributeTooLong(f"the attribute has {len(value)} bytes, and the buffer {size}")
        return (value,)


def _names_valid(directory: Node) -> int:
    """Returns for how many seconds the kernel may cache names of a directory, missing ones included."""
    return VALID_SECONDS if directory.content.page_cache is PageCache.KEEP else 0


def _valid(node: Node, found: Attributes) -> int:
    """Returns for how many seconds the kernel may cache attributes."""
    if found.lasting:
        return VALID_SECONDS
    return ARRIVING_SECONDS if node.content.page_cache is PageCache.KEEP else 0
