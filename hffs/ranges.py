"""Arithmetic of bytes and blocks; values only.

A *block* is an aligned piece of a blob, identified by its index; a *span* is a run of adjacent blocks: a ``range`` of
indices with step 1. Byte ranges are half-open; only the HTTP header is inclusive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# The unit of presence and checking, fixed by the cache format: a cold random read fetches one, a CRC32 over it takes
# 40 us, and a blob of 100 GiB needs 2 MiB of state.
BLOCK_SIZE: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``start`` up to, not including, ``stop``."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a byte range: {self.start}..{self.stop}")

    @property
    def length(self) -> int:
        return self.stop - self.start

    def header(self) -> str:
        """Returns the value of an HTTP Range header (RFC 9110, 14.2). Raises ValueError for an empty range."""
        if not self.length:
            raise ValueError("an empty range cannot be requested")
        return f"bytes={self.start}-{self.stop - 1}"


def block_count(size: int) -> int:
    """Returns the number of blocks of a blob of ``size`` bytes; the last may be short."""
    return -(-size // BLOCK_SIZE)


def clip(offset: int, length: int, size: int) -> ByteRange:
    """Returns the part of ``[offset, offset + length)`` inside a blob of ``size`` bytes (empty past its end)."""
    start = min(max(offset, 0), size)
    return ByteRange(start, max(start, min(offset + length, size)))


def span_of(requested: ByteRange) -> range:
    """Returns the blocks that cover a byte range; empty for an empty one."""
    if not requested.length:
        return range(0)
    return range(requested.start // BLOCK_SIZE, (requested.stop - 1) // BLOCK_SIZE + 1)


def bytes_of(span: range, size: int) -> ByteRange:
    """Returns the bytes of a non-empty span of a blob of ``size`` bytes."""
    return ByteRange(span.start * BLOCK_SIZE, min(span.stop * BLOCK_SIZE, size))


def block_length(block: int, size: int) -> int:
    """Returns the length of this block of a blob of ``size`` bytes."""
    return min(BLOCK_SIZE, size - block * BLOCK_SIZE)


def runs(blocks: Iterable[int]) -> list[range]:
    """Returns ascending block indices as runs of adjacent blocks."""
    found: list[range] = []
    for block in blocks:
        if found and found[-1].stop == block:
            found[-1] = range(found[-1].start, block + 1)
        else:
            found.append(range(block, block + 1))
    return found
