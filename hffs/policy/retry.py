"""The retry policy of requests: how long to wait before the next attempt, and when to give up.

Stateless: used from any thread; the caller sleeps and passes ``random``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``attempts`` in all, the first included; waits of up to ``base`` seconds, doubling up to ``cap``.

    Full jitter spreads clients that failed together. Six attempts wait 8 s on average and 15.5 s at most, which
    leaves most of a read's deadline (120 s) to the requests themselves.
    """

    attempts: int = 6
    base: float = 0.5
    cap: float = 16.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.base <= self.cap:
            raise ValueError(f"not a retry policy: {self}")

    def decide(self, attempt: int, *, transient: bool, retry_after: float | None, random: float) -> float | None:
        """Returns the seconds to wait after attempt number ``attempt`` (from 0) failed; None: give up.

        ``transient``: whether the error allows a retry. ``retry_after``: the minimum wait the server asked for, in
        seconds. ``random`` is in [0, 1).
        """
        if not 0 <= random < 1 or attempt < 0:
            raise ValueError(f"attempt {attempt} from 0, random {random} in [0, 1)")
        if not transient or attempt + 1 >= self.attempts:
            return None
        most = min(self.cap, self.base * 2.0 ** min(attempt, 60))  # 60: past any cap, and still a float
        return max(random * most, retry_after or 0.0)
