"""Where workers wait when the user has limited the bandwidth.

``wait`` comes before each block. How much may come now is ``policy.Bandwidth``'s decision, taken under the one lock
here; ``urgent`` and ``stopped`` are asked outside it, so they may take locks of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from ..policy import Bandwidth

# How soon a waiting worker notices that it is to stop, or that a reader has come to need its block. A reader does not
# feel 50 ms where bytes are rationed, and 16 workers waking that often cost nothing to speak of.
SLICE_SECONDS: Final = 0.05


class Throttle:
    """Lets through ``rate`` bytes per second (None: everything, without taking a lock). Any thread may call."""

    def __init__(
        self,
        rate: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        turn: threading.Condition | None = None,
    ) -> None:
        """``turn`` is what workers wait on. Raises ValueError for a rate that is none."""
        self._clock = clock
        self._turn = threading.Condition() if turn is None else turn
        self._rate = rate  # written under _turn, read without
        # guarded by _turn
        self._bandwidth = Bandwidth(rate)

    @property
    def rate(self) -> int | None:
        return self._rate

    def set_rate(self, rate: int | None) -> None:
        """From now on, also for who waits. Raises ValueError for a rate that is none."""
        with self._turn:
            self._bandwidth.set_rate(rate, self._clock())
            self._rate = rate
            self._turn.notify_all()

    def wait(self, count: int, urgent: Callable[[], bool], stopped: Callable[[], bool]) -> None:
        """Returns when ``count`` bytes may be read, or soon after ``stopped()``.

        ``urgent()`` says whether a reader waits for them; it is asked anew as long as this waits.
        """
        while self._rate is not None and not stopped():
            hurry = urgent()
            with self._turn:
                pause = self._bandwidth.take(count, self._clock(), urgent=hurry)
                if not pause:
                    return
                self._turn.wait(min(pause, SLICE_SECONDS))
