"""Digests as sha256sum and git compute them."""

from __future__ import annotations

import hashlib
import zlib

from hypothesis import given
from hypothesis import strategies as st

from hffs.cache import Hasher
from hffs.cache.store.checksum import crc32
from hffs.model import Digest


def test_a_git_blob_has_the_name_git_gives_it() -> None:
    # printf 'what is up, doc?' | git hash-object --stdin (the example of Pro Git, 10.2)
    hasher = Hasher(Digest("git-sha1", ""), 16)
    hasher.update(b"what is up, doc?")
    assert hasher.hexdigest() == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_the_empty_blob() -> None:
    assert Hasher(Digest("git-sha1", ""), 0).hexdigest() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert Hasher(Digest("sha256", ""), 0).hexdigest() == hashlib.sha256().hexdigest()


@given(st.lists(st.binary(max_size=100)))
def test_content_hashed_in_pieces_has_the_same_digest(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    hasher = Hasher(Digest("sha256", ""), len(whole))
    for each in pieces:
        hasher.update(memoryview(each))
    assert hasher.hashed == len(whole)
    assert hasher.hexdigest() == hashlib.sha256(whole).hexdigest()


def test_big_pieces_with_crcs_in_between_have_the_same_digest() -> None:
    """A CRC leaves the vector registers in use, and hashing clears them: neither disturbs the other."""
    whole = bytes(range(256)) * 4096
    hasher = Hasher(Digest("sha256", ""), len(whole))
    for at in range(0, len(whole), 256 * 1024):
        piece = memoryview(whole)[at : at + 256 * 1024]
        assert crc32(piece) == zlib.crc32(piece)
        hasher.update(piece)
    assert hasher.hexdigest() == hashlib.sha256(whole).hexdigest()
