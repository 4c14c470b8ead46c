"""Hashing content as its listing names it: sha256 of the bytes, or git's sha1 of a blob object.

Used to verify whole blobs; knows no blocks. A Hasher belongs to one thread at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Final

from ...model import Digest

# 1 MiB a read: hashing gains nothing from more, and a reader never waits long for the GIL.
STEP: Final = 1 << 20
# From this many bytes on, clearing the registers costs less than it saves.
_CLEAR_FROM: Final = 64 * 1024


class Hasher:
    """Takes a content of ``size`` bytes in order, and gives the hex digest to compare with ``Digest.hex``."""

    def __init__(self, digest: Digest, size: int) -> None:
        self.hashed = 0  # bytes so far
        if digest.algorithm == "sha256":
            self._hash = hashlib.sha256()
        else:
            # git hashes a header before the bytes: gitformat-loose, "blob <size>\0".
            self._hash = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, data: bytes | memoryview) -> None:
        """Hashes the next bytes of the content."""
        if len(data) >= _CLEAR_FROM:
            _clear_registers()
        self._hash.update(data)
        self.hashed += len(data)

    def hexdigest(self) -> str:
        """Returns the digest of everything given so far, in lower case."""
        return self._hash.hexdigest()


def hash_file(
    fd: int,
    digest: Digest,
    size: int,
    cancelled: Callable[[], bool] = lambda: False,
    each: Callable[[memoryview], object] = lambda _: None,
) -> str | None:
    """Returns the hex digest of a file of ``size`` bytes; None when it is shorter, or when ``cancelled`` (called before
    each MiB) returned True. ``each`` gets every chunk before it is hashed, whole MiB but the last. Raises OSError."""
    hasher, buffer = Hasher(digest, size), memoryview(bytearray(min(STEP, size)))
    while hasher.hashed < size:
        chunk = buffer[: min(STEP, size - hasher.hashed)]
        if cancelled() or os.preadv(fd, [chunk], hasher.hashed) != len(chunk):
            return None
        each(chunk)
        hasher.update(chunk)
    return hasher.hexdigest()


def _clear_registers() -> None:
    """Clears the upper halves of this thread's vector registers.

    ISA-L's CRC for AVX-512 (``checksum``) leaves them in use, and then every SSE instruction of this thread waits for
    them: sha256 took 0.80 s per GiB after a single CRC and 0.60 s without (AMD EPYC, isal 1.9.1, OpenSSL 3.0, 2026-11).
    OpenSSL's sha512 ends with the instruction that clears them (vzeroupper): 5 us, where 1 MiB takes 600. Without that
    instruction it has no effect."""
    hashlib.sha512().digest()
