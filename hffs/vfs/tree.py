"""Names and node numbers of a mounted commit: which entries are visible, and which number stands for which.

A file's number is made of its path and its content, a directory's of its path alone, so that a restarted daemon, or a
later commit with the same file in the same place, gives the same number again. Thread-safe; asks ``CommitFiles`` for
listings and may therefore wait for the network, but never for a name whose directory has been listed.
"""

from __future__ import annotations

import fnmatch
import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import EntryNotFound, NotDirectory
from ..model import Entry
from ..transfer import CommitFiles

ROOT_ID = 1  # FUSE_ROOT_ID in linux/fuse.h


@dataclass(frozen=True, slots=True)
class Node:
    """A visible name. ``path`` counts from the repo's root; ``entry`` is None for the mount's root only."""

    id: int
    path: str
    entry: Entry | None

    @property
    def is_directory(self) -> bool:
        return self.entry is None or self.entry.kind == "directory"


class Patterns:
    """``include``/``exclude`` as huggingface_hub means ``allow_patterns``/``ignore_patterns``: fnmatch over the whole
    path from the repo's root, a pattern that ends in ``/`` stands for everything below."""

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = [_everything_below(pattern) for pattern in include]
        self._exclude = [_everything_below(pattern) for pattern in exclude]

    def __bool__(self) -> bool:
        return bool(self._include or self._exclude)

    def match(self, path: str) -> bool:
        if self._include and not any(fnmatch.fnmatchcase(path, pattern) for pattern in self._include):
            return False
        return not any(fnmatch.fnmatchcase(path, pattern) for pattern in self._exclude)


def _everything_below(pattern: str) -> str:
    return pattern + "*" if pattern.endswith("/") else pattern


class Tree:
    """The nodes of ``content`` that ``patterns`` leave visible."""

    def __init__(self, content: CommitFiles, patterns: Patterns | None = None) -> None:
        self._content = content
        self._patterns = patterns or Patterns()
        self.root = Node(ROOT_ID, content.root, None)
        self._lock = threading.Lock()
        # guarded by _lock
        self._nodes: dict[int, Node] = {ROOT_ID: self.root}
        self._by_path: dict[str, Node] = {content.root: self.root}
        self._recovered = False

    def node(self, number: int) -> Node:
        """The node of a number that was given out before, by this process or one it stands in for. Raises
        EntryNotFound; never asks the network."""
        node = self._nodes.get(number)
        if node is None:
            node = self._recover(number)
        if node is None:
            raise EntryNotFound(f"node {number} is not known")
        return node

    def known_path(self, path: str) -> Node | None:
        """The node of a path from the repo's root, if a number was given out for it."""
        return self._by_path.get(path)

    def known_nodes(self, etag: str) -> list[Node]:
        """The nodes of this content, those a process before us gave out numbers for as well."""
        for entry in self._content.known_entries():
            if entry.etag == etag and self._visible(entry):
                self._node_of(entry)
        with self._lock:
            nodes = list(self._nodes.values())
        return [node for node in nodes if node.entry is not None and node.entry.etag == etag]

    def lookup(self, parent: Node, name: str) -> Node:
        """Raises EntryNotFound, NotDirectory."""
        if not parent.is_directory:
            raise NotDirectory(f"{parent.path!r} is a file")
        path = f"{parent.path}/{name}" if parent.path else name
        known = self._by_path.get(path)
        if known is not None:
            return known
        entry = self._content.entry(path)
        if not self._visible(entry):
            raise EntryNotFound(f"{path!r} is left out by include/exclude")
        node = self._node_of(entry)
        if self.listing_waits(parent):
            self._content.record_node(node.id, entry)  # before the number leaves: no kept listing has this entry
        return node

    def find(self, path: str) -> Node:
        """The node at a path below the mount's root (``/a/b`` or ``a/b``). Raises EntryNotFound, NotDirectory."""
        node = self.root
        whole = "/".join(part for part in (self.root.path, path.strip("/")) if part)
        known = self._by_path.get(whole)
        if known is not None:
            return known
        for name in path.strip("/").split("/"):
            if name:
                node = self.lookup(node, name)
        return node

    def children(self, parent: Node) -> list[Node]:
        """The visible nodes of a directory in name order. Raises NotDirectory, EntryNotFound."""
        if not parent.is_directory:
            raise NotDirectory(f"{parent.path!r} is a file")
        entries = self._content.directory(parent.path)
        return [self._node_of(entries[name]) for name in sorted(entries) if self._visible(entries[name])]

    def lookup_waits(self, parent: Node, name: str) -> bool:
        """Whether ``lookup`` could ask the network."""
        path = f"{parent.path}/{name}" if parent.path else name
        return path not in self._by_path and parent.is_directory and self.listing_waits(parent)

    def listing_waits(self, node: Node) -> bool:
        """Whether ``children`` could ask the network."""
        return node.is_directory and self._content.known_directory(node.path) is None

    def visible(self, path: str) -> bool:
        """Whether patterns leave this file visible."""
        return self._patterns.match(path)

    def _recover(self, number: int) -> Node | None:
        """Numbers are hashes of what is listed, so what is known of the commit tells them all again."""
        entry = self._content.recorded_node(number)
        if entry is not None and self._node_of(entry).id == number:
            return self._nodes.get(number)
        if not self._recovered:
            for entry in self._content.known_entries():
                # A folder may have been shown before it was known that patterns leave nothing of it; a file never.
                if entry.kind == "directory" or self._visible(entry):
                    self._node_of(entry, named=self._visible(entry))
            self._recovered = True
        return self._nodes.get(number)

    def _node_of(self, entry: Entry, *, named: bool = True) -> Node:
        """``named``: it is found by its path from now on."""
        known = self._by_path.get(entry.path)
        if known is not None:
            return known
        content = "" if entry.kind == "directory" else (entry.etag or "?")
        salt = 0
        with self._lock:
            while True:
                number = node_id(entry.path, content, salt)
                holder = self._nodes.get(number)
                if holder is None or holder.path == entry.path:
                    break
                salt += 1  # two paths with one number: about 1 in 10^10 for 40,000 files, but then it must not matter
            node = self._nodes.setdefault(number, Node(number, entry.path, entry))
            if named:
                self._by_path[entry.path] = node
        return node

    def _visible(self, entry: Entry) -> bool:
        if not self._patterns:
            return True
        if entry.kind == "file":
            return self._patterns.match(entry.path)
        return not self._known_empty(entry.path)

    def _known_empty(self, path: str) -> bool:
        """Whether patterns leave nothing of a directory, as far as is known without asking anybody."""
        entries = self._content.known_directory(path)
        if entries is None:
            return False
        return not any(self._visible(entry) for entry in entries.values())


def node_id(path: str, content: str, salt: int = 0) -> int:
    """63 bits of a hash, never 0 or the root's 1."""
    digest = hashlib.blake2b(
        b"\0".join((path.encode("utf-8", "surrogateescape"), content.encode(), b"%d" % salt)), digest_size=8
    ).digest()
    return (int.from_bytes(digest, "little") & (2**63 - 1)) | 2
