"""Whether a file can be what its name says: git-LFS pointers in place of content, weights of too few bytes, headers
that do not match the file.

For ``hffs verify``. ``problem_of`` reads with a function given by the caller, usually a small part of the file. Bad
content never raises; only that function may. A file that cannot be judged has no problem. Pure otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ..formats import POINTER_BELOW, Read, pointer_of, structure_of
from ..formats.format import suffix_of

# A pointer has some 130 bytes; the smallest safetensors file of one number has about 80, which is not published.
TINY_BELOW: Final = 200
_WEIGHTS: Final = frozenset(
    ("safetensors", "bin", "gguf", "ggml", "pt", "pth", "ckpt", "onnx", "h5", "keras", "msgpack", "tflite")
)


@dataclass(frozen=True, slots=True)
class FormatProblem:
    """Why a file cannot be what its name says; ``what`` is a clause that continues after the file's name."""

    kind: Literal["pointer", "tiny", "structure"]
    what: str


def is_tiny(path: str, size: int) -> bool:
    """Returns whether a file contains weights of suspiciously few bytes."""
    return size < TINY_BELOW and suffix_of(path) in _WEIGHTS


def problem_of(path: str, size: int, read: Read) -> FormatProblem | None:
    """Returns what makes a file of this name and size unusable, if its content shows it."""
    if size and size < POINTER_BELOW:
        pointer = pointer_of(read(0, size), size)
        if pointer is not None:
            of = f" of {pointer.size} bytes" if pointer.size is not None else ""
            return FormatProblem("pointer", f"is a git-LFS pointer, not the content{of} it stands for")
    if is_tiny(path, size):
        return FormatProblem("tiny", f"has {size} bytes, which is too few for weights")
    wrong = structure_of(path, size, read)
    return FormatProblem("structure", wrong) if wrong else None
