"""What the service manager hears while a mount serves: its state when that changes, and that it is alive.

Used by ``app``. Alive means that the file system answers: a process of its own looks at the mount's root, which takes
the kernel, the binding's threads and the file system, but never the network. So a daemon that hangs falls silent, and
one whose Hub hangs does not. One thread, started and stopped by the app.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from ..system import mount_table
from ..system.sd_notify import ServiceManager

log = logging.getLogger(__name__)

_STATUS_SECONDS: Final = 5.0  # between two looks at the state; people read it, nothing waits for it


class StatusNotifier:
    """Tells ``manager``, if there is one, about the mount at ``where``; ``summary`` is its state in a line. ``probe``
    is ``mount_table.probe``."""

    def __init__(
        self,
        where: str,
        summary: Callable[[], str],
        manager: ServiceManager | None,
        probe: Callable[[str, float], int] = mount_table.probe,
    ) -> None:
        self._where = where
        self._summary = summary
        self._manager = manager
        self._probe = probe
        self._told = ""
        self._device: str | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Says that the mount is ready, what it is, and goes on telling."""
        if self._manager is None:
            return
        found = mount_table.table().get(self._where)
        self._device = found.device if found else None
        self._manager.send("ready")
        self._thread = threading.Thread(target=self._tell, args=(self._manager,), name="hffs-telling", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Says no more; a look under way is let go, its end is awaited for a moment only. Idempotent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(0.5)

    def _tell(self, manager: ServiceManager) -> None:
        # Four looks within the manager's patience: one may be lost and one may be slow before anybody worries.
        watched = manager.watchdog_s
        pause = _STATUS_SECONDS if watched is None else min(_STATUS_SECONDS, watched / 4)
        since = 0.0
        while True:
            told = self._summary()
            if told != self._told:
                self._told = told
                manager.send(f"status {told}")
            if watched is not None and since <= 0:
                since = watched / 4
                if self._answers(watched / 4):
                    manager.send("alive")
            if self._stopping.wait(pause):
                return
            since -= pause

    def _answers(self, seconds: float) -> bool:
        """Whether the root of the mount can be looked at. One that has been taken off, or covered by another mount, can
        be looked at by nobody, and is no worry: it ends when its readers do."""
        found = mount_table.table().get(self._where)
        if found is None or found.device != self._device:
            return True
        code = self._probe(self._where, seconds)
        if code:
            log.warning("event=no-answer mountpoint=%s errno=%d", self._where, code)
        return not code
