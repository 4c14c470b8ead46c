"""Passthrough: which open handles the kernel reads directly from the cache file, and why the others are not.

A complete, verified file is opened in passthrough (Linux 6.9 and newer, root): reads and page faults then bypass the
daemon, also after its death. Two rules of the kernel apply per node: while an ordinary handle is open, a passthrough
open fails with EIO, and vice versa; and all passthrough opens must use the same backing id. So a file that becomes
local while open keeps its mode until its last ordinary handle is closed. Handles and ids belong to the mount, not to
the process: the journal carries them over to the next worker.

The lock is held while a descriptor is opened and registered and while a record is written. These are local system
calls, and without the lock two opens of one file could choose different modes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from ...errors import HffsError
from .device import Device, passthrough_refusal
from .journal import Journal, OpenNode

log = logging.getLogger(__name__)

_RESTORED = "opened before the daemon was restarted"


class Passthrough:
    """The mode of every open handle. ``refused`` says why none can be passthrough; empty when the kernel offers it. The
    handles in ``journal`` are still open and count."""

    def __init__(self, device: Device, refused: str = "", journal: Journal | None = None) -> None:
        self._device = device
        self._journal = journal
        self._lost = journal is not None and journal.lost
        self._lock = threading.Lock()
        # guarded by _lock
        self._refused = refused
        self._nodes: dict[int, OpenNode] = {} if journal is None else journal.nodes
        self._why = {node: "" if held.backing is not None else _RESTORED for node, held in self._nodes.items()}
        if journal is not None:
            for backing in journal.orphans:
                self._close_backing(backing)
            if self._lost and not refused:
                self._refused = "the open files were not known after the daemon was restarted"

    def open(self, node: int, handle: int, dup_fd: Callable[[], int | None]) -> int | None:
        """Decides the mode of a handle that is being opened: returns its backing id, or None for an ordinary one.
        ``dup_fd`` returns a descriptor of the complete, verified file, or None."""
        with self._lock:
            opened = self._nodes.get(node)
            if opened is None:
                backing, self._why[node] = self._register(dup_fd)
                opened = self._nodes[node] = OpenNode(backing)
            if handle not in opened.handles:  # else its OPEN was not answered, and is resent
                opened.handles.add(handle)
                self._record(handle, node, opened.backing)
            return opened.backing

    def release(self, node: int, handle: int) -> None:
        with self._lock:
            opened = self._nodes.get(node)
            if opened is None or handle not in opened.handles:
                return
            opened.handles.discard(handle)
            if not opened.handles:
                del self._nodes[node]
                del self._why[node]
            if self._journal is not None:  # before the id is closed: the next worker must not hand out a closed one
                self._journal.released(handle)
            if not opened.handles and opened.backing is not None:
                self._close_backing(opened.backing)

    def kind(self, node: int) -> tuple[bool, str]:
        """Returns whether a node's handles are passthrough, and if not, why."""
        with self._lock:
            opened = self._nodes.get(node)
            return (False, "") if opened is None else (opened.backing is not None, self._why.get(node, ""))

    def holds(self, node: int, handle: int) -> bool:
        """Returns whether the kernel has this handle open. Assumed if the journal was lost: the kernel uses no handle
        that it was not given."""
        with self._lock:
            opened = self._nodes.get(node)
            return self._lost or (opened is not None and handle in opened.handles)

    def counts(self) -> dict[int, int]:
        """Returns the number of open handles of each node."""
        with self._lock:
            return {node: len(opened.handles) for node, opened in self._nodes.items()}

    def _record(self, handle: int, node: int, backing: int | None) -> None:
        if self._journal is None:
            return
        self._journal.opened(handle, node, backing)
        if not self._journal.working:
            self._refused = self._refused or "the journal of open files cannot be written"

    def _close_backing(self, number: int) -> None:
        try:
            self._device.close_backing(number)
        except OSError as error:
            log.debug("event=backing-close-failed id=%d error=%s", number, error)

    def _register(self, dup_fd: Callable[[], int | None]) -> tuple[int | None, str]:
        if self._refused:
            return None, self._refused
        try:
            fd = dup_fd()
        except HffsError as error:
            return None, str(error)
        if fd is None:
            return None, "not completely local and verified when it was opened"
        try:
            return self._device.open_backing(fd), ""
        except OSError as error:
            self._refused = passthrough_refusal(error)
            log.info("event=no-passthrough why=%s", self._refused)
            return None, self._refused
        finally:
            os.close(fd)  # the id keeps the open file and its lock, which forbids punching
