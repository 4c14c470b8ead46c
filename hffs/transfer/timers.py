"""One thread that owns every deadline.

An action runs on the timer thread and must only hand over (settle a ticket, notify a condition), never block. A
cancelled timer costs nothing but its place in the heap until it is due.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

# Nearly every timer is cancelled long before it is due (a read waits milliseconds, its deadline is two minutes away):
# the heap is swept when it has doubled, and not for fewer than this many.
SWEEP_AT = 1024
# Upper bound of every condition wait.
SLEEP_SECONDS = 60.0


class Timer:
    """One moment; ``cancel`` on any thread."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Timers:
    """Deadlines in ``time.monotonic`` seconds. ``start`` before use; ``stop`` runs none that is not due yet."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        # guarded by _ready
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._sweep_at = SWEEP_AT
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="hffs-timer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._ready:
            self._stopping = True
            self._ready.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def call_at(self, when: float, action: Callable[[], None]) -> Timer:
        timer = Timer(action)
        with self._ready:
            if len(self._heap) >= self._sweep_at:
                self._heap = [each for each in self._heap if each[2].action is not None]
                heapq.heapify(self._heap)
                self._sweep_at = max(SWEEP_AT, 2 * len(self._heap))
            heapq.heappush(self._heap, (when, next(self._numbers), timer))
            if self._heap[0][2] is timer:
                self._ready.notify()
        return timer

    def _run(self) -> None:
        while True:
            due: list[Timer] = []
            with self._ready:
                if self._stopping:
                    return
                now = time.monotonic()
                while self._heap and (self._heap[0][0] <= now or self._heap[0][2].action is None):
                    due.append(heapq.heappop(self._heap)[2])
                if not due:
                    self._ready.wait(min(self._heap[0][0] - now, SLEEP_SECONDS) if self._heap else SLEEP_SECONDS)
            for timer in due:
                action = timer.action
                if action is not None:
                    try:
                        action()
                    except Exception as error:  # a bug of the caller's; without this thread no wait would end
                        log.error("event=timer-bug", exc_info=error)
