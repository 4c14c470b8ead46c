"""Keeping the cache to its limits also while nobody fetches: one thread that looks about once a second.

Other programs fill the disk, other processes come with a smaller limit, a disk that was full has room again; nobody
tells. What is done then is ``cache.Room``'s, and the fetcher's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..cache import CacheBudget
from ..errors import HffsError

log = logging.getLogger(__name__)
# A look takes some 50 us; a disk is not filled in less.
LOOK_SECONDS = 1.0


class CacheMaintenance:
    """``start`` once, ``stop`` before the budget is closed."""

    def __init__(self, budget: CacheBudget, probe: Callable[[], None] = lambda: None) -> None:
        """``probe`` is called after each look at the budget."""
        self._budget = budget
        self._probe = probe
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hffs-budget", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience: float = 5.0) -> None:
        self._ended.set()
        self._thread.join(patience)

    def _run(self) -> None:
        look = self._budget.start
        while True:
            try:
                look()
                look = self._budget.maintain
                self._probe()
            except HffsError as error:  # a disk that fails is told of by who stores on it
                log.debug("event=no-housekeeping error=%s", error)
            except Exception as error:  # a bug of ours; without this thread the limits hold only while blocks come
                log.error("event=housekeeping-bug", exc_info=error)
            if self._ended.wait(LOOK_SECONDS):
                return
