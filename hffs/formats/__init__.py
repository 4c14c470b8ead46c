"""File formats of models and data: where the parts of a file are, and whether its structure is intact.

One module a format, each a ``Format`` value; the table below finds it by a name's suffix. Used by read-ahead
(``format_of``) and by ``hffs verify`` (``policy.file_checks``). Pure: bytes in, values out.
"""

from __future__ import annotations

from typing import Final

from . import gguf, json_text, parquet, safetensors, zip_archive
from .format import Format, Read, suffix_of
from .lfs_pointer import POINTER_BELOW, LfsPointer, pointer_of
from .load_order import ReadPlan

__all__ = ["POINTER_BELOW", "Format", "LfsPointer", "Read", "ReadPlan", "format_of", "pointer_of", "structure_of"]

_SMALLEST: Final = 32  # no format has parts worth a plan in a smaller file
_BY_SUFFIX: Final = {
    "safetensors": safetensors.SAFETENSORS,
    "gguf": gguf.GGUF,
    "parquet": parquet.PARQUET,
    "zip": zip_archive.ZIP,
    "npz": zip_archive.ZIP,
    "pt": zip_archive.TORCH,
    "pth": zip_archive.TORCH,
    "bin": zip_archive.MAYBE_TORCH,
    "ckpt": zip_archive.MAYBE_TORCH,
    "json": json_text.JSON,
}


def format_of(path: str, size: int) -> Format | None:
    """Returns the format whose layout can be learnt from a file of this name and size; None if there is none."""
    found = _BY_SUFFIX.get(suffix_of(path))
    return found if found is not None and found.has_layout and size >= _SMALLEST else None


def structure_of(path: str, size: int, read: Read) -> str:
    """Returns what is wrong with the structure of a file, as a clause that continues after its name; "" if no fault is
    found or the format is unknown. Raises what ``read`` raises."""
    found = _BY_SUFFIX.get(suffix_of(path))
    if found is None:
        return ""
    if size < found.smallest:
        return f"has {size} bytes, which is too few for {suffix_of(path)}"
    return found.check(size, read)
