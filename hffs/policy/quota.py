"""How fast work that nobody waits for may use up what a server allows in its window: freely while most of it is left,
spread over the rest of the window when it runs short, and never the last of it, which is for readers.

``remote.standing`` tells what the server said and asks with ``now`` in monotonic seconds. Not thread-safe by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# From here down the rest is spread. Of the 3000 requests an anonymous user has in five minutes, three quarters at full
# speed bring 2250 files, more than nearly every repo has; nobody who hydrates one notices any of this.
SHORT: Final = 0.25
# This share is the readers' alone: 300 files of those 3000 that somebody opens while the rest of the window passes.
KEPT: Final = 0.1
# Where the server does not say how many there are in all: the smallest number the Hub documents.
SMALLEST: Final = 500


@dataclass(frozen=True, slots=True)
class Quota:
    """``left`` requests of ``limit`` (None: not told) until ``resets_at`` (monotonic seconds)."""

    left: int
    limit: int | None
    resets_at: float

    def spare(self) -> int:
        """How many of those left are not kept for readers."""
        return max(0, self.left - math.ceil(KEPT * (self.limit or SMALLEST)))

    def interval(self, now: float) -> float:
        """Seconds from one background request to the next; up to the end of the window where none is spare."""
        if now >= self.resets_at or self.left > SHORT * (self.limit or SMALLEST):
            return 0.0
        return (self.resets_at - now) / max(1, self.spare())


class RequestPacer:
    """The times of background requests against one quota."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def wait(self, quota: Quota | None, now: float) -> float:
        """Seconds to wait before the next one; 0: it may go now, and counts as sent."""
        if quota is not None and now < quota.resets_at:
            if quota.left <= SHORT * (quota.limit or SMALLEST) and not quota.spare():
                return quota.resets_at - now
            due = min(self._last + quota.interval(now), quota.resets_at)
            if now < due:
                return due - now
        self._last = now
        return 0.0
