"""A view for tests, as small as a view can be: two repos side by side, and one node of each other kind of content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hffs.errors import EntryNotFound, NotDirectory
from hffs.transfer import CommitFiles, DiskSpace
from hffs.vfs import ROOT_ID, Content, Directory, MountedSnapshot, Node, View, node_id
from hffs.vfs.contents import ArchiveMember, BytesReader, DiskFile, LiteralFile, Symlink
from hffs.vfs.views import RepoView

LITERAL, MEMBER, TARGET = b"c" * 40, b"a member of an archive", "left/README.md"


class SideBySide(View):
    """``left/`` and ``right/`` are repos; ``ref``, ``link``, ``disk`` and ``member`` are a literal, a symbolic link, a
    file of the local disk and a member of an archive."""

    def __init__(self, left: CommitFiles, right: CommitFiles, disk: Path) -> None:
        self.root = Node(ROOT_ID, "", Directory())
        self._repos = {"left": RepoView(left, path="left"), "right": RepoView(right, path="right")}
        others: dict[str, Content] = {
            "disk": DiskFile(str(disk)),
            "link": Symlink(TARGET),
            "member": ArchiveMember(len(MEMBER), lambda: BytesReader(MEMBER)),
            "ref": LiteralFile(LITERAL, changing=True),
        }
        nodes = [Node(node_id(name), name, content) for name, content in others.items()]
        nodes += [view.root for view in self._repos.values()]
        self._names = {node.path: node for node in sorted(nodes, key=lambda node: node.path)}
        self._numbers = {node.id: node for node in (self.root, *nodes)}

    def node(self, number: int) -> Node:
        if number in self._numbers:
            return self._numbers[number]
        for view in self._repos.values():
            try:
                return view.node(number)
            except EntryNotFound:
                pass
        raise EntryNotFound(f"node {number} is not known")

    def lookup(self, parent: Node, name: str) -> Node:
        if parent.id != ROOT_ID:
            return self._repo(parent).lookup(parent, name)
        if name not in self._names:
            raise EntryNotFound(name)
        return self._names[name]

    def children(self, parent: Node) -> Sequence[Node]:
        return list(self._names.values()) if parent.id == ROOT_ID else self._repo(parent).children(parent)

    def lookup_waits(self, parent: Node, name: str) -> bool:
        return parent.id != ROOT_ID and self._repo(parent).lookup_waits(parent, name)

    def listing_waits(self, node: Node) -> bool:
        return node.id != ROOT_ID and self._repo(node).listing_waits(node)

    def snapshots(self) -> list[MountedSnapshot]:
        return [view.snapshot for view in self._repos.values()]

    def space(self) -> DiskSpace:
        return self._repos["left"].space()

    def on_attributes_changed(self, callback: Callable[[int], None]) -> None:
        for view in self._repos.values():
            view.on_attributes_changed(callback)

    def on_content_wrong(self, callback: Callable[[int], None]) -> None:
        for view in self._repos.values():
            view.on_content_wrong(callback)

    def _repo(self, node: Node) -> RepoView:
        name = node.path.partition("/")[0]
        if name not in self._repos:
            raise NotDirectory(f"{node.path!r} is a file")
        return self._repos[name]
