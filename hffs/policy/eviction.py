"""Which blocks of a full cache are evicted first.

A *segment* is the local part of 64 adjacent blocks of a blob, which share a time of last use. Segments used once are
evicted before segments used again, so that a long scan replaces other scans and not data used every day. Segments used
again are protected up to a share of the cache; beyond it the least recently used of them count as used once, or old
ones would stay forever.

``cache.budget`` checks each segment again before it evicts it, since it may have been used meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_MIB: Final = 1 << 20
# A twentieth of the limit is freed on top, so that a full cache selects victims once for many fetches; at most 256 MiB,
# a quarter of a second of the fastest line, to evict no more than needed.
_SPARE_SHARE: Final = 20
_SPARE_MOST: Final = 256 * _MIB
# The rest is left to scans, which would otherwise evict their own read-ahead. As in a segmented LRU (Karedla et al.,
# 1994, found 60 to 80 % good for disk caches).
_PROTECTED: Final = 0.75


@dataclass(frozen=True, slots=True)
class Segment:
    """Segment ``group`` of the blob named ``blob``: ``held`` local bytes, last used at ``used`` seconds (any clock, the
    same for all); ``again``: used again after a while."""

    blob: str
    group: int
    held: int
    used: float
    again: bool = False


def order(segments: Iterable[Segment]) -> tuple[list[Segment], list[Segment]]:
    """Returns the segments in order of eviction: ordinary ones, and protected ones, which are evicted only when no
    others are left. Of equals the earlier part of a file comes first: its reader has passed it."""
    found = sorted((each for each in segments if each.held > 0), key=lambda each: (each.used, each.blob, each.group))
    left = _PROTECTED * sum(each.held for each in found)
    loose: list[Segment] = []
    protected: list[Segment] = []
    for each in reversed(found):
        left -= each.held if each.again else 0
        (protected if each.again and left >= 0 else loose).append(each)
    return loose[::-1], protected[::-1]


def bytes_over(over: int, limit: int) -> int:
    """Returns the bytes to free when a cache of ``limit`` bytes holds ``over`` too many; 0 if it does not."""
    return over + min(limit // _SPARE_SHARE, _SPARE_MOST) if over > 0 else 0


def choose(ordered: Iterable[Segment], needed: int) -> list[Segment]:
    """Returns as many of the first as hold ``needed`` bytes together, or all; of the last only a part may be needed."""
    chosen: list[Segment] = []
    left = needed
    for each in ordered:
        if left <= 0:
            break
        chosen.append(each)
        left -= each.held
    return chosen


def granularity(budget: int | None, block: int) -> int:
    """Returns the bytes of one reservation: whole blocks of ``block`` bytes, at most 16 MiB, the longest GET.

    A 64th of the budget: 16 workers then hold at most a quarter of it for data in flight. Each reservation costs two
    updates of the ledger, 30 us each: with 4 MiB at a time that was 3 % of the cost of hydrating."""
    most = 16 * _MIB
    return most if budget is None else max(block, min(most, budget // 64 // block * block))


def window(budget: int | None, readers: int) -> int | None:
    """Returns the longest read-ahead window in bytes for each of ``readers`` open files; None: no limit.

    A quarter of the budget for all: the rest is for data that will be read again. At least 8 MiB, else a reader at 30
    ms waits for each request."""
    return None if budget is None else max(8 * _MIB, budget // 4 // max(1, readers))
