"""Hashing content the way its listing names it: sha256 of the bytes, or git's sha1 of a blob object.

Used to verify whole blobs. Reads no files and knows no blocks. A Hasher belongs to one thread at a time.
"""

from __future__ import annotations

import hashlib
from typing import Final

from ...model import Digest

# From so many bytes on a sweep costs less than it saves.
_SWEPT: Final = 64 * 1024


class Hasher:
    """Takes a content of ``size`` bytes in order and gives the hex digest to compare with ``Digest.hex``."""

    def __init__(self, digest: Digest, size: int) -> None:
        self.hashed = 0  # bytes so far
        if digest.algorithm == "sha256":
            self._hash = hashlib.sha256()
        else:
            # git hashes a header before the bytes: gitformat-loose, "blob <size>\0".
            self._hash = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, data: bytes | memoryview) -> None:
        """The next bytes of the content."""
        if len(data) >= _SWEPT:
            _sweep()
        self._hash.update(data)
        self.hashed += len(data)

    def hexdigest(self) -> str:
        """Of everything given so far, lower case."""
        return self._hash.hexdigest()


def _sweep() -> None:
    """Have the processor forget the upper halves of this thread's vector registers.

    ISA-L's CRC for AVX-512 (``checksum``) leaves them in use, and then every SSE instruction of this thread waits for
    them: sha256 took 0.80 s per GiB after a single CRC and 0.60 s without (AMD EPYC, isal 1.9.1, OpenSSL 3.0, 2026-11).
    OpenSSL's sha512 ends with the instruction that clears them (vzeroupper): 5 us, where 1 MiB takes 600. Elsewhere it
    is of no use, and of no harm."""
    hashlib.sha512().digest()
