"""Parquet: … footer, u32 length of the footer, "PAR1" (or "PARE" if the footer is encrypted)."""

from __future__ import annotations

from typing import Final

from ..ranges import ByteRange
from .format import Format, Learnt, Read, tail

_MAGICS: Final = (b"PAR1", b"PARE")
_FIRST: Final = 64 * 1024  # bytes that pyarrow reads first; most footers are shorter


def _learn(size: int, seen: ByteRange, data: bytes) -> Learnt:
    if data[-4:] not in _MAGICS:
        return None
    return tail(size, seen, int.from_bytes(data[-8:-4], "little") + 8)


def _check(size: int, read: Read) -> str:
    if read(0, 4) not in _MAGICS:
        return "is no parquet file: it does not begin with PAR1"
    return "" if read(size - 4, size) in _MAGICS else "is truncated: it does not end with PAR1"


PARQUET: Final = Format("parquet", _check, 12, lambda size: ByteRange(max(size - _FIRST, 0), size), _learn)
