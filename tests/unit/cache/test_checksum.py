from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from hffs.cache.store.checksum import crc32


@given(data=st.binary(max_size=5000), before=st.binary(max_size=50))
def test_the_checksum_is_that_of_zlib(data: bytes, before: bytes) -> None:
    assert crc32(data) == crc32(memoryview(data)) == zlib.crc32(data)
    assert crc32(data, crc32(before)) == zlib.crc32(before + data)
