"""Hashing content the way its listing names it: sha256 of the bytes, or git's sha1 of a blob object.

Used to verify whole blobs. Reads no files and knows no blocks. A Hasher belongs to one thread at a time.
"""

from __future__ import annotations

import hashlib

from ..model import Digest


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
        self._hash.update(data)
        self.hashed += len(data)

    def hexdigest(self) -> str:
        """Of everything given so far, lower case."""
        return self._hash.hexdigest()
