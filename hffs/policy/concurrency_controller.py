"""How many workers hydrate big files concurrently: by measurement, within the limits of user, server and machine.

The fetcher calls ``sample`` about four times a second while there is such work. The number starts at one, doubles while
that pays, and returns to the last number that paid. Later more and fewer are tried again, since networks change and
measurements err. Only the total speed is measured, so a busy line, a slow disk and a saturated processor all show in
the same way. Starts and stops no worker, and does not limit those that serve waiting readers. Not thread-safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final

_MIB: Final = 1024 * 1024

# A sample spans the calls of at least this time. A thread that calls every 250 ms may wake a little early.
SAMPLE_SECONDS: Final = 0.2
# The first phase ends when this many samples differ by no more than a tenth of their mean: a second, and past TCP slow
# start, in which each sample is up to twice the one before.
AGREEING: Final = 4
WITHIN: Final = 0.1
# A trial is compared with the two seconds before it, accurate to a few per cent.
REMEMBERED: Final = 8
# Doublings are at least half a second apart, of which the first part is not counted, since connections are opened in it
# (a TLS handshake at 100 ms takes 0.3 s).
STEP_SECONDS: Final = 0.5
OPENING_SECONDS: Final = 0.4
# The gain that more workers must bring, as a share of a proportional gain. A measurement of half a second can be off by
# a tenth on either side, so 15 % are required. Two seconds, most of which slow start takes at a round trip of 200 ms,
# are accurate to a few per cent, so 7 % are required. (4 workers brought 8 % more than 2 on 1 Gbit/s at 30 ms, 8 then
# 4 % more than 4: 4 are worth having, 8 are not.)
SHARE_AT_ONCE: Final = 0.15
SHARE_IN_THE_END: Final = 0.07
PATIENCE_SECONDS: Final = 2.0
# A trial that cannot be judged, because there is too little work for so many workers, ends after this time.
TRIAL_SECONDS: Final = 5.0
# Between trials: doubling while they do not pay. At 4 min the 2 s of a trial with too many connections are under 1 %.
PAUSE_SECONDS: Final = 30.0
LONGEST_PAUSE_SECONDS: Final = 240.0
# After an increase that paid, fewer are tried sooner: on a distant line the slow start of one number may still be going
# on when the next is measured, and be taken for its gain.
LOOK_BACK_SECONDS: Final = 5.0
# A change of speed by this factor with the same workers resets the pauses.
ANOTHER_LINE: Final = 1.5
# The pause after a refusal without Retry-After; and the longest Retry-After honoured.
HOLD_SECONDS: Final = 5.0
LONGEST_HOLD_SECONDS: Final = 600.0
# Refusals this close together answer concurrent requests, and halve the number once.
SAME_REFUSAL_SECONDS: Final = 1.0
# After a minute without work servers have closed the connections, and the line may have changed: measure again, for a
# second only.
LONG_IDLE_SECONDS: Final = 60.0
SHORT_PROBE_SECONDS: Final = 1.0


class _Phase(Enum):
    FIRST = 0  # one worker, until its speed is known
    TRIAL = 1  # more workers than known to pay, or fewer
    SETTLED = 2


@dataclass(frozen=True, slots=True)
class _Sample:
    seconds: float
    count: int

    @property
    def rate(self) -> float:
        return self.count / self.seconds


class ConcurrencyController:
    """Decides a number of workers from 1 to ``most``: ``limit``, with the reason ``why``.

    Up to ``usual`` workers are used whatever the machine's load. ``min_speed`` (bytes/s) is required of each worker for
    more to be tried, ``probe_seconds`` bounds the first phase, ``bound`` describes the origin of ``most``. ``now`` is
    monotonic seconds; time without work does not count.
    """

    def __init__(
        self,
        *,
        most: int,
        usual: int = 8,
        min_speed: float = 3 * _MIB,
        probe_seconds: float = 5.0,
        bound: str = "as many as are allowed",
    ) -> None:
        if most < 1 or usual < 1 or min_speed < 0 or probe_seconds < 0:
            raise ValueError("at least one worker; speeds and times are not negative")
        self._most = most
        self._usual = usual
        self._min_speed = min_speed
        self._probe_seconds = probe_seconds
        self._bound = bound
        # Seconds with work so far; times below are on this clock, except those named "…_at", which are ``now``.
        self._worked = 0.0
        self._mark: tuple[float, int] | None = None  # time and byte count at the start of the current sample
        self._full = True  # as many workers as allowed were active throughout the current sample
        self._idle_at: float | None = None
        self._refused_at = -inf
        self._quiet_at = -inf  # nothing is measured until then: the server refused requests
        self._more_from = self._less_from = 0.0  # earliest time of a trial of more, of fewer
        self._pause_more = self._pause_less = PAUSE_SECONDS  # pause after the next trial without gain
        self._before, self._before_rate, self._before_why = 1, 0.0, ""  # in a trial: the state before it
        self._known_rate: float | None = None  # speed of the present number when it had settled
        self._samples: deque[_Sample] = deque(maxlen=REMEMBERED)
        self._start_measuring(probe_seconds)

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def why(self) -> str:
        """One short sentence for ``hffs status``."""
        return self._why

    def sample(self, now: float, fetched: int, active: int, load: float, cores: int) -> int:
        """Returns the limit, given the bytes fetched by these workers in all and how many are active now.

        Samples with fewer active workers than about ``limit`` say nothing about ``limit`` workers and are ignored.
        ``load`` is the machine's load average. Called about every 250 ms while there is work; the exact interval does
        not matter.
        """
        self._resume(now)
        if now < self._quiet_at:
            self._mark = None
            return self._limit
        if self._mark is None or now < self._mark[0] or fetched < self._mark[1]:
            self._mark, self._full = (now, fetched), True
            return self._limit
        # One in eight may be between two fetches when counted.
        self._full = self._full and self._limit - self._limit // 8 <= active <= self._limit
        found = _Sample(now - self._mark[0], fetched - self._mark[1])
        if found.seconds >= SAMPLE_SECONDS:
            self._worked += found.seconds
            opening = self._phase is _Phase.TRIAL and self._worked - self._measured_from < OPENING_SECONDS
            if self._full and not opening:
                self._samples.append(found)
            self._mark, self._full = (now, fetched), True
            self._decide(load, cores)
        return self._limit

    def refused(self, now: float, retry_after: float | None) -> None:
        """Reports a 429 or 503, with the seconds of its Retry-After if any."""
        self._resume(now)
        hold = min(max(retry_after or 0.0, HOLD_SECONDS), LONGEST_HOLD_SECONDS)
        self._quiet_at = max(self._quiet_at, now + hold)
        self._mark = None
        if now - self._refused_at >= SAME_REFUSAL_SECONDS:
            self._refused_at = now
            self._set(max(1, self._limit // 2))
            self._settle("the server refused requests", self._pause_more)
            self._less_from = max(self._less_from, self._worked + PAUSE_SECONDS)
            self._pause_more = min(2 * self._pause_more, LONGEST_PAUSE_SECONDS)

    def idle(self, now: float) -> None:
        """Reports that there is no such work until the next ``sample``."""
        if self._mark is not None and self._idle_at is None:
            self._idle_at = now

    # --- decisions --------------------------------------------------------------------------------------------------

    def _decide(self, load: float, cores: int) -> None:
        measured = list(self._samples)
        recent = measured[-AGREEING:]
        since = self._worked - self._changed
        if self._phase is _Phase.FIRST:
            if recent and since >= STEP_SECONDS and (since >= self._first_seconds or _agree(recent)):
                self._try_more(_rate(recent), load, cores)
        elif self._phase is _Phase.TRIAL:
            if recent and since >= STEP_SECONDS:
                patient = self._worked - self._measured_from >= PATIENCE_SECONDS and len(recent) == AGREEING
                rate = _rate(recent if patient else recent[-2:])
                if self._limit > self._before:
                    self._judge_more(rate, patient, load, cores)
                else:
                    self._judge_less(rate, patient)
            if self._phase is _Phase.TRIAL and self._worked - self._changed >= TRIAL_SECONDS:
                self._give_up("too little work to try more")
        elif len(recent) == AGREEING:
            self._watch(_rate(recent))
            if self._limit > 1 and all(each.rate < self._limit * self._min_speed for each in recent):
                self._set(self._limit // 2)
                self._settle(self._too_slow(), self._pause_more)
                return
            if self._worked >= self._more_from:
                self._try_more(_rate(measured), load, cores)
            if self._phase is _Phase.SETTLED and self._worked >= self._less_from and self._limit > 1:
                self._try((self._limit + 1) // 2, _rate(measured))

    def _watch(self, rate: float) -> None:
        """Resets the pauses between trials when the speed has changed much: the line is a different one."""
        if self._known_rate is None:
            self._known_rate = rate
        elif max(rate, self._known_rate) > ANOTHER_LINE * min(rate, self._known_rate):
            self._known_rate = rate
            self._pause_more = self._pause_less = PAUSE_SECONDS
            soon = max(self._worked, self._changed + PAUSE_SECONDS)
            self._more_from, self._less_from = min(self._more_from, soon), min(self._less_from, soon)

    def _try_more(self, rate: float, load: float, cores: int) -> None:
        """Starts a trial of more workers, where the present number reaches ``rate``, or settles with a reason."""
        more = min(2 * self._limit, self._most)
        if load > cores:
            more = min(more, max(self._usual, self._limit))
        if self._limit == self._most:
            self._settle(self._bound)
        elif not rate or rate < self._limit * self._min_speed:
            self._settle(self._too_slow())
        elif more == self._limit:
            self._settle(f"the load of the machine ({load:.1f}) exceeds its {cores} cores")
        else:
            self._try(more, rate)

    def _judge_more(self, rate: float, patient: bool, load: float, cores: int) -> None:
        needed = SHARE_IN_THE_END if patient else SHARE_AT_ONCE
        pays = rate >= self._before_rate * (1 + needed * (self._limit / self._before - 1))
        if pays and rate >= self._limit * self._min_speed:
            self._pause_more = self._pause_less = PAUSE_SECONDS
            self._less_from = self._worked + LOOK_BACK_SECONDS
            self._try_more(rate, load, cores)
        elif patient:
            least = f"{self._limit} workers would be slower than {_speed(self._min_speed)} each"
            no_more = f"{self._limit} workers are no faster than {self._before} ({_speed(self._before_rate)})"
            self._give_up(least if pays else no_more)

    def _judge_less(self, rate: float, patient: bool) -> None:
        """Workers are kept for half the gain that is required to add them, or noise would add and remove them."""
        needed = SHARE_IN_THE_END / 2 if patient else SHARE_AT_ONCE
        pays = self._before_rate >= rate * (1 + needed * (self._before / self._limit - 1))
        if pays:
            self._give_up("")
        elif patient:
            self._less_from = self._worked + LOOK_BACK_SECONDS
            self._settle(f"{self._before} workers are no faster than {self._limit} ({_speed(rate)})", self._pause_more)

    # --- states -----------------------------------------------------------------------------------------------------

    def _start_measuring(self, seconds: float) -> None:
        self._phase = _Phase.FIRST
        self._first_seconds = seconds
        self._more_from = self._less_from = self._worked
        self._pause_more = self._pause_less = PAUSE_SECONDS
        self._why = "one worker first, to measure its speed"
        self._set(1)

    def _try(self, limit: int, rate: float) -> None:
        self._phase = _Phase.TRIAL
        self._before, self._before_rate, self._before_why = self._limit, rate, self._why
        self._why = f"trying {limit}; {self._limit} reached {_speed(rate)}"
        self._set(limit)

    def _give_up(self, why: str) -> None:
        """Returns to the number before the trial; the next trial of its kind comes later."""
        more = self._limit > self._before
        self._set(self._before)
        if more:
            self._settle(why, self._pause_more)
            self._pause_more = min(2 * self._pause_more, LONGEST_PAUSE_SECONDS)
        else:
            self._settle(self._before_why)
            self._less_from = self._worked + self._pause_less
            self._pause_less = min(2 * self._pause_less, LONGEST_PAUSE_SECONDS)

    def _settle(self, why: str, pause: float = 0.0) -> None:
        """Keeps the present number for at least ``pause`` seconds; 0.0: until the obstacle to more is gone."""
        self._phase = _Phase.SETTLED
        self._why = why
        if pause:
            self._more_from = self._worked + pause

    def _set(self, limit: int) -> None:
        self._limit = limit
        self._changed = self._measured_from = self._worked
        self._known_rate = None
        self._full = True
        self._samples.clear()

    def _resume(self, now: float) -> None:
        if self._idle_at is None:
            return
        if now - self._idle_at >= LONG_IDLE_SECONDS:
            self._start_measuring(min(self._probe_seconds, SHORT_PROBE_SECONDS))
        elif self._phase is _Phase.TRIAL:
            self._measured_from = self._worked
            self._samples.clear()
        self._idle_at = self._mark = None

    def _too_slow(self) -> str:
        return f"each is slower than {_speed(self._min_speed)}"


def _rate(samples: Sequence[_Sample]) -> float:
    return sum(each.count for each in samples) / sum(each.seconds for each in samples)


def _agree(samples: Sequence[_Sample]) -> bool:
    rates = [each.rate for each in samples]
    return len(rates) == AGREEING and max(rates) > 0 and max(rates) - min(rates) <= WITHIN * _rate(samples)


def _speed(rate: float) -> str:
    """Formats bytes per second in units of 1024, as the command line does."""
    amount = rate / _MIB
    return f"{amount:.0f}M/s" if amount >= 10 else f"{amount:.1f}M/s"
