"""Holds workers back while the bandwidth is limited.

``wait`` precedes each block. How much may be read now is ``policy.Bandwidth``'s decision, taken under the one lock
here; ``urgent`` and ``stopped`` are called without it, so they may take locks of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from ..policy import Bandwidth

# How soon a held-back worker notices that it is to stop, or that a reader has come to need its block. A reader does not
# feel 50 ms where bytes are rationed, and 16 workers that wake so often cost nothing to speak of.
SLICE_SECONDS: Final = 0.05


class Throttle:
    """Lets ``rate`` bytes per second through (None: all, without taking a lock). Any thread."""

    def __init__(
        self,
        rate: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        condition: threading.Condition | None = None,
    ) -> None:
        """Workers wait on ``condition``. Raises ValueError for a rate below 1."""
        self._clock = clock
        self._condition = threading.Condition() if condition is None else condition
        self._rate = rate  # written under _condition, read without
        # guarded by _condition
        self._bandwidth = Bandwidth(rate)

    @property
    def rate(self) -> int | None:
        return self._rate

    def set_rate(self, rate: int | None) -> None:
        """Holds at once, also for workers that wait. Raises ValueError for a rate below 1."""
        with self._condition:
            self._bandwidth.set_rate(rate, self._clock())
            self._rate = rate
            self._condition.notify_all()

    def wait(self, count: int, urgent: Callable[[], bool], stopped: Callable[[], bool]) -> None:
        """Returns when ``count`` bytes may be read, or soon after ``stopped()``.

        ``urgent()``, whether a reader waits for them, is called anew as long as this waits.
        """
        while self._rate is not None and not stopped():
            is_urgent = urgent()
            with self._condition:
                pause = self._bandwidth.take(count, self._clock(), urgent=is_urgent)
                if not pause:
                    return
                self._condition.wait(min(pause, SLICE_SECONDS))
