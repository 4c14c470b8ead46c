"""GGUF, versions 2 and 3, little-endian (ggml/docs/gguf.md). Big-endian files are recognised and not parsed."""

from __future__ import annotations

import struct
from typing import Final

from ..ranges import ByteRange
from .format import LONGEST, Format, Learnt, Read
from .load_order import MOST_PIECES, plan

_FIRST: Final = 1024 * 1024  # bytes; most headers contain a vocabulary, whose rest is requested in doubling steps
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TYPE_U32: Final = 4
_TYPE_STRING: Final = 8
_TYPE_ARRAY: Final = 9
_NESTED: Final = 4  # arrays of arrays are allowed, but not in use
_MOST: Final = 65536  # entries parsed one by one: models have tens of keys
_DIMENSIONS: Final = 8  # ggml has 4
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


class _Short(Exception):
    """The header is longer than the bytes at hand; it has at least ``stop`` bytes."""

    def __init__(self, stop: int) -> None:
        self.stop = stop


class _Malformed(Exception):
    """The bytes are no GGUF header."""


class _HeaderCursor:
    """A position in the header that only moves forward."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self._data):
            raise _Short(self.at)

    def u32(self) -> int:
        start = self.at
        self.skip(4)
        return int(_U32.unpack_from(self._data, start)[0])

    def u64(self) -> int:
        start = self.at
        self.skip(8)
        return int(_U64.unpack_from(self._data, start)[0])

    def text(self) -> bytes:
        length = self.u64()
        start = self.at
        self.skip(length)
        return self._data[start : self.at]

    def value(self, kind: int, depth: int = 0) -> None:
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _TYPE_STRING:
            self.skip(self.u64())
        elif kind == _TYPE_ARRAY and depth < _NESTED:
            of, count = self.u32(), self.u64()
            if of in _SIZES:
                self.skip(_SIZES[of] * count)
            elif of == _TYPE_STRING:
                self._texts(count)
            else:
                for _ in self.many(count, 12):
                    self.value(of, depth + 1)
        else:
            raise _Malformed

    def many(self, count: int, least: int) -> range:
        """Returns a range over ``count`` entries of at least ``least`` bytes each, once that many bytes are there: a
        false count is found before it is used."""
        if count > _MOST:
            raise _Malformed
        if self.at + count * least > len(self._data):
            raise _Short(self.at + count * least)
        return range(count)

    def _texts(self, count: int) -> None:
        """Skips strings without a call for each: a vocabulary has hundreds of thousands."""
        at, last, length_at = self.at, len(self._data) - 8, _U64.unpack_from
        if at + 8 * count > len(self._data):
            raise _Short(at + 8 * count)
        for _ in range(count):
            if at > last:
                raise _Short(at + 8)
            at += 8 + length_at(self._data, at)[0]
        self.at = at
        self.skip(0)


def _learn(size: int, seen: ByteRange, data: bytes) -> Learnt:
    try:
        # Loaders read the tensors in file order; an empty tensor shares its offset with the next.
        starts = sorted(_starts(_HeaderCursor(data)))
    except _Malformed:
        return None
    except _Short as short:
        longest = min(size, LONGEST)
        if short.stop > longest:
            return None
        # Parsing restarts each time, so the bytes double each time, which is twice the work in all.
        return ByteRange(0, min(max(short.stop, 2 * seen.stop), longest))
    return plan(size, starts, range(len(starts)))


def _check(size: int, read: Read) -> str:
    head = read(0, 8)
    if head[:4] != b"GGUF":
        return "is no GGUF file: it does not begin with GGUF"
    little, big = int.from_bytes(head[4:], "little"), int.from_bytes(head[4:], "big")
    if little not in (1, 2, 3) and big != 3:  # big-endian files came with version 3
        return f"is no GGUF file of a known version: version {little}"
    needed = _bytes_needed(size, read) if little in (2, 3) else 0
    return f"is truncated: it has {size} bytes, and needs more than {needed}" if needed > size else ""


def _bytes_needed(size: int, read: Read) -> int:
    """Returns a lower bound of the file's size by its header, or 0 if the header gives none."""
    stop = min(_FIRST, size)
    while True:
        try:
            return max(_starts(_HeaderCursor(read(0, stop))))
        except _Malformed:
            return 0
        except _Short as short:  # always more than was seen
            if short.stop > min(size, LONGEST):
                return short.stop if short.stop > size else 0
            if stop == min(size, LONGEST):  # the file shrank meanwhile
                return 0
            stop = min(max(short.stop, 2 * stop), size, LONGEST)


def _starts(cursor: _HeaderCursor) -> set[int]:
    """Returns the offsets at which tensors start. Raises _Malformed, _Short."""
    if cursor.u32() != int.from_bytes(b"GGUF", "little") or cursor.u32() not in (2, 3):
        raise _Malformed
    tensors, keys = cursor.u64(), cursor.u64()
    if not 0 < tensors <= MOST_PIECES:
        raise _Malformed
    alignment = 32
    for _ in cursor.many(keys, 13):
        name, kind = cursor.text(), cursor.u32()
        if name == b"general.alignment" and kind == _TYPE_U32:
            alignment = cursor.u32()
        else:
            cursor.value(kind)
    offsets = set()
    for _ in cursor.many(tensors, 24):
        cursor.text()
        dimensions = cursor.u32()
        if dimensions > _DIMENSIONS:
            raise _Malformed
        cursor.skip(8 * dimensions + 4)
        offsets.add(cursor.u64())
    if not 0 < alignment <= 1024 * 1024:
        raise _Malformed
    start = -(-cursor.at // alignment) * alignment
    return {start + offset for offset in offsets}


GGUF: Final = Format("gguf", _check, 24, lambda size: ByteRange(0, min(_FIRST, size)), _learn)
