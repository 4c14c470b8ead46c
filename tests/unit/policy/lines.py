"""Simulated lines, and a hydration over them with its own clock; for the tests of ``ConcurrencyController``."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

from hffs.policy import ConcurrencyController
from hffs.ranges import BLOCK_SIZE

KIB, MIB = 1024, 1024**2
FIRST = "one worker first, to measure its speed"


@dataclass
class Line:
    """Connections of at most ``each`` bytes/s, ``total`` together. New ones take three round trips to open, then double
    from 64 KiB per round trip."""

    each: float
    total: float = float("inf")
    round_trip: float = 0.03
    opened: list[float] = field(default_factory=list)

    def receive(self, workers: int, now: float, seconds: float) -> float:
        """Returns the bytes received in ``seconds`` from ``now`` on."""
        self.opened = (self.opened + [now] * workers)[:workers]
        step = seconds / 10
        return sum(
            step * min(self.total, sum(self._speed(now + n * step - since) for since in self.opened)) for n in range(10)
        )

    def _speed(self, age: float) -> float:
        trips = age / self.round_trip - 3
        return 0.0 if trips < 0 else min(self.each, 64 * KIB / self.round_trip * 2.0 ** min(trips, 60))


@dataclass
class Table:
    """Measured speeds by number of workers."""

    speeds: dict[int, float]

    def receive(self, workers: int, now: float, seconds: float) -> float:
        return self.speeds[workers] * seconds


@dataclass
class Hydration:
    """Samples four times a second with some delay, and counts whole blocks, with 5 % of noise."""

    controller: ConcurrencyController
    line: Line | Table
    now: float = 100.0
    load: float = 0.5
    work: int = 1000  # the workers that there is work for
    noise: float = 0.05
    received: float = 0.0
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    past: list[tuple[float, int, str]] = field(default_factory=list)

    def run(self, seconds: float) -> int:
        ends = self.now + seconds
        while self.now < ends:
            active = min(self.controller.limit, self.work)
            pause = 0.25 + self.dice.uniform(0, 0.01)
            self.received += self.line.receive(active, self.now, pause) * self.dice.uniform(
                1 - self.noise, 1 + self.noise
            )
            self.now += pause
            whole = int(self.received) // BLOCK_SIZE * BLOCK_SIZE
            self.controller.sample(self.now, whole, active, self.load, 2)
            self.past.append((self.now, self.controller.limit, self.controller.why))
        return self.controller.limit

    def limits(self) -> list[int]:
        """Returns the sequence of limits without repetitions."""
        found = [self.past[0][1]]
        found += [after for (_, before, _), (_, after, _) in pairwise(self.past) if before != after]
        return found

    def share_at(self, limits: set[int]) -> float:
        return sum(limit in limits for _, limit, _ in self.past) / len(self.past)


def hydration(line: Line | Table, *, most: int = 16, **options: float) -> Hydration:
    return Hydration(ConcurrencyController(most=most, **options), line)  # type: ignore[arg-type]
