"""Rate limits: fixed windows per bucket and user, and the headers that report them.

Called once per request by the API origin, from any connection thread; one lock, held for arithmetic only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from threading import Lock

from .wire import Answer, plain

WINDOW = 300  # seconds
UNLIMITED = 1_000_000  # what the headers tell when no quota is set


class Limits:
    """`quotas` maps "api", "resolvers" and "pages" to requests per window; a bucket left out has no limit."""

    def __init__(self, clock: Callable[[], float], quotas: Mapping[str, int] | None, window: int = WINDOW) -> None:
        self.quotas = dict(quotas or {})
        self.window = window
        self._clock = clock
        self._lock = Lock()
        self._counts: dict[tuple[str, str, int], int] = {}  # guarded by _lock; (bucket, user, window number)

    def count(self, bucket: str, user: str) -> tuple[dict[str, str], Answer | None]:
        """Returns the headers for this request's answer, and a 429 to send instead once the quota is used up."""
        now = self._clock()
        number = int(now // self.window)
        quota = self.quotas.get(bucket, UNLIMITED)
        with self._lock:
            for key in [key for key in self._counts if key[2] < number]:
                del self._counts[key]
            used = self._counts.get((bucket, user, number), 0) + 1
            self._counts[bucket, user, number] = used
        wait = max(math.ceil((number + 1) * self.window - now), 1)
        headers = {
            "RateLimit": f'"{bucket}";r={max(quota - used, 0)};t={wait}',
            "RateLimit-Policy": f'"fixed window";"{bucket}";q={quota};w={self.window}',
        }
        if used <= quota:
            return headers, None
        text = "We had to rate limit you. To continue using our service, create a HF account or login."
        return headers, plain(429, text, {**headers, "Retry-After": str(wait)})
