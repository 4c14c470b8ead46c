"""Which blocks of a full cache go first.

A *segment* is 64 neighbouring blocks of a blob, as far as they are here; their last use is kept together. What was used
once goes before what was used again, so that one long scan, however long, takes the place of other scans and not of
what is needed every day. What was used again is protected up to a share of the cache; beyond that the longest unused of
it counts as used once, or an old favourite would stay for ever.

``cache.budget`` asks, and then looks again at each before it goes: much is used meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_MIB: Final = 1 << 20
# Room for a twentieth more than is needed, so that a cache that is full looks for victims once for many fetches; never
# for more than 256 MiB, which is a quarter of a second of the fastest line: there is no need to throw away more.
_SPARE_SHARE: Final = 20
_SPARE_MOST: Final = 256 * _MIB
# The rest is always a scan's, or it would push its own read-ahead out. As in a segmented LRU (Karedla et al., 1994,
# found 60 to 80 % good for disk caches).
_PROTECTED: Final = 0.75


@dataclass(frozen=True, slots=True)
class Segment:
    """64 blocks of one blob: ``blob`` names it, ``held`` are its bytes here, ``used`` is its last use in seconds (any
    clock, the same for all), ``again`` whether it was used again after a while."""

    blob: str
    group: int
    held: int
    used: float
    again: bool = False


def order(segments: Iterable[Segment]) -> tuple[list[Segment], list[Segment]]:
    """The segments, first to go first: those that may go, and those that are protected, which go only when there is
    nothing else. Of equals the earlier part of a file goes first: its reader has passed it."""
    found = sorted((each for each in segments if each.held > 0), key=lambda each: (each.used, each.blob, each.group))
    left = _PROTECTED * sum(each.held for each in found)
    loose: list[Segment] = []
    protected: list[Segment] = []
    for each in reversed(found):
        left -= each.held if each.again else 0
        (protected if each.again and left >= 0 else loose).append(each)
    return loose[::-1], protected[::-1]


def to_free(over: int, limit: int) -> int:
    """Bytes to give back when a cache of ``limit`` bytes has ``over`` too many; 0 when it has not."""
    return over + min(limit // _SPARE_SHARE, _SPARE_MOST) if over > 0 else 0


def choose(ordered: Iterable[Segment], needed: int) -> list[Segment]:
    """As many of the first as hold ``needed`` bytes together, or all; of the last only a part may have to go."""
    chosen: list[Segment] = []
    left = needed
    for each in ordered:
        if left <= 0:
            break
        chosen.append(each)
        left -= each.held
    return chosen


def step(budget: int | None, block: int) -> int:
    """How many bytes a worker reserves at a time: whole blocks of ``block`` bytes, at most 16 MiB, the longest GET.

    A 64th of the budget: 16 workers then keep no more than a quarter of it for what has not come yet. Each reservation
    costs two rounds through the ledger, 30 us each: with 4 MiB at a time it was 3 % of what hydrating costs."""
    most = 16 * _MIB
    return most if budget is None else max(block, min(most, budget // 64 // block * block))


def window(budget: int | None, readers: int) -> int | None:
    """How far ahead of its reader one of ``readers`` open files may be fetched, in bytes; None: as far as it likes.

    A quarter of the budget for all: the rest is what was read and will be read again. 8 MiB at least, else a reader at
    30 ms waits for each request."""
    return None if budget is None else max(8 * _MIB, budget // 4 // max(1, readers))
