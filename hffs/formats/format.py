"""The description of one file format: how its layout is learnt from a few bytes, and how its structure is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..ranges import ByteRange
from .load_order import ReadPlan

# Bytes wanted and held in memory for a header or footer. A GGUF header with a vocabulary of 256,000 words takes about
# 10 MiB, a parquet footer of thousands of row groups some.
LONGEST: Final = 32 * 1024 * 1024

# ``read(start, stop)`` returns these bytes of the file, fewer at its end.
Read = Callable[[int, int], bytes]
# The range to see next, a plan, or None: there is nothing more to learn.
Learnt = ByteRange | ReadPlan | None


@dataclass(frozen=True, slots=True)
class Format:
    """``first(size)`` is the range to see first; ``learn(size, seen, data)`` continues with the bytes ``data`` of
    ``seen``, never asks for the same range again, never for more than ``LONGEST`` bytes, and raises nothing whatever
    the file holds. A format without ``has_layout`` has no parts to learn. ``eager``: ``first`` is fetched with the
    first read of any part. ``check(size, read)`` returns what is wrong with the structure, "" if nothing is found; a
    file of fewer than ``smallest`` bytes is wrong without a check."""

    name: str
    check: Callable[[int, Read], str]
    smallest: int = 0
    first: Callable[[int], ByteRange] = lambda size: ByteRange(0, size)
    learn: Callable[[int, ByteRange, bytes], Learnt] = lambda _size, _seen, _data: None
    eager: bool = True
    has_layout: bool = True


def suffix_of(path: str) -> str:
    """Returns the text after the last dot of a path's name, in lower case."""
    return path.rpartition("/")[2].rpartition(".")[2].lower()


def tail(size: int, seen: ByteRange, length: int) -> ByteRange | None:
    """Returns the last ``length`` bytes of the file; None if they were seen, or are no plausible footer."""
    if size - length >= seen.start or length > min(size, LONGEST):
        return None
    return ByteRange(size - length, size)
