"""The read-only file system, knowing no protocol: bindings call it with nodes and handles and get values or our errors.

``read`` gives bytes at once or a ``Pending``: a binding may block on it or attach its reply. Attributes and names come
from the listing; only a name in a directory that was never listed, or a size the listing lacks, asks the network.
Any thread may call anything.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BadHandle, IsDirectory, NoAttribute
from ..transfer import BlobReader, CommitFiles, DiskSpace, Pending
from .tree import Node, Tree

XATTR_PREFIX = "user.hffs."


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat needs. ``blocks`` counts 512-byte units that are local: at least 1 for a file that is not empty, since
    ``tar -S`` archives zeros for a file of 0 blocks. ``lasting``: nothing of it can change any more."""

    node: int
    is_directory: bool
    size: int
    blocks: int
    mtime: float
    lasting: bool

    @property
    def mode(self) -> int:
        return 0o040555 if self.is_directory else 0o100444


@dataclass(frozen=True, slots=True)
class OpenHandle:
    node: Node
    reader: BlobReader


class Filesystem:
    """One mounted commit."""

    def __init__(self, tree: Tree, content: CommitFiles) -> None:
        self.tree = tree
        self._content = content
        self._lock = threading.Lock()
        # guarded by _lock
        self._handles: dict[int, OpenHandle] = {}
        self._numbers = itertools.count(1)

    def attributes(self, node: Node) -> Attributes:
        """Raises what asking for a missing size may raise."""
        mtime = self._content.commit.date
        if node.entry is None or node.entry.kind == "directory":
            return Attributes(node.id, True, 0, 0, mtime, lasting=True)
        entry = self._content.sized(node.entry)
        size = entry.size or 0
        local = self._content.local_bytes(entry)
        blocks = max(1, -(-local // 512)) if size else 0
        return Attributes(node.id, False, size, blocks, mtime, lasting=local >= size)

    def attributes_wait(self, node: Node) -> bool:
        """Whether ``attributes`` could ask the network: only where the listing told no size, once."""
        entry = node.entry
        return entry is not None and entry.kind == "file" and (entry.size is None or entry.etag is None)

    def on_attributes_changed(self, told: Callable[[int], None]) -> None:
        """``told(node number)`` when a file's attributes are no longer what they were; on any thread, so hand over."""

        def local(path: str) -> None:
            node = self.tree.known_path(path)
            if node is not None:
                told(node.id)

        self._content.on_local(local)

    def on_content_wrong(self, told: Callable[[int], None]) -> None:
        """``told(node number)`` for each node whose content proved wrong and was dropped; on any thread, so hand over.
        What was cached of it above must go too."""

        def wrong(etag: str) -> None:
            for node in self.tree.known_nodes(etag):
                told(node.id)

        self._content.on_mismatch(wrong)

    def open(self, node: Node, handle: int | None = None) -> int:
        """A handle, to be given back with ``release``: numbered here, or by the binding (``handle``; opening that one
        again changes nothing). Raises IsDirectory."""
        if node.entry is None or node.entry.kind == "directory":
            raise IsDirectory(f"{node.path!r} is a directory")
        reader = self._content.open(node.entry)
        with self._lock:
            if handle is None:
                handle = next(self._numbers)
            spare = self._handles.setdefault(handle, OpenHandle(node, reader)).reader is not reader
        if spare:
            reader.close()
        return handle

    def is_open(self, handle: int) -> bool:
        return handle in self._handles

    def read(self, handle: int, offset: int, size: int) -> bytes | Pending:
        """Bytes, or a Pending; fewer than asked only at the file's end. Raises BadHandle."""
        try:
            opened = self._handles[handle]
        except KeyError:
            raise BadHandle(f"handle {handle} is not open") from None
        return opened.reader.read(offset, size)

    def lend(self, handle: int) -> int | None:
        """A descriptor that holds the whole verified content, for the caller to close; None when there is none yet."""
        opened = self._handles.get(handle)
        return None if opened is None else opened.reader.dup_fd()

    def release(self, handle: int) -> None:
        with self._lock:
            opened = self._handles.pop(handle, None)
        if opened is not None:
            opened.reader.close()

    def release_all(self) -> None:
        for handle in list(self._handles):
            self.release(handle)

    def handles(self) -> list[OpenHandle]:
        with self._lock:
            return list(self._handles.values())

    def space(self) -> DiskSpace:
        return self._content.disk_space()

    def xattr_names(self, node: Node) -> list[str]:
        return [XATTR_PREFIX + name for name in self._xattrs(node)]

    def xattr(self, node: Node, name: str) -> bytes:
        """Raises NoAttribute."""
        if not name.startswith(XATTR_PREFIX):  # security.* and the like, twice a file in `ls -l`: must cost nothing
            raise NoAttribute(name)
        try:
            return self._xattrs(node)[name.removeprefix(XATTR_PREFIX)].encode()
        except KeyError:
            raise NoAttribute(name) from None

    def _xattrs(self, node: Node) -> dict[str, str]:
        found = {"commit": self._content.commit.sha}
        if node.entry is None or node.entry.kind == "directory":
            return found
        entry = self._content.sized(node.entry)
        if entry.etag is not None:
            found["etag"] = entry.etag
        digest = entry.digest()
        if digest is not None and digest.algorithm == "sha256":
            found["sha256"] = digest.hex
        found["local_bytes"] = str(self._content.local_bytes(entry))
        found["state"] = state = self._content.state(entry)
        found["hash"] = "none" if digest is None else f"{digest.algorithm} {entry.told_by}"
        if state in ("verified", "failed"):
            found["verification"] = state
        elif digest is None:
            found["verification"] = "none"
        else:
            found["verification"] = "passed" if self._content.stream_verified(entry) else "pending"
        return found
