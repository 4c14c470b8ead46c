"""A View is what a mountpoint shows: names, nodes and their contents. Each kind of mount is one file in ``views/``.

The file system, status, jobs and the other parts of a daemon work on a View and on its ``snapshots()``; none of them
knows which view it is. Its methods may be called on any thread. Each method that may wait for the network has a
companion ``…_wait`` or ``…_waits``, which tells without waiting whether it would.
"""

from __future__ import annotations

import hashlib
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import UsageError
from ..model import RemoteFile
from ..names import is_below
from ..transfer import DiskSpace
from .contents import Content, Directory, FileReader, Symlink
from .snapshot import MountedSnapshot

ROOT_ID: Final = 1  # FUSE_ROOT_ID in linux/fuse.h
_PERMISSIONS: Final = {stat.S_IFDIR: 0o555, stat.S_IFREG: 0o444, stat.S_IFLNK: 0o777}


@dataclass(frozen=True, slots=True)
class Node:
    """A name that is shown; ``path`` is below the mountpoint, "" for the root."""

    id: int
    path: str
    content: Content

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_directory(self) -> bool:
        return isinstance(self.content, Directory)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat(2) returns. ``blocks`` counts 512-byte units that are local: at least 1 for a file that is not empty,
    since ``tar -S`` archives zeros for a file of 0 blocks. ``lasting``: nothing of it can change any more."""

    node: int
    mode: int
    size: int
    blocks: int
    mtime: float
    lasting: bool

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class View(ABC):
    """``root`` is the node of the mountpoint, with number ROOT_ID."""

    root: Node

    # --- names ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def node(self, number: int) -> Node:
        """The node of a number that this process, or one whose mount it took over, passed to the kernel: a number is a
        hash of what the node shows. Never waits for the network. Raises EntryNotFound."""

    @abstractmethod
    def lookup(self, parent: Node, name: str) -> Node:
        """Raises EntryNotFound, NotDirectory."""

    @abstractmethod
    def children(self, parent: Node) -> Sequence[Node]:
        """The nodes of a directory in name order. Raises NotDirectory, EntryNotFound."""

    def lookup_waits(self, parent: Node, name: str) -> bool:
        """Returns whether ``lookup`` could wait for the network."""
        del parent, name
        return False

    def listing_waits(self, node: Node) -> bool:
        """Returns whether ``children`` could wait for the network."""
        del node
        return False

    def find(self, path: str) -> Node:
        """The node at a path below the mountpoint (``/a/b`` or ``a/b``). Raises EntryNotFound, NotDirectory."""
        node = self.root
        for name in path.strip("/").split("/"):
            if name:
                node = self.lookup(node, name)
        return node

    # --- contents ---------------------------------------------------------------------------------------------------

    def attributes(self, node: Node) -> Attributes:
        """Raises what the network may fail with where ``attributes_wait``."""
        found = node.content.stat()
        blocks = max(1, -(-found.local // 512)) if found.size else 0
        mode = node.content.format | _PERMISSIONS[node.content.format]
        return Attributes(node.id, mode, found.size, blocks, found.mtime, found.lasting)

    def attributes_wait(self, node: Node) -> bool:
        """Returns whether ``attributes`` or ``xattrs`` could wait for the network."""
        return node.content.may_wait

    def open(self, node: Node) -> FileReader:
        """A reader, for the caller to close. Raises IsDirectory, CacheUnusable."""
        return node.content.open()

    def open_waits(self, node: Node) -> bool:
        """Returns whether ``open`` could wait for the network."""
        return node.content.may_wait

    def readlink(self, node: Node) -> str:
        """Raises UsageError for what is no symbolic link."""
        if not isinstance(node.content, Symlink):
            raise UsageError(f"{node.path!r} is no symbolic link")
        return node.content.target

    def xattrs(self, node: Node) -> Mapping[str, str]:
        """Extended attributes by name, without the prefix ``user.hffs.``."""
        return node.content.xattrs()

    # --- the mount as a whole ---------------------------------------------------------------------------------------

    @abstractmethod
    def snapshots(self) -> Sequence[MountedSnapshot]:
        """The snapshots shown, in a fixed order. May be empty, and grow while it is mounted."""

    @abstractmethod
    def space(self) -> DiskSpace: ...

    @abstractmethod
    def on_attributes_changed(self, callback: Callable[[int], None]) -> None:
        """``callback(node number)`` runs when the attributes of a file have changed; on any thread, so hand over."""

    @abstractmethod
    def on_content_wrong(self, callback: Callable[[int], None]) -> None:
        """``callback(node number)`` runs for each node whose content proved wrong and was dropped from the cache: the
        kernel's pages of it must be dropped too. On any thread, so hand over."""

    def path_of(self, file: RemoteFile) -> str:
        """The path below the mountpoint of a file that is fetched; of the first snapshot that has it."""
        for snapshot in self.snapshots():
            if snapshot.commit == file.commit and is_below(file.path, snapshot.subfolder):
                return snapshot.mount_path(file.path)
        return file.path


def node_id(path: str, content: str = "", salt: int = 0) -> int:
    """63 bits of a hash, never 0 or ROOT_ID."""
    digest = hashlib.blake2b(
        b"\0".join((path.encode("utf-8", "surrogateescape"), content.encode(), b"%d" % salt)), digest_size=8
    ).digest()
    return (int.from_bytes(digest, "little") & (2**63 - 1)) | 2
