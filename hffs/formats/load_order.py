"""Load order: where the tensors of a file are, and in which order loaders read them.

A format makes a ``ReadPlan`` from a file's header; ``ReadCursors`` ends a read-ahead window where a tensor ends and
continues with the next tensor in load order. A wrong plan costs traffic, never correctness. Immutable.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ..ranges import ByteRange

# Four numbers a piece: 2 MiB of memory for the largest plan. The largest file of a mixture-of-experts model seen on
# the Hub holds some thousands of tensors.
MOST_PIECES = 65536


@dataclass(frozen=True, slots=True)
class PlanSegment:
    """What a loader in load order reads without a jump: the bytes up to ``stop``, then those of ``then``."""

    stop: int
    then: ByteRange | None


class ReadPlan:
    """The pieces of a file of ``size`` bytes: piece ``i`` extends from ``starts[i]`` to the start of the next piece,
    the last to the file's end. Piece -1 is the header, before the first."""

    __slots__ = ("_after", "_last", "_rank", "_starts", "size")

    def __init__(self, size: int, starts: Sequence[int], order: Sequence[int]) -> None:
        """``starts`` ascend strictly within the file; ``order`` is the permutation in which loaders read the pieces.
        Raises ValueError otherwise, and for more than ``MOST_PIECES``."""
        if not 0 < len(starts) <= MOST_PIECES or sorted(order) != list(range(len(starts))):
            raise ValueError(f"not a plan: {len(starts)} pieces, an order of {len(order)}")
        if not all(a < b for a, b in zip((-1, *starts), (*starts, size), strict=True)):
            raise ValueError("the starts do not ascend within the file")
        self.size = size
        self._starts = array("q", starts)
        self._rank = array("l", bytes(array("l").itemsize * len(starts)))
        self._after = array("l", self._rank)  # the next in load order, -1: none
        for rank, piece in enumerate(order):
            self._rank[piece] = rank
            self._after[piece] = order[rank + 1] if rank + 1 < len(order) else -1
        # the last piece reached from here in load order without a jump
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
        """Returns the piece that contains this byte; -1: the header."""
        return bisect_right(self._starts, position) - 1

    def start_of(self, piece: int) -> int:
        return self._starts[piece] if piece >= 0 else 0

    def end_of(self, piece: int) -> int:
        return self._starts[piece + 1] if piece + 1 < len(self._starts) else self.size

    def rank_of(self, piece: int) -> int:
        """Returns the position of a piece in load order, from 0; -1 for the header."""
        return self._rank[piece] if piece >= 0 else -1

    def segment_from(self, piece: int) -> PlanSegment:
        """Returns what is read from this piece on in load order; after the header comes the first piece in order."""
        last = self._last[piece] if piece >= 0 else -1
        after = self._after[last] if last >= 0 else self._rank.index(0)
        if after < 0:
            return PlanSegment(self.end_of(last), None)
        return PlanSegment(self.end_of(last), ByteRange(self.start_of(after), self.end_of(self._last[after])))


def plan(size: int, starts: Sequence[int], order: Sequence[int]) -> ReadPlan | None:
    """Returns the plan of these pieces; None if they are no valid plan."""
    try:
        return ReadPlan(size, starts, order)
    except ValueError:
        return None


def name_order(name: str) -> tuple[tuple[int, str, int], ...]:
    """Returns the key by which transformers sorts the names of a checkpoint before it materialises them
    (core_model_loading.dot_natural_key): layers.2 before layers.10."""
    parts = []
    for part in name.split("."):
        text = part.rstrip("0123456789")
        digits = part[len(text) :]
        # More than 18 digits are no index, and int() is limited in digits.
        number = int(digits) if 0 < len(digits) <= 18 else -1
        parts.append((0, "", number) if number >= 0 and not text else (1, text if number >= 0 else part, number))
    return tuple(parts)
