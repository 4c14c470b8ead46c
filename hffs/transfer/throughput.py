"""How fast bytes come in: a sliding window over small buckets. The caller holds its own lock."""

from __future__ import annotations

from collections import deque

# Two seconds: long enough that 16 MiB fetches at 30 ms do not make the figure jump, short enough to look alive.
WINDOW_S = 2.0
BUCKET_S = 0.1


class Throughput:
    """Bytes per second over the last ``window`` seconds, or since ``began``; times are monotonic seconds."""

    def __init__(self, began: float = float("-inf"), window: float = WINDOW_S) -> None:
        self._began = began
        self._window = window
        self._buckets: deque[tuple[float, int]] = deque()

    def add(self, count: int, now: float) -> None:
        if self._buckets and now - self._buckets[-1][0] < BUCKET_S:
            began, size = self._buckets[-1]
            self._buckets[-1] = (began, size + count)
        else:
            self._buckets.append((now, count))
            while self._buckets[0][0] < now - self._window:
                self._buckets.popleft()

    def rate(self, now: float) -> float:
        recent = sum(count for began, count in self._buckets if began >= now - self._window)
        # The first bucket of what has just begun does not show its speed yet.
        return recent / min(self._window, max(now - self._began, BUCKET_S))
