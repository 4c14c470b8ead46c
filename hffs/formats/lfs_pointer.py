"""git-LFS pointer files (git-lfs docs/spec.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

POINTER_BELOW: Final = 1024  # bytes; a pointer is smaller by the specification
_VERSION: Final = b"version https://git-lfs.github.com/spec/v1"
_OID: Final = re.compile(rb"^oid sha256:([0-9a-f]{64})$", re.MULTILINE)
_SIZE: Final = re.compile(rb"^size ([0-9]{1,18})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LfsPointer:
    """The sha256 and size of the content that a pointer names; None where it does not."""

    sha256: str | None
    size: int | None


def pointer_of(data: bytes, size: int) -> LfsPointer | None:
    """Returns the pointer in a file of ``size`` bytes that starts with ``data``; None if the file is none."""
    if size >= POINTER_BELOW or not data.startswith(_VERSION) or data[len(_VERSION) :][:1] not in (b"\n", b"\r", b""):
        return None
    text = data.replace(b"\r\n", b"\n")
    oid, length = _OID.search(text), _SIZE.search(text)
    return LfsPointer(oid[1].decode() if oid else None, int(length[1]) if length else None)
