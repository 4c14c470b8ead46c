"""safetensors: u64 length, a JSON object of that length, then the tensors without gaps; offsets count from its end."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

from ..ranges import ByteRange
from .format import LONGEST, Format, Learnt, Read
from .json_text import INVALID, parsed
from .load_order import MOST_PIECES, name_order, plan

# A plan of ``MOST_PIECES`` tensors takes 7 MiB of header; parsed JSON takes up to 20 times its text in memory.
_LONGEST_PLANNED: Final = 8 * 1024 * 1024
_FARTHEST: Final = 1 << 64  # offsets are 64-bit; larger numbers of JSON would be slow to print
_LONGEST_NAME: Final = 4096  # names have hundreds of bytes at most; longer ones are not worth sorting


class _Tensor(NamedTuple):
    start: int
    stop: int
    name: str


def _tensors(text: bytes) -> list[_Tensor] | str:
    """Returns the tensors of a header, or what is wrong with it."""
    header = parsed(text)
    if header is INVALID or not isinstance(header, dict):
        return "is no safetensors file: its header is not JSON"
    found = []
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(at) is int for at in offsets)):
            return "is no safetensors file: its header names a tensor without offsets"
        if not 0 <= offsets[0] <= offsets[1] < _FARTHEST:
            return "is no safetensors file: its header names a tensor with impossible offsets"
        found.append(_Tensor(offsets[0], offsets[1], name))
    return found


def _learn(size: int, seen: ByteRange, data: bytes) -> Learnt:
    stop = 8 + int.from_bytes(data[:8], "little")
    if stop < 10 or stop > min(size, _LONGEST_PLANNED):
        return None
    if seen.stop < stop:
        return ByteRange(0, stop)
    tensors = _tensors(data[8:stop])
    if isinstance(tensors, str) or any(len(tensor.name) > _LONGEST_NAME for tensor in tensors):
        return None
    pieces = sorted(tensor for tensor in tensors if tensor.start < tensor.stop)
    if not 0 < len(pieces) <= MOST_PIECES or pieces[-1].stop > size - stop:
        return None
    if any(before.stop > after.start for before, after in pairwise(pieces)):
        return None
    by_name = sorted(range(len(pieces)), key=lambda index: name_order(pieces[index].name))
    return plan(size, [stop + tensor.start for tensor in pieces], by_name)


def _check(size: int, read: Read) -> str:
    stop = 8 + int.from_bytes(read(0, 8), "little")
    if stop > size:
        return f"is no complete safetensors file: its header should end at byte {stop}, and it has {size}"
    if stop > LONGEST:
        return ""
    tensors = _tensors(read(8, stop))
    if isinstance(tensors, str):
        return tensors
    end = stop + max((tensor.stop for tensor in tensors), default=0)
    return "" if end == size else f"has {size} bytes, and its tensors end at byte {end}"


SAFETENSORS: Final = Format("safetensors", _check, 8, lambda size: ByteRange(0, min(8, size)), _learn)
