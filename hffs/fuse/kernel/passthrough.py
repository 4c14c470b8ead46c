"""Which handles the kernel reads from the disk by itself, and why the others are not.

A file that is wholly here and verified is opened in passthrough (Linux 6.9 and newer, root): reads and page faults
then go to the cache's data file without us, at its own speed, also when we are dead. Two rules of the kernel decide the
rest, per node: as long as an ordinary handle is open, a passthrough open fails with EIO, and the other way round; and a
second passthrough open must name the same backing id, even for the same file. So a file that became local while open
goes on as it was until its last ordinary handle is closed.

The lock is held while a descriptor is opened and registered: local system calls, and nothing else keeps two opens of
one file from choosing differently.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ...errors import HffsError
from .device import Device

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Opened:
    """The open handles of one node, all of one kind. ``backing`` is the id they share, None for ordinary ones."""

    backing: int | None
    why: str
    handles: set[int] = field(default_factory=set)


class Passthrough:
    """The kind of every open handle. ``refused`` says why none can be passthrough, empty when the kernel offers it."""

    def __init__(self, device: Device, refused: str = "") -> None:
        self._device = device
        self._lock = threading.Lock()
        # guarded by _lock
        self._refused = refused
        self._nodes: dict[int, _Opened] = {}

    def open(self, node: int, handle: int, lend: Callable[[], int | None]) -> int | None:
        """Decide the kind of a handle that is being opened: its backing id, or None for an ordinary one."""
        with self._lock:
            opened = self._nodes.get(node)
            if opened is None:
                backing, why = self._register(lend)
                opened = self._nodes[node] = _Opened(backing, why)
            opened.handles.add(handle)
            return opened.backing

    def release(self, node: int, handle: int) -> None:
        with self._lock:
            opened = self._nodes.get(node)
            if opened is None:
                return
            opened.handles.discard(handle)
            if opened.handles:
                return
            del self._nodes[node]
            if opened.backing is not None:
                try:
                    self._device.close_backing(opened.backing)
                except OSError as error:
                    log.debug("event=backing-close-failed id=%d error=%s", opened.backing, error)

    def kind(self, node: int) -> tuple[bool, str]:
        """Whether a node's handles are passthrough, and why they are not."""
        with self._lock:
            opened = self._nodes.get(node)
            return (False, "") if opened is None else (opened.backing is not None, opened.why)

    def _register(self, lend: Callable[[], int | None]) -> tuple[int | None, str]:
        if self._refused:
            return None, self._refused
        try:
            fd = lend()
        except HffsError as error:
            return None, str(error)
        if fd is None:
            return None, "not wholly local and verified when it was opened"
        try:
            return self._device.open_backing(fd), ""
        except OSError as error:
            self._refused = _reason(error)
            log.info("event=no-passthrough why=%s", self._refused)
            return None, self._refused
        finally:
            os.close(fd)  # the id keeps the open file, and with it the lock that forbids punching


def _reason(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "passthrough needs root (CAP_SYS_ADMIN)"
    if error.errno == errno.ELOOP:
        return "the cache lies on file systems stacked too deep for passthrough"
    return f"the kernel refuses passthrough from the cache's file system: {error.strerror}"
