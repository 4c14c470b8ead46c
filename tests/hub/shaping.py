"""Latency and bandwidth of the simulated network.

The connection threads of `server` ask a `Pace` how much to send next and wait before sending it. Settings may be
changed while the hub runs. Buckets are locked; no thread sleeps with a lock held.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

UNSHAPED_SLICE = 4 << 20  # bytes per sendfile call at full speed: system calls cost nothing by then
SLICE_SECONDS = 0.02  # shaped, 50 sends a second look smooth to a client and cost no CPU
SMALLEST_SLICE = 4 << 10
SHARERS = 8  # connections that take turns smoothly under a total; more of them get longer pauses


class Bucket:
    """A virtual clock for the time of the next bytes; it makes up for at most one slice of lateness."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._free_at = 0.0  # guarded by _lock

    def take(self, count: int, rate: float) -> float:
        """Returns the seconds to wait until `count` bytes have passed at `rate` bytes a second."""
        now = self._clock()
        with self._lock:
            self._free_at = max(self._free_at, now - SLICE_SECONDS) + count / rate
            return max(self._free_at - now, 0.0)


@dataclass
class Shape:
    """Seconds before the first byte of each answer and of each connection; bytes a second, None for no limit."""

    latency: float = 0.0
    connect_latency: float = 0.0
    per_connection: float | None = None
    total: float | None = None
    whole: Bucket = field(default_factory=Bucket, repr=False)

    @property
    def slice(self) -> int:
        slices = [UNSHAPED_SLICE]
        if self.per_connection:
            slices.append(int(self.per_connection * SLICE_SECONDS))
        if self.total:
            slices.append(int(self.total * SLICE_SECONDS / SHARERS))
        return max(min(slices), SMALLEST_SLICE)


class Pace:
    """The pace of one connection; used by its thread only."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._own = Bucket()

    def wait_for(self, count: int) -> float:
        """Returns the seconds to wait before sending the next `count` bytes."""
        shape, wait = self._shape, 0.0
        if shape.per_connection:
            wait = self._own.take(count, shape.per_connection)
        if shape.total:
            wait = max(wait, shape.whole.take(count, shape.total))
        return wait
