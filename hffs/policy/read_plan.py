"""Where the tensors of a file lie and in which order loaders take them: what its header tells the read-ahead.

``policy.formats`` makes one from a file's bytes; ``ReadCursors`` lets a window end where its tensor ends and go on with
the tensor that is next. A plan only guides read-ahead: one that is wrong costs traffic, never correctness. Immutable.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ..ranges import ByteRange

# Three numbers a piece: 1.5 MiB of memory for the largest plan. The largest file of a mixture-of-experts model seen on
# the Hub holds some thousands of tensors.
MOST_PIECES = 65536


@dataclass(frozen=True, slots=True)
class PlanSegment:
    """What a loader that follows the order reads without a jump: bytes up to ``stop``, and then those of ``then``."""

    stop: int
    then: ByteRange | None


class ReadPlan:
    """The pieces of a file of ``size`` bytes: piece ``i`` goes from ``starts[i]`` to where the next one starts, the
    last to the file's end. Before the first lies the header, which is piece -1."""

    __slots__ = ("_after", "_last", "_rank", "_starts", "size")

    def __init__(self, size: int, starts: Sequence[int], order: Sequence[int]) -> None:
        """``starts`` ascend strictly, within the file; ``order`` names each piece once, as loaders take them.

        Raises ValueError for anything else, or more than ``MOST_PIECES``.
        """
        if not 0 < len(starts) <= MOST_PIECES or sorted(order) != list(range(len(starts))):
            raise ValueError(f"not a plan: {len(starts)} pieces, {len(order)} in order")
        if not all(a < b for a, b in zip((-1, *starts), (*starts, size), strict=True)):
            raise ValueError("pieces start one after the other, within the file")
        self.size = size
        self._starts = array("q", starts)
        self._rank = array("l", bytes(array("l").itemsize * len(starts)))
        self._after = array("l", self._rank)  # the next in order, -1: none
        for rank, piece in enumerate(order):
            self._rank[piece] = rank
            self._after[piece] = order[rank + 1] if rank + 1 < len(order) else -1
        # the last piece that is reached from here in order and without a jump
        self._last = array("l", range(len(starts)))
        for piece in reversed(range(len(starts) - 1)):
            if self._after[piece] == piece + 1:
                self._last[piece] = self._last[piece + 1]

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ReadPlan):
            return NotImplemented
        return (self.size, self._starts, self._rank) == (other.size, other._starts, other._rank)

    __hash__ = None  # type: ignore[assignment]

    def piece_at(self, position: int) -> int:
        """The piece that holds this byte; -1: the header."""
        return bisect_right(self._starts, position) - 1

    def start_of(self, piece: int) -> int:
        return self._starts[piece] if piece >= 0 else 0

    def end_of(self, piece: int) -> int:
        return self._starts[piece + 1] if piece + 1 < len(self._starts) else self.size

    def rank_of(self, piece: int) -> int:
        """When loaders take it, counted from 0; the header comes first, at -1."""
        return self._rank[piece] if piece >= 0 else -1

    def stretch_from(self, piece: int) -> PlanSegment:
        """What is read from this piece on by who follows the order; after the header comes the first of the order."""
        last = self._last[piece] if piece >= 0 else -1
        after = self._after[last] if last >= 0 else self._rank.index(0)
        if after < 0:
            return PlanSegment(self.end_of(last), None)
        return PlanSegment(self.end_of(last), ByteRange(self.start_of(after), self.end_of(self._last[after])))
