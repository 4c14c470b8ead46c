"""Limits on concurrent fetches by priority: some workers are reserved for waiting readers, big files get as many as the
concurrency controller says, and while a server asks for patience only waiting readers are served.

``transfer.scheduler`` calls every method under its lock and passes ``now`` (monotonic seconds). Counts running fetches
by priority and does not see the queue. Not thread-safe by itself.
"""

from __future__ import annotations

from typing import Final

from .blocks import Priority
from .concurrency_controller import ConcurrencyController

# Workers that serve waiting readers only: on a line that 8 workers fill with 4 MiB each, a read queued behind them
# waits 0.3 s, behind 16 MiB 1 s.
RESERVED: Final = 2
# 8 connections fill 1 Gbit/s at 30 ms, and are what other tools open (aria2c -x8). Twice as many double the wait of an
# unpredicted read.
USUAL: Final = 8
# The Hub counts in windows of five minutes: no legitimate answer asks for longer.
MOST_PATIENCE: Final = 300.0
_NEVER: Final = float("-inf")

_Pause = tuple[float, str]


class ConcurrencyLimits:
    """Of ``workers`` in all, ``ahead`` may read ahead concurrently; ``controller`` limits those on big files."""

    def __init__(
        self, *, workers: int, ahead: int | None = None, controller: ConcurrencyController | None = None
    ) -> None:
        if workers < 1:
            raise ValueError("at least one worker")
        self.controller = controller or ConcurrencyController(most=workers)
        self._lesser = max(1, workers - RESERVED)  # for work without a waiting reader; one of one or two workers
        self._ahead = min(USUAL if ahead is None else ahead, self._lesser)
        self._running = [0] * len(Priority)
        # Until when and why: asked for by a server, and set by ``pause``.
        self._asked: _Pause = (_NEVER, "")
        self._paused: _Pause = (_NEVER, "")

    def among(self, now: float) -> list[Priority]:
        """Returns the priorities that one more worker may take."""
        found = [Priority.DEMAND]
        if now < self._pause[0] or sum(self._running[Priority.AHEAD :]) >= self._lesser:
            return found
        if self._running[Priority.AHEAD] < self._ahead:
            found.append(Priority.AHEAD)
        found.append(Priority.BACKGROUND)
        if self._running[Priority.BULK] < self.controller.limit:
            found.append(Priority.BULK)
        return found

    def began(self, priority: Priority) -> None:
        self._running[priority] += 1

    def ended(self, priority: Priority) -> None:
        self._running[priority] -= 1
        assert self._running[priority] >= 0, f"more fetches ended than began: {priority.name}"

    def running(self, priority: Priority) -> int:
        return self._running[priority]

    def refused(self, now: float, retry_after: float | None) -> None:
        """A server refused a request: no read-ahead or background work until ``retry_after`` seconds have passed."""
        self.controller.refused(now, retry_after)
        if retry_after is not None:
            self._asked = max(self._asked, (now + min(retry_after, MOST_PATIENCE), "the server asked for patience"))

    def pause(self, until: float, why: str) -> None:
        """Stops read-ahead and background work until ``until`` (monotonic seconds) or ``resume``."""
        if until >= self._paused[0]:
            self._paused = until, why

    def resume(self) -> None:
        """Ends a ``pause`` early; a wait that a server asked for stays."""
        self._paused = _NEVER, ""

    @property
    def _pause(self) -> _Pause:
        return max(self._asked, self._paused)

    @property
    def why(self) -> str:
        """The reason of the last pause."""
        return self._pause[1]

    def paused(self, now: float) -> float | None:
        """Returns until when only waiting readers are served (monotonic seconds); None if there is no pause."""
        until = self._pause[0]
        return until if now < until else None
