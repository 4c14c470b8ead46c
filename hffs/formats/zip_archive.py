"""ZIP, and files that are one: .npz, and what torch.save writes (APPNOTE.TXT 4.3.6)."""

from __future__ import annotations

import struct
from typing import Final

from ..ranges import ByteRange
from .format import Format, Learnt, Read, tail

_END: Final = struct.Struct("<4s8xIIH")  # signature; size and offset of the central directory; the comment's length
_ZIP64_LOCATOR: Final = struct.Struct("<4s4xQ4x")  # right before the end record: offset of the zip64 end record
_ZIP64_END: Final = struct.Struct("<4s36xQ8x")  # size of the central directory
_LONGEST_END: Final = _END.size + 0xFFFF  # an end record with the longest comment
_LOCAL_HEADER: Final = b"PK\3\4"


def _end_record(data: bytes) -> int:
    """Returns the position of the end record in the last bytes of a file; -1 if there is none."""
    at = len(data) - _END.size + 1
    while (at := data.rfind(b"PK\5\6", 0, max(at, 0) + 3)) >= 0:
        if at + _END.size + _END.unpack_from(data, at)[3] == len(data):
            break
    return at


def _learn(size: int, seen: ByteRange, data: bytes) -> Learnt:
    """The central directory ends where the end record begins."""
    at = _end_record(data)
    if at < 0:
        return None
    length, end = _END.unpack_from(data, at)[1], seen.start + at
    if at >= _ZIP64_LOCATOR.size:
        mark, where = _ZIP64_LOCATOR.unpack_from(data, at - _ZIP64_LOCATOR.size)
        if mark == b"PK\6\7":
            if not seen.start <= where <= end - _ZIP64_LOCATOR.size - _ZIP64_END.size:
                return None
            mark, length = _ZIP64_END.unpack_from(data, where - seen.start)
            if mark != b"PK\6\6":
                return None
            end = where
    return tail(size, seen, length + size - end)


def _learn_if_zip(size: int, seen: ByteRange, data: bytes) -> Learnt:
    if seen.start == 0 and seen.stop < size:
        return _first(size) if data[:4] == _LOCAL_HEADER else None
    return _learn(size, seen, data)


def _check(size: int, read: Read) -> str:
    found = _end_record(read(max(0, size - _LONGEST_END), size))
    return "" if found >= 0 else "is no complete zip file: the directory at its end is missing"


def _check_if_zip(size: int, read: Read) -> str:
    return _check(size, read) if read(0, min(4, size)) == _LOCAL_HEADER else ""


def _first(size: int) -> ByteRange:
    return ByteRange(max(size - _LONGEST_END, 0), size)


ZIP: Final = Format("zip", _check, _END.size, _first, _learn)
TORCH: Final = Format("torch", _check_if_zip, 0, _first, _learn)  # old versions of torch.save wrote no zip
# As likely no zip at all, which the first bytes show: not fetched before something reads them.
MAYBE_TORCH: Final = Format("maybe-torch", _check_if_zip, 0, lambda _: ByteRange(0, 4), _learn_if_zip, eager=False)
