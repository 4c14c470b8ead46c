"""A bandwidth limit with two token buckets, for reads and background work together.

``transfer.throttle`` takes bytes before each block, with its own lock and clock. All fetches draw on the common bucket.
Waiting reads may also draw on an urgent bucket that background work cannot use and that fills at the full rate, so that
no background work, past or present, keeps a reader below the rate; what a read takes there is owed by the common
bucket, and background work waits until it is paid back. Requests of equal urgency have no order.
"""

from __future__ import annotations

from math import isfinite
from typing import Final

from ..ranges import BLOCK_SIZE

# Sizes of the buckets in seconds of the rate; at least one block, the unit of requests. 0.1: a caller that retries
# every 50 ms may oversleep once without loss. 0.05 for readers, on top of the other.
BURST_SECONDS: Final = 0.1
URGENT_BURST_SECONDS: Final = 0.05

# Slack of one byte: times are floats, and a caller that returns in time must get the bytes it was promised.
_ROUNDING: Final = 1.0
# 0.1 ms: no sleep is shorter, and it is representable beside any uptime.
_SOONEST: Final = 0.0001


class Bandwidth:
    """Bytes per second, at most ``rate`` (None: no limit).

    Within any ``window`` seconds no more than ``rate × window + burst + urgent_burst`` bytes are granted; where bytes
    are taken in pieces larger than a burst, on top of it the excess of two pieces. Not thread-safe; ``now`` is
    monotonic seconds.
    """

    def __init__(self, rate: float | None) -> None:
        """Raises ValueError for an invalid rate."""
        self._rate: float | None = None
        self._since: float | None = None  # None: not used yet, both buckets are full
        self._common = 0.0
        self._urgent = 0.0
        self._set(rate)

    @property
    def rate(self) -> float | None:
        return self._rate

    @property
    def burst(self) -> float:
        """Bytes granted at once after a pause; 0.0 without a limit."""
        return 0.0 if self._rate is None else max(BLOCK_SIZE, BURST_SECONDS * self._rate)

    @property
    def urgent_burst(self) -> float:
        """Bytes granted at once to waiting readers on top of ``burst``."""
        return 0.0 if self._rate is None else max(BLOCK_SIZE, URGENT_BURST_SECONDS * self._rate)

    def set_rate(self, rate: float | None, now: float) -> None:
        """Applies from ``now`` on; a debt stays. Raises ValueError for an invalid rate."""
        self._refill(now)
        self._set(rate)

    def take(self, count: int, now: float, *, urgent: bool) -> float:
        """Takes ``count`` bytes and returns 0.0, or takes nothing and returns the longest wait before a retry, in
        seconds. ``urgent``: a reader waits for them. More than a burst is granted, too, as a debt of later requests."""
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
