"""What a file's own bytes tell of whether it can be what its name says: git-LFS pointers, weights of too few bytes,
headers that do not fit the file.

For ``hffs verify``. ``problem_of`` reads by a callable that the caller gives, little of most files; it raises what that
raises and nothing else, whatever the file holds. What cannot be told is no problem. Pure otherwise.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from .formats import LONGEST, gguf_reaches

# Bytes [start, stop) of the file.
Read = Callable[[int, int], bytes]
Kind = Literal["pointer", "tiny", "structure"]

# A pointer is smaller (git-lfs docs/spec.md).
POINTER_BELOW: Final = 1024
# A pointer has some 130 bytes; the smallest safetensors file of one number has about 80, and nobody publishes that.
TINY_BELOW: Final = 200
_VERSION: Final = b"version https://git-lfs.github.com/spec/v1"
_OID: Final = re.compile(rb"^oid sha256:([0-9a-f]{64})$", re.MULTILINE)
_SIZE: Final = re.compile(rb"^size ([0-9]{1,18})$", re.MULTILINE)
_WEIGHTS: Final = frozenset(
    ("safetensors", "bin", "gguf", "ggml", "pt", "pth", "ckpt", "onnx", "h5", "keras", "msgpack", "tflite")
)
_ZIP_END: Final = struct.Struct("<4s16xH")  # signature, and the comment's length (APPNOTE.TXT 4.3.16)
_FARTHEST: Final = 1 << 64  # safetensors counts in 64 bits; Python would not even write out some that JSON can hold
_MAYBE_ZIP: Final = frozenset(("bin", "pt", "pth", "ckpt"))


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a git-LFS pointer stands for: the sha256 and size of the content, None where it does not say."""

    sha256: str | None
    size: int | None


@dataclass(frozen=True, slots=True)
class FormatProblem:
    """Why a file cannot be what its name says; ``what`` goes on after the file's name."""

    kind: Kind
    what: str


def pointer_of(data: bytes, size: int) -> Pointer | None:
    """The pointer that a file of ``size`` bytes is, by its first bytes (all of it, where it is one); else None."""
    if size >= POINTER_BELOW or not data.startswith(_VERSION) or data[len(_VERSION) :][:1] not in (b"\n", b"\r", b""):
        return None
    text = data.replace(b"\r\n", b"\n")
    oid, length = _OID.search(text), _SIZE.search(text)
    return Pointer(oid[1].decode() if oid else None, int(length[1]) if length else None)


def is_weights(path: str) -> bool:
    """Whether a file holds a model's numbers, by its name."""
    return _suffix(path) in _WEIGHTS


def is_tiny(path: str, size: int) -> bool:
    """Whether these are weights of suspiciously few bytes."""
    return size < TINY_BELOW and is_weights(path)


def problem_of(path: str, size: int, read: Read) -> FormatProblem | None:
    """What keeps a file of this name and size from being used, if that shows in it."""
    if size and size < POINTER_BELOW:
        pointer = pointer_of(read(0, size), size)
        if pointer is not None:
            of = f" of {pointer.size} bytes" if pointer.size is not None else ""
            return FormatProblem("pointer", f"is a git-LFS pointer, not the content{of} it stands for")
    if is_tiny(path, size):
        return FormatProblem("tiny", f"has {size} bytes, which is too few for weights")
    least, look = _BY_SUFFIX.get(_suffix(path), (0, None))
    if look is None:
        return None
    wrong = f"has {size} bytes, which is too few for {_suffix(path)}" if size < least else look(path, size, read)
    return FormatProblem("structure", wrong) if wrong else None


def _suffix(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[2].lower()


# --- what is wrong with a file of each kind, in words; None: nothing is known to be --------------------------------


def _safetensors(_: str, size: int, read: Read) -> str | None:
    """u64 length, a JSON object of that length, then the tensors without a gap (safetensors' own rule)."""
    length = int.from_bytes(read(0, 8), "little")
    stop = 8 + length
    if stop > size:
        return f"is no whole safetensors file: its header should end at byte {stop}, and it has {size}"
    if stop > LONGEST:
        return None
    header = _parsed(read(8, stop))
    if not isinstance(header, dict):
        return "is no safetensors file: its header is not JSON"
    end = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
            if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(at) is int for at in offsets)):
                return "is no safetensors file: its header names a tensor without a place"
            if not 0 <= offsets[0] <= offsets[1] < _FARTHEST:
                return "is no safetensors file: its header names a tensor in an impossible place"
            end = max(end, offsets[1])
    return None if stop + end == size else f"has {size} bytes, and its tensors end at byte {stop + end}"


def _gguf(_: str, size: int, read: Read) -> str | None:
    head = read(0, 8)
    if head[:4] != b"GGUF":
        return "is no GGUF file: it does not begin with GGUF"
    little, big = int.from_bytes(head[4:], "little"), int.from_bytes(head[4:], "big")
    if little not in (1, 2, 3) and big != 3:  # big-endian files came with version 3
        return f"is no GGUF file of a known version: it says {little}"
    reaches = gguf_reaches(size, read) if little in (2, 3) else None
    return f"is cut short: it has {size} bytes, and needs more than {reaches}" if reaches and reaches > size else None


def _json(_: str, size: int, read: Read) -> str | None:
    if size > LONGEST:
        return None
    data = read(0, size)
    if _parsed(data) is not _NOT_JSON:
        return None
    lines = [line for line in data.splitlines() if line.strip()]  # many data sets call JSON lines .json, too
    if len(lines) > 1 and all(_parsed(line) is not _NOT_JSON for line in lines):
        return None
    return "is not JSON"


def _zip(path: str, size: int, read: Read) -> str | None:
    """The directory's end: the last thing in the file but a comment."""
    if _suffix(path) in _MAYBE_ZIP and read(0, min(4, size)) != b"PK\3\4":
        return None
    data = read(max(0, size - _ZIP_END.size - 0xFFFF), size)
    at = len(data) - _ZIP_END.size + 1
    while (at := data.rfind(b"PK\5\6", 0, max(at, 0) + 3)) >= 0:
        if at + _ZIP_END.size + _ZIP_END.unpack_from(data, at)[1] == len(data):
            return None
    return "is no whole zip file: the directory at its end is missing"


def _parquet(_: str, size: int, read: Read) -> str | None:
    if read(0, 4) not in (b"PAR1", b"PARE"):
        return "is no parquet file: it does not begin with PAR1"
    return None if read(size - 4, size) in (b"PAR1", b"PARE") else "is cut short: it does not end with PAR1"


_NOT_JSON: Final = object()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, or a number of too many digits
        return _NOT_JSON


# Each with the bytes a file of its kind has at least.
_BY_SUFFIX: Final[dict[str, tuple[int, Callable[[str, int, Read], str | None]]]] = {
    "safetensors": (8, _safetensors),
    "gguf": (24, _gguf),
    "json": (1, _json),
    "parquet": (12, _parquet),
    "zip": (_ZIP_END.size, _zip),
    "npz": (_ZIP_END.size, _zip),
    **dict.fromkeys(_MAYBE_ZIP, (0, _zip)),
}
