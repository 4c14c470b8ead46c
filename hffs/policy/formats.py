"""What a file's own bytes tell of where its parts lie: safetensors, GGUF, parquet and zip, by name.

``transfer.planner`` asks ``format_of`` for a file's format, wants its ``first`` bytes when the file is first read, and
hands them to ``learn`` when they are here, which names more bytes to see, or gives a ``ReadPlan``, or is done (None).

Whatever a file holds, ``learn`` raises nothing, and ends: every step of every loop consumes bytes, of which it never
asks for more than ``LONGEST``. Pure: bytes in, values out.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ..ranges import ByteRange
from .read_plan import MOST_PIECES, ReadPlan

_KIB: Final = 1024
_MIB: Final = 1024 * 1024

# What may be wanted and held in memory for a plan. A GGUF header with a vocabulary of 256,000 words takes about 10 MiB,
# a parquet footer of thousands of row groups some; safetensors itself allows 100 MB, at ten times the tensors we plan.
LONGEST: Final = 32 * _MIB

# What is to be seen next, a plan, or None: there is nothing (more) to be learnt.
Learnt = ByteRange | ReadPlan | None


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of file is learnt. ``first(size)`` is seen first; ``learn(size, seen, data)`` goes on from the bytes
    ``data`` of ``seen`` and never asks for the same again. ``eager``: want ``first`` as soon as anything is read."""

    name: str
    first: Callable[[int], ByteRange]
    learn: Callable[[int, ByteRange, bytes], Learnt]
    eager: bool = True


def format_of(path: str, size: int) -> Format | None:
    """How a file of this name and size is learnt; None: there is nothing to learn of it."""
    found = _BY_SUFFIX.get(path.rpartition("/")[2].rpartition(".")[2].lower())
    return found if found is not None and size >= _SMALLEST else None


# --- safetensors: u64 length, then a JSON object of that length; offsets count from its end --------------------------

_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
# One member of the header: a name, and an object that holds no object. Possessive throughout: it never goes back, so it
# takes time in proportion to what it matches, and builds no values of what we do not need.
_MEMBER: Final = re.compile(
    rb"[\s]*+(" + _STRING + rb")\s*+:\s*+\{((?:[^{}\"]++|" + _STRING + rb")*+)\}\s*+([,}])", re.DOTALL
)
_OFFSETS: Final = re.compile(rb'"data_offsets"\s*+:\s*+\[\s*+(\d{1,18})\s*+,\s*+(\d{1,18})\s*+\]')
# Names are hundreds of bytes at most; a longer one is not worth being sorted.
_LONGEST_NAME: Final = 4096


def _safetensors(size: int, seen: ByteRange, data: bytes) -> Learnt:
    (length,) = struct.unpack_from("<Q", data)
    stop = 8 + length
    if length < 2 or stop > min(size, LONGEST):
        return None
    if seen.stop < stop:
        return ByteRange(0, stop)
    tensors = _tensors_of(data[8:stop], size - stop)
    if not tensors:
        return None
    tensors.sort()
    if any(before[1] > after[0] for before, after in pairwise(tensors)):
        return None
    by_name = sorted(range(len(tensors)), key=lambda index: natural(tensors[index][2]))
    return _plan(size, [stop + start for start, _, _ in tensors], by_name)


def _tensors_of(text: bytes, room: int) -> list[tuple[int, int, str]] | None:
    """Start, end and name of each tensor that is not empty; None: this is no header for ``room`` bytes of data."""
    found: list[tuple[int, int, str]] = []
    at = 1
    ended = text[:1] != b"{"
    while not ended:
        member = _MEMBER.match(text, at)
        if member is None:
            return None
        at = member.end()
        ended = member[3] == b"}"
        name, body = member[1], member[2]
        if name == b'"__metadata__"':
            continue
        offsets = _OFFSETS.search(body)
        if offsets is None or len(name) > _LONGEST_NAME or len(found) == MOST_PIECES:
            return None
        start, end = int(offsets[1]), int(offsets[2])
        if not start <= end <= room:
            return None
        if start < end:
            try:
                found.append((start, end, str(json.loads(name.decode()))))
            except ValueError:  # no UTF-8, or an escape that is none
                return None
    return found if at > 1 and not text[at:].strip() else None


def natural(name: str) -> tuple[tuple[int, str, int], ...]:
    """The key by which transformers sorts the names of a checkpoint before it materialises them
    (core_model_loading.dot_natural_key): layers.2 before layers.10."""
    parts = []
    for part in name.split("."):
        text = part.rstrip("0123456789")
        digits = part[len(text) :]
        # More than 18 digits number nothing, and int() takes only so many.
        number = int(digits) if 0 < len(digits) <= 18 else -1
        parts.append((0, "", number) if number >= 0 and not text else (1, text if number >= 0 else part, number))
    return tuple(parts)


# --- GGUF, versions 2 and 3, little-endian (ggml/docs/gguf.md) -------------------------------------------------------

_GGUF_FIRST: Final = 1 * _MIB  # most headers hold a vocabulary; this is the step in which more of one is asked for
_GGUF_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_U32: Final = 4
_GGUF_STRING: Final = 8
_GGUF_ARRAY: Final = 9
_GGUF_NESTED: Final = 4  # arrays of arrays are allowed; nobody writes any
_GGUF_MOST: Final = 65536  # of what takes a step each: models have tens of keys
_GGUF_DIMENSIONS: Final = 8  # ggml has 4
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


class _Short(Exception):
    """The bytes end before the header does; ``stop`` is how many it takes at least."""

    def __init__(self, stop: int) -> None:
        self.stop = stop


class _Malformed(Exception):
    """This is not what it says it is."""


class _Walk:
    """A position in the header that only goes forward."""

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
        if kind in _GGUF_SIZES:
            self.skip(_GGUF_SIZES[kind])
        elif kind == _GGUF_STRING:
            self.skip(self.u64())
        elif kind == _GGUF_ARRAY and depth < _GGUF_NESTED:
            of, count = self.u32(), self.u64()
            if of in _GGUF_SIZES:
                self.skip(_GGUF_SIZES[of] * count)
            elif of == _GGUF_STRING:
                self._texts(count)
            else:
                for _ in self.many(count, 12):
                    self.value(of, depth + 1)
        else:
            raise _Malformed

    def many(self, count: int, least: int) -> range:
        """That many things of at least so many bytes follow: a count that lies shows before it is counted."""
        if count > _GGUF_MOST:
            raise _Malformed
        if self.at + count * least > len(self._data):
            raise _Short(self.at + count * least)
        return range(count)

    def _texts(self, count: int) -> None:
        """A vocabulary: hundreds of thousands, so without a call for each."""
        at, last, length_at = self.at, len(self._data) - 8, _U64.unpack_from
        if at + 8 * count > len(self._data):
            raise _Short(at + 8 * count)
        for _ in range(count):
            if at > last:
                raise _Short(at + 8)
            at += 8 + length_at(self._data, at)[0]
        self.at = at
        self.skip(0)


def _gguf(size: int, seen: ByteRange, data: bytes) -> Learnt:
    try:
        return _gguf_plan(size, _Walk(data))
    except _Malformed:
        return None
    except _Short as short:
        longest = min(size, LONGEST)
        if short.stop > longest:
            return None
        # Each time from the start, so each time twice as much: that is twice the work in all, and tensors come behind.
        return ByteRange(0, min(max(short.stop, 2 * seen.stop), longest))


def gguf_reaches(size: int, read: Callable[[int, int], bytes]) -> int | None:
    """Where the header or the last tensor begins to need more than a file of ``size`` bytes may have, by its header;
    None where that does not tell. ``read(start, stop)`` gives its bytes."""
    stop = min(_GGUF_FIRST, size)
    while True:
        try:
            return max(_gguf_starts(_Walk(read(0, stop))))
        except _Malformed:
            return None
        except _Short as short:  # always more than was seen
            if short.stop > min(size, LONGEST):
                return short.stop if short.stop > size else None
            if stop == min(size, LONGEST):  # there is less of it than a moment ago
                return None
            stop = min(max(short.stop, 2 * stop), size, LONGEST)


def _gguf_plan(size: int, walk: _Walk) -> ReadPlan | None:
    # Loaders of GGUF take the tensors as they stand in the file; an empty one shares its offset with the next.
    starts = sorted(_gguf_starts(walk))
    return _plan(size, starts, range(len(starts)))


def _gguf_starts(walk: _Walk) -> set[int]:
    """Where the tensors begin. Raises _Malformed, _Short."""
    if walk.u32() != int.from_bytes(b"GGUF", "little") or walk.u32() not in (2, 3):
        raise _Malformed
    tensors, keys = walk.u64(), walk.u64()
    if not 0 < tensors <= MOST_PIECES:
        raise _Malformed
    alignment = 32
    for _ in walk.many(keys, 13):
        name, kind = walk.text(), walk.u32()
        if name == b"general.alignment" and kind == _GGUF_U32:
            alignment = walk.u32()
        else:
            walk.value(kind)
    offsets = set()
    for _ in walk.many(tensors, 24):
        walk.text()
        dimensions = walk.u32()
        if dimensions > _GGUF_DIMENSIONS:
            raise _Malformed
        walk.skip(8 * dimensions + 4)
        offsets.add(walk.u64())
    if not 0 < alignment <= _MIB:
        raise _Malformed
    start = -(-walk.at // alignment) * alignment
    return {start + offset for offset in offsets}


def _plan(size: int, starts: list[int], order: list[int] | range) -> ReadPlan | None:
    try:
        return ReadPlan(size, starts, order)
    except ValueError:
        return None


# --- parquet: … footer, u32 length of it, "PAR1" ---------------------------------------------------------------------

# What pyarrow reads first, too; most footers are shorter.
_PARQUET_TAIL: Final = 64 * _KIB


def _parquet(size: int, seen: ByteRange, data: bytes) -> Learnt:
    if data[-4:] not in (b"PAR1", b"PARE"):  # the second: with an encrypted footer
        return None
    length = _U32.unpack(data[-8:-4])[0] + 8
    return _tail(size, seen, length)


# --- zip, and what is one: .npz, and what torch.save writes (APPNOTE.TXT 4.3.6) -------------------------------------

_ZIP_END: Final = struct.Struct("<4s8xIIH")  # without the counts; size of the directory, its offset, a comment's length
_ZIP64_WHERE: Final = struct.Struct("<4s4xQ4x")  # right before the end; where the next lies
_ZIP64_END: Final = struct.Struct("<4s36xQ8x")  # size of the directory
_ZIP_TAIL: Final = _ZIP_END.size + 0xFFFF  # the end with the longest comment


def _zip(size: int, seen: ByteRange, data: bytes) -> Learnt:
    """The central directory ends where the record of the end begins."""
    at = len(data) - _ZIP_END.size + 1
    while True:
        at = data.rfind(b"PK\5\6", 0, at + 3)
        if at < 0:
            return None
        _, length, _, comment = _ZIP_END.unpack_from(data, at)
        if at + _ZIP_END.size + comment == len(data):
            break
    end = seen.start + at
    if at >= _ZIP64_WHERE.size:
        mark, where = _ZIP64_WHERE.unpack_from(data, at - _ZIP64_WHERE.size)
        if mark == b"PK\6\7":
            if not seen.start <= where <= end - _ZIP64_WHERE.size - _ZIP64_END.size:
                return None
            mark, length = _ZIP64_END.unpack_from(data, where - seen.start)
            if mark != b"PK\6\6":
                return None
            end = where
    return _tail(size, seen, length + size - end)


def _maybe_zip(size: int, seen: ByteRange, data: bytes) -> Learnt:
    if seen.start == 0 and seen.stop < size:
        return _zip_tail(size) if data[:4] == b"PK\3\4" else None
    return _zip(size, seen, data)


def _tail(size: int, seen: ByteRange, length: int) -> ByteRange | None:
    """The last ``length`` bytes of the file, unless they were seen, or are no tail of it worth to be wanted."""
    if size - length >= seen.start or length > min(size, LONGEST):
        return None
    return ByteRange(size - length, size)


def _zip_tail(size: int) -> ByteRange:
    return ByteRange(max(size - _ZIP_TAIL, 0), size)


_SMALLEST: Final = 32  # no file of any format has parts below this

_SAFETENSORS: Final = Format("safetensors", lambda size: ByteRange(0, min(8, size)), _safetensors)
_GGUF: Final = Format("gguf", lambda size: ByteRange(0, min(_GGUF_FIRST, size)), _gguf)
_PARQUET: Final = Format("parquet", lambda size: ByteRange(max(size - _PARQUET_TAIL, 0), size), _parquet)
_ZIP: Final = Format("zip", _zip_tail, _zip)
# As likely no zip at all: whoever reads the head of one tells.
_MAYBE_ZIP: Final = Format("maybe-zip", lambda _: ByteRange(0, 4), _maybe_zip, eager=False)

_BY_SUFFIX: Final = {
    "safetensors": _SAFETENSORS,
    "gguf": _GGUF,
    "parquet": _PARQUET,
    "zip": _ZIP,
    "npz": _ZIP,
    "pt": _ZIP,
    "pth": _ZIP,
    "bin": _MAYBE_ZIP,
    "ckpt": _MAYBE_ZIP,
}
