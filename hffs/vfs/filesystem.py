"""The read-only file system over a view: handles and extended attributes. Bindings call it with nodes and handles and
get values or our errors.

``read`` returns bytes at once or a ``PendingRead``: a binding may block on it or attach its reply. Any thread.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import Final

from ..errors import BadHandle, NoAttribute
from .contents import FileReader, PendingRead
from .view import Node, View

XATTR_PREFIX: Final = "user.hffs."


@dataclass(frozen=True, slots=True)
class OpenHandle:
    node: Node
    reader: FileReader


class Filesystem:
    """One mount. What is not about handles is its ``view``'s."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._lock = threading.Lock()
        # guarded by _lock
        self._handles: dict[int, OpenHandle] = {}
        self._numbers = itertools.count(1)

    def open(self, node: Node, handle: int | None = None) -> int:
        """A handle, to be given back with ``release``: numbered here, or by the binding (``handle``; opening that one
        again changes nothing). Raises IsDirectory."""
        reader = self.view.open(node)
        with self._lock:
            if handle is None:
                handle = next(self._numbers)
            spare = self._handles.setdefault(handle, OpenHandle(node, reader)).reader is not reader
        if spare:
            reader.close()
        return handle

    def is_open(self, handle: int) -> bool:
        return handle in self._handles

    def read(self, handle: int, offset: int, size: int) -> bytes | PendingRead:
        """Bytes, or a PendingRead; fewer than asked for only at the file's end. Raises BadHandle."""
        try:
            opened = self._handles[handle]
        except KeyError:
            raise BadHandle(f"handle {handle} is not open") from None
        return opened.reader.read(offset, size)

    def dup_fd(self, handle: int) -> int | None:
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

    def xattr_names(self, node: Node) -> list[str]:
        return [XATTR_PREFIX + name for name in self.view.xattrs(node)]

    def xattr(self, node: Node, name: str) -> bytes:
        """Raises NoAttribute."""
        if not name.startswith(XATTR_PREFIX):  # security.* and the like, twice a file in `ls -l`: must cost nothing
            raise NoAttribute(name)
        try:
            return self.view.xattrs(node)[name.removeprefix(XATTR_PREFIX)].encode()
        except KeyError:
            raise NoAttribute(name) from None
