"""The read-only file system: views (what a mountpoint shows), contents, handles. Knows no protocol."""

from .contents import Content, Directory, FileReader, PageCache, PendingRead, SnapshotFile, Symlink
from .filesystem import Filesystem
from .patterns import Patterns
from .snapshot import MountedSnapshot, Selection, join
from .view import ROOT_ID, Attributes, Node, View, node_id

__all__ = [
    "ROOT_ID",
    "Attributes",
    "Content",
    "Directory",
    "FileReader",
    "Filesystem",
    "MountedSnapshot",
    "Node",
    "PageCache",
    "Patterns",
    "PendingRead",
    "Selection",
    "SnapshotFile",
    "Symlink",
    "View",
    "join",
    "node_id",
]
