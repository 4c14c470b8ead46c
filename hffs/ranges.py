"""Arithmetic of bytes and blocks; values only.

A *block* is an aligned piece of a blob, named by its index; a *span* is a run of neighbouring blocks, written as a
plain ``range`` of indices with step 1. Byte ranges are half-open everywhere; only the HTTP header counts inclusively.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# The unit of presence and checking. Fixed by the cache format: a cold random read costs one of these, a CRC32 over it
# takes 40 us, and 100 GiB of blob need 2 MiB of state.
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
        """The value of an HTTP Range header (RFC 9110, 14.2); an empty range has none."""
        if not self.length:
            raise ValueError("an empty range cannot be asked for")
        return f"bytes={self.start}-{self.stop - 1}"


def block_count(size: int) -> int:
    """How many blocks a blob of ``size`` bytes has; the last may be short."""
    return -(-size // BLOCK_SIZE)


def clip(offset: int, length: int, size: int) -> ByteRange:
    """The part of ``[offset, offset + length)`` that lies inside a blob of ``size`` bytes (empty past its end)."""
    start = min(max(offset, 0), size)
    return ByteRange(start, max(start, min(offset + length, size)))


def span_of(asked: ByteRange) -> range:
    """The blocks that cover a byte range; empty for an empty one."""
    if not asked.length:
        return range(0)
    return range(asked.start // BLOCK_SIZE, (asked.stop - 1) // BLOCK_SIZE + 1)


def bytes_of(span: range, size: int) -> ByteRange:
    """The bytes that a non-empty span of a blob of ``size`` bytes holds."""
    return ByteRange(span.start * BLOCK_SIZE, min(span.stop * BLOCK_SIZE, size))


def block_length(block: int, size: int) -> int:
    """Bytes in this block of a blob of ``size`` bytes."""
    return min(BLOCK_SIZE, size - block * BLOCK_SIZE)


def runs(blocks: Iterable[int]) -> list[range]:
    """Ascending block indices gathered into runs of neighbours."""
    found: list[range] = []
    for block in blocks:
        if found and found[-1].stop == block:
            found[-1] = range(found[-1].start, block + 1)
        else:
            found.append(range(block, block + 1))
    return found
