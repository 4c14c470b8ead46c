"""What a free worker may do now: some workers are kept for waiting readers, big files get as many as pay, and while a
server asks for patience only readers are served.

``transfer.scheduler`` calls every method under its lock and passes ``now`` (monotonic seconds). Knows how many
fetches of each priority run, not which. Never looks at the queue. Not thread-safe by itself.
"""

from __future__ import annotations

from typing import Final

from .blocks import Priority
from .concurrency_controller import ConcurrencyController

# Workers that only ever serve waiting readers: on a line that 8 workers fill with 4 MiB each, whoever must queue behind
# them waits 0.3 s, behind 16 MiB 1 s (design notes, performance 4.2).
RESERVED: Final = 2
# 8 connections fill 1 Gbit/s at 30 ms, and are what others open (aria2c -x8). Twice as many double what a reader waits
# for that comes to a place nobody expected.
USUAL: Final = 8
# The Hub counts in windows of five minutes: no honest answer asks for longer.
MOST_PATIENCE: Final = 300.0
_NEVER: Final = float("-inf")

_Pause = tuple[float, str]


class ConcurrencyLimits:
    """``workers`` in all, of which ``ahead`` may read ahead at once; ``limiter`` says how many hydrate big files."""

    def __init__(self, *, workers: int, ahead: int | None = None, limiter: ConcurrencyController | None = None) -> None:
        if workers < 1:
            raise ValueError("at least one worker")
        self.limiter = limiter or ConcurrencyController(most=workers)
        self._lesser = max(1, workers - RESERVED)  # for what no reader waits for; of one or two workers, one
        self._ahead = min(USUAL if ahead is None else ahead, self._lesser)
        self._running = [0] * len(Priority)
        # Until when and why: a server asked for it, and somebody else knows that nothing else makes sense.
        self._asked: _Pause = (_NEVER, "")
        self._paused: _Pause = (_NEVER, "")

    def among(self, now: float) -> list[Priority]:
        """The priorities that one more worker may take."""
        found = [Priority.DEMAND]
        if now < self._pause[0] or sum(self._running[Priority.AHEAD :]) >= self._lesser:
            return found
        if self._running[Priority.AHEAD] < self._ahead:
            found.append(Priority.AHEAD)
        found.append(Priority.BACKGROUND)
        if self._running[Priority.BULK] < self.limiter.limit:
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
        """A server wants less of us: nothing ahead or in the background before it asked us to come back."""
        self.limiter.refused(now, retry_after)
        if retry_after is not None:
            self._asked = max(self._asked, (now + min(retry_after, MOST_PATIENCE), "the server asked for patience"))

    def pause(self, until: float, why: str) -> None:
        """Nothing ahead or in the background before ``until`` (monotonic seconds), or ``resume``."""
        if until >= self._paused[0]:
            self._paused = until, why

    def resume(self) -> None:
        """What others were told to ``pause`` for has ended early; a server's patience has not."""
        self._paused = _NEVER, ""

    @property
    def _pause(self) -> _Pause:
        return max(self._asked, self._paused)

    @property
    def why(self) -> str:
        """Why only readers were served last."""
        return self._pause[1]

    def paused(self, now: float) -> float | None:
        """Until when only waiting readers are served (monotonic seconds); None: everybody is."""
        until = self._pause[0]
        return until if now < until else None
