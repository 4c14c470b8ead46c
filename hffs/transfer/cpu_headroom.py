"""Whether the machine has processor time to spare for work that can wait, such as hashing a file that still grows.

The hash worker asks, whose own work is not counted. One thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

# A cold read over loopback takes all of two cores, and hashing beside it took a fifth of its speed, though at the
# lowest priority: the interpreter's lock knows none. At 1 Gbit/s half of the machine is idle.
IDLE_SHARE: Final = 0.25
_SAMPLE_S: Final = 0.1  # idle time is counted in hundredths of a second


def idle_seconds() -> float | None:
    """How long all processors together have been idle (proc(5), uptime); None where that is unknown."""
    try:
        with open("/proc/uptime", encoding="ascii") as file:
            return float(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return None


class CpuHeadroom:
    """``idle`` and ``own`` return seconds of processor time: unused, and the calling thread's. ``now`` is monotonic."""

    def __init__(
        self,
        idle: Callable[[], float | None] = idle_seconds,
        own: Callable[[], float] = time.thread_time,
        now: Callable[[], float] = time.monotonic,
        cores: int | None = None,
    ) -> None:
        self._idle = idle
        self._own = own
        self._now = now
        self._least = IDLE_SHARE * (cores or os.cpu_count() or 1)
        self._at = -1.0
        self._free = 0.0
        self._short = False

    def is_short(self) -> bool:
        """Whether other threads left less than a quarter of the machine just now; False until that is known."""
        now = self._now()
        if self._at < 0 or now - self._at >= _SAMPLE_S:
            idle = self._idle()
            free = 0.0 if idle is None else idle + self._own()
            self._short = idle is not None and self._at >= 0 and free - self._free < self._least * (now - self._at)
            self._at, self._free = now, free
        return self._short
