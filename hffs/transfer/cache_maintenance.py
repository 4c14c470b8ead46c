"""Keeps the cache to its limits also while nothing is fetched: one thread that looks about once a second.

Other programs fill the disk, other processes set a smaller limit, a full disk gets room again, and none of that is
reported. What is done about it is decided by ``cache.CacheBudget`` and the fetcher.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..cache import CacheBudget
from ..errors import HffsError

log = logging.getLogger(__name__)
# A look takes some 50 us; a disk is not filled in less than a second.
LOOK_SECONDS = 1.0


class CacheMaintenance:
    """Maintains ``budget`` and calls ``probe`` each time. ``start`` once, ``stop`` before the budget is closed."""

    def __init__(self, budget: CacheBudget, probe: Callable[[], None] = lambda: None) -> None:
        self._budget = budget
        self._probe = probe
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hffs-budget", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience: float = 5.0) -> None:
        self._stopping.set()
        self._thread.join(patience)

    def _run(self) -> None:
        look = self._budget.start
        while True:
            try:
                look()
                look = self._budget.maintain
                self._probe()
            except HffsError as error:  # a disk that fails is reported where blocks are stored on it
                log.debug("event=no-housekeeping error=%s", error)
            except Exception as error:  # a bug of ours; without this thread the limits hold only while blocks come
                log.error("event=housekeeping-bug", exc_info=error)
            if self._stopping.wait(LOOK_SECONDS):
                return
