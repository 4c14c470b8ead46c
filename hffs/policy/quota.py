"""Pacing of background requests against a server's rate limit: full speed while most of the quota is left, spread over
the rest of the window when it runs short; the last part is reserved for readers.

Used by the access state of a source, with ``now`` in monotonic seconds. Not thread-safe by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# Below this share the rest is spread. Of the 3000 requests an anonymous user has in five minutes, three quarters at
# full speed fetch 2250 files, more than nearly every repo has, so most hydrations are never paced.
SHORT: Final = 0.25
# Reserved for readers: of those 3000 requests, 300 files opened during the rest of the window.
KEPT: Final = 0.1
# Assumed limit if the server does not report one: the smallest that the Hub documents.
SMALLEST: Final = 500


@dataclass(frozen=True, slots=True)
class Quota:
    """``left`` requests of ``limit`` (None: not reported) until ``resets_at`` (monotonic seconds)."""

    left: int
    limit: int | None
    resets_at: float

    def spare(self) -> int:
        """Returns how many of the requests left are not reserved for readers."""
        return max(0, self.left - math.ceil(KEPT * (self.limit or SMALLEST)))

    def interval(self, now: float) -> float:
        """Returns the seconds between background requests; the rest of the window if none is spare."""
        if now >= self.resets_at or self.left > SHORT * (self.limit or SMALLEST):
            return 0.0
        return (self.resets_at - now) / max(1, self.spare())


class RequestPacer:
    """The times of background requests against one quota."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def wait(self, quota: Quota | None, now: float) -> float:
        """Returns the seconds to wait before the next request; 0: send it now, it is counted as sent."""
        if quota is not None and now < quota.resets_at:
            if quota.left <= SHORT * (quota.limit or SMALLEST) and not quota.spare():
                return quota.resets_at - now
            due = min(self._last + quota.interval(now), quota.resets_at)
            if now < due:
                return due - now
        self._last = now
        return 0.0
