"""Notifications to the service manager while a mount serves: its state when that changes, and that it is alive.

Alive means that the file system answers: a process of its own runs stat on the mount's root, which needs the kernel,
the binding's threads and the file system, but never the network. So a daemon that hangs stops notifying, and one whose
Hub hangs does not. One thread, started and stopped by ``app``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from ..system import mount_table
from ..system.sd_notify import ServiceManager

log = logging.getLogger(__name__)

_STATUS_SECONDS: Final = 5.0  # between two checks of the state; people read it, nothing waits for it


class StatusNotifier:
    """Notifies ``manager``, if there is one, of the mount at ``where``; ``summary`` returns its state in a line.
    ``probe`` is ``mount_table.probe``."""

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
        self._last_status = ""
        self._device: str | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Sends ``ready`` and the state, and continues on a thread."""
        if self._manager is None:
            return
        found = mount_table.table().get(self._where)
        self._device = found.device if found else None
        self._manager.send("ready")
        self._thread = threading.Thread(target=self._run, args=(self._manager,), name="hffs-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sends nothing more; waits half a second at most for a probe under way. Idempotent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(0.5)

    def _run(self, manager: ServiceManager) -> None:
        # Four probes within the manager's timeout: one may be lost and one may be slow without a restart.
        interval = None if manager.watchdog_s is None else manager.watchdog_s / 4
        pause = _STATUS_SECONDS if interval is None else min(_STATUS_SECONDS, interval)
        until_probe = 0.0
        while True:
            status = self._summary()
            if status != self._last_status:
                self._last_status = status
                manager.send(f"status {status}")
            if interval is not None and until_probe <= 0:
                until_probe = interval
                if self._is_responsive(interval):
                    manager.send("alive")
            if self._stopping.wait(pause):
                return
            until_probe -= pause

    def _is_responsive(self, seconds: float) -> bool:
        """Returns whether stat of the mount's root returns in time. A mount that was unmounted, or covered by another,
        cannot be probed and counts as responsive: it ends when its readers do."""
        found = mount_table.table().get(self._where)
        if found is None or found.device != self._device:
            return True
        code = self._probe(self._where, seconds)
        if code:
            log.warning("event=no-answer mountpoint=%s errno=%d", self._where, code)
        return not code
