"""How many bytes may be read now, where the user has set a limit: reads and background work from one budget.

``transfer.throttle`` asks before each block, with the lock and the clock that this has not. Everybody draws on one
account. Who waits for bytes may also draw on a second one that background work cannot touch and that fills at the full
rate, so that nothing done in the background, before or meanwhile, keeps a reader below the rate; what he takes from it
the common account owes, and background work waits until that is paid. Knows no waiter and keeps no order among equals.
"""

from __future__ import annotations

from math import isfinite
from typing import Final

from ..ranges import BLOCK_SIZE

# What may come at once, in seconds of the rate; never less than a block, as blocks are what is taken. 0.1: who asks
# again every 50 ms may oversleep once and lose nothing. 0.05 for readers: what is saved up there comes on top of it.
BURST_SECONDS: Final = 0.1
URGENT_BURST_SECONDS: Final = 0.05

# Accounts are compared to the byte: moments are floats, and whoever comes back on time must find what he was promised.
_ROUNDING: Final = 1.0
# 0.1 ms: no sleep is shorter, and a moment after any uptime is later by that much.
_SOONEST: Final = 0.0001


class Bandwidth:
    """Bytes per second, at most ``rate`` (None: no limit).

    Within any ``window`` seconds no more than ``rate × window + burst + urgent_burst`` bytes are granted; where bytes
    are taken in pieces larger than a burst, on top of it the excess of two pieces. Not thread-safe; ``now`` is
    monotonic seconds.
    """

    def __init__(self, rate: float | None) -> None:
        """Raises ValueError for a rate that is none."""
        self._rate: float | None = None
        self._since: float | None = None  # None: nobody has asked yet, both accounts are full
        self._common = 0.0
        self._urgent = 0.0
        self._set(rate)

    @property
    def rate(self) -> float | None:
        return self._rate

    @property
    def burst(self) -> float:
        """Bytes that may come at once after a pause; 0.0 without a limit, where the word means nothing."""
        return 0.0 if self._rate is None else max(BLOCK_SIZE, BURST_SECONDS * self._rate)

    @property
    def urgent_burst(self) -> float:
        """Bytes that waiting readers may have at once on top of ``burst``."""
        return 0.0 if self._rate is None else max(BLOCK_SIZE, URGENT_BURST_SECONDS * self._rate)

    def set_rate(self, rate: float | None, now: float) -> None:
        """From now on; what is owed stays owed. Raises ValueError for a rate that is none."""
        self._refill(now)
        self._set(rate)

    def take(self, count: int, now: float, *, urgent: bool) -> float:
        """0.0: ``count`` bytes are taken and may be read now. Else nothing is: ask again after at most so many seconds.

        ``urgent``: a reader waits for them. More than a burst is granted too, and paid off by those who come after.
        """
        if self._rate is None or count <= 0:
            return 0.0
        self._refill(now)
        lacking = min(count, self.burst) - self._common
        if lacking > _ROUNDING and urgent:
            lacking = min(lacking, min(count, self.urgent_burst) - self._urgent)
            if lacking <= _ROUNDING:
                self._urgent -= count
        if lacking > _ROUNDING:
            return max(lacking / self._rate, _SOONEST)
        self._common -= count
        return 0.0

    def _set(self, rate: float | None) -> None:
        if rate is not None and not (isfinite(rate) and rate > 0):
            raise ValueError(f"not a rate: {rate}")
        unlimited = self._rate is None
        self._rate = rate
        if unlimited:
            self._common, self._urgent = self.burst, self.urgent_burst

    def _refill(self, now: float) -> None:
        if self._rate is not None and self._since is not None:
            more = self._rate * max(now - self._since, 0.0)
            self._common = min(self._common + more, self.burst)
            self._urgent = min(self._urgent + more, self.urgent_burst)
        self._since = now if self._since is None else max(now, self._since)
