"""One commit of one repo, or a folder of it: what ``hffs mount REPO DIR`` shows.

A file's number is made of its path and its content, a directory's of its path alone, so that a restarted daemon, or a
later commit with the same file in the same place, gives the same number again. May wait for the network, but never for
a name whose directory has been listed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ...errors import EntryNotFound, NotDirectory
from ...model import Entry
from ...transfer import CommitFiles, DiskSpace
from ..contents import Directory, SnapshotFile
from ..patterns import Patterns
from ..snapshot import MountedSnapshot, join
from ..view import ROOT_ID, Node, View, node_id


class RepoView(View):
    """The nodes of ``files`` that ``patterns`` leave visible. As a part of another view it is shown at ``path`` below
    the mountpoint, with numbers that no other part has."""

    def __init__(self, files: CommitFiles, patterns: Patterns | None = None, path: str = "") -> None:
        self.snapshot = MountedSnapshot(files, patterns or Patterns(), path)
        self._files = files
        self._prefix = f"{path}//" if path else ""  # no path has two slashes in a row
        self._directory = Directory(self.snapshot)
        self.root = Node(node_id(self._prefix) if path else ROOT_ID, path, self._directory)
        self._lock = threading.Lock()
        # guarded by _lock
        self._nodes: dict[int, Node] = {self.root.id: self.root}
        self._by_path: dict[str, Node] = {path: self.root}
        self._recovered = False

    def node(self, number: int) -> Node:
        node = self._nodes.get(number)
        if node is None:
            node = self._recover(number)
        if node is None:
            raise EntryNotFound(f"node {number} is not known")
        return node

    def lookup(self, parent: Node, name: str) -> Node:
        path = join(parent.path, name)
        known = self._by_path.get(path)
        if known is not None:
            return known
        if not parent.is_directory:
            raise NotDirectory(f"{parent.path!r} is a file")
        entry = self._files.entry(self.snapshot.repo_path(path))
        if not self._visible(entry):
            raise EntryNotFound(f"{path!r} is left out by include/exclude")
        node = self._node_of(entry)
        if self.listing_waits(parent):
            self._files.record_node(node.id, entry)  # before the number leaves: no kept listing has this entry
        return node

    def find(self, path: str) -> Node:
        return self._by_path.get(join(self.root.path, path.strip("/"))) or super().find(path)

    def children(self, parent: Node) -> list[Node]:
        if not parent.is_directory:
            raise NotDirectory(f"{parent.path!r} is a file")
        entries = self._files.directory(self.snapshot.repo_path(parent.path))
        return [self._node_of(entries[name]) for name in sorted(entries) if self._visible(entries[name])]

    def lookup_waits(self, parent: Node, name: str) -> bool:
        return join(parent.path, name) not in self._by_path and self.listing_waits(parent)

    def listing_waits(self, node: Node) -> bool:
        return node.is_directory and self._files.known_directory(self.snapshot.repo_path(node.path)) is None

    def snapshots(self) -> list[MountedSnapshot]:
        return [self.snapshot]

    def space(self) -> DiskSpace:
        return self._files.disk_space()

    def on_attributes_changed(self, callback: Callable[[int], None]) -> None:
        def local(path: str) -> None:
            node = self._by_path.get(self.snapshot.mount_path(path))
            if node is not None:
                callback(node.id)

        self._files.on_local(local)

    def on_content_wrong(self, callback: Callable[[int], None]) -> None:
        def mismatch(etag: str) -> None:
            for node in self._nodes_of(etag):
                callback(node.id)

        self._files.on_mismatch(mismatch)

    def _nodes_of(self, etag: str) -> list[Node]:
        """The nodes with this content, also those with a number from an earlier process."""
        for entry in self._files.known_entries():
            if entry.etag == etag and self._visible(entry):
                self._node_of(entry)
        with self._lock:
            nodes = list(self._nodes.values())
        return [node for node in nodes if isinstance(node.content, SnapshotFile) and node.content.entry.etag == etag]

    def _recover(self, number: int) -> Node | None:
        """Numbers are hashes of entries: the entries known of the commit give all of them again."""
        entry = self._files.recorded_node(number)
        if entry is not None and self._node_of(entry).id == number:
            return self._nodes.get(number)
        if not self._recovered:
            for entry in self._files.known_entries():
                # A folder may have been shown before it was known that patterns leave nothing of it; a file never.
                if entry.kind == "directory" or self._visible(entry):
                    self._node_of(entry, named=self._visible(entry))
            self._recovered = True
        return self._nodes.get(number)

    def _node_of(self, entry: Entry, *, named: bool = True) -> Node:
        """``named``: it is found by its path from now on."""
        path = self.snapshot.mount_path(entry.path)
        known = self._by_path.get(path)
        if known is not None:
            return known
        folder = entry.kind == "directory"
        hashed, content, salt = self._prefix + entry.path, "" if folder else (entry.etag or "?"), 0
        with self._lock:
            while True:
                number = node_id(hashed, content, salt)
                holder = self._nodes.get(number)
                if holder is None or holder.path == path:
                    break
                salt += 1  # two paths with one number: about 1 in 10^10 for 40,000 files
            node = Node(number, path, self._directory if folder else SnapshotFile(self.snapshot, entry))
            node = self._nodes.setdefault(number, node)
            if named:
                self._by_path[path] = node
        return node

    def _visible(self, entry: Entry) -> bool:
        patterns = self.snapshot.patterns
        if not patterns:
            return True
        if entry.kind == "file":
            return patterns.match(entry.path)
        return not self._known_empty(entry.path)

    def _known_empty(self, path: str) -> bool:
        """Returns whether patterns leave nothing of a directory, as far as is known without a request."""
        entries = self._files.known_directory(path)
        if entries is None:
            return False
        return not any(self._visible(entry) for entry in entries.values())
