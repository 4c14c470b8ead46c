"""One wrong bit, wherever it is and whatever its cause, is detected before a file counts as verified."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hffs.cache import BlobStore, IncrementalHash, Layout, StoredBlob
from hffs.errors import BlockAbsent, IntegrityError
from hffs.model import Blob, Digest
from hffs.ranges import BLOCK_SIZE, block_count, bytes_of
from tests.support.blobs import verify_blob
from tests.support.profile import examples
from tests.unit.cache.content import some_bytes

LONGEST = 5 * BLOCK_SIZE + 123
CONTENT = some_bytes(LONGEST)
quick = settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Around block edges as often as anywhere.
sizes = st.one_of(
    st.integers(1, LONGEST),
    st.builds(lambda block, shift: block * BLOCK_SIZE + shift, st.integers(1, 5), st.integers(-2, 2)),
)


@st.composite
def flips(draw: st.DrawFn) -> tuple[int, int]:
    """A size, and a bit of it."""
    size = draw(sizes)
    edges = [
        0,
        size - 1,
        *(at for block in range(1, block_count(size)) for at in (block * BLOCK_SIZE - 1, block * BLOCK_SIZE)),
    ]
    at = draw(st.one_of(st.integers(0, size - 1), st.sampled_from(edges)))
    return size, at * 8 + draw(st.integers(0, 7))


def flipped(data: bytes, bit: int) -> bytes:
    at = bit // 8
    return data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :]


def blob_of(data: bytes, algorithm: str) -> Blob:
    if algorithm == "sha256":
        hexed = hashlib.sha256(data).hexdigest()
        return Blob(hexed, len(data), "http://hub", Digest("sha256", hexed))
    hexed = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return Blob(hexed, len(data), "http://hub", Digest("git-sha1", hexed))


def concluded(hashing: IncrementalHash) -> str:
    """The final outcome: after a republished block the whole is hashed again, if it is complete."""
    outcome = hashing.finish(1.0)
    if outcome == "again":
        assert hashing.advance()
        outcome = hashing.finish(1.0)
    return outcome


class Disk:
    """A blob in its own cache, into which blocks are stored one by one."""

    def __init__(self, folder: str, blob: Blob) -> None:
        layout = Layout(folder)
        layout.prepare()
        self.store = BlobStore(layout)
        self.stored: StoredBlob = self.store.open(blob)
        [self._data] = Path(folder).rglob("*.data")

    def land(self, data: bytes, blocks: range) -> None:
        for block in blocks:
            with self.stored.lease(range(block, block + 1)) as lease:
                part = bytes_of(range(block, block + 1), len(data))
                if lease.blocks:
                    self.stored.publish(lease, block, data[part.start : part.stop])

    def flip(self, bit: int) -> None:
        with open(self._data, "r+b") as file:
            file.seek(bit // 8)
            [byte] = file.read(1)
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        self.stored.close()
        self.store.close()


@quick
@given(flips(), st.sampled_from(["sha256", "git-sha1"]))
def test_a_bit_flipped_in_transit_is_detected(flip: tuple[int, int], algorithm: str) -> None:
    size, bit = flip
    right = CONTENT[:size]
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(folder, blob_of(right, algorithm))
        disk.land(flipped(right, bit), range(block_count(size)))
        with pytest.raises(IntegrityError):
            verify_blob(disk.stored, 1.0)
        assert not disk.stored.verified
        disk.stored.discard(range(block_count(size)))
        disk.land(right, range(block_count(size)))
        assert verify_blob(disk.stored, 2.0), "and the right content can be stored after it"
        disk.close()


@pytest.mark.allow_warnings("the block is logged")
@quick
@given(flips(), st.booleans())
def test_a_bit_flipped_on_disk_before_hashing_is_detected(flip: tuple[int, int], reopened: bool) -> None:
    """In this process only the hash detects it, and the CRC once it was opened again."""
    size, bit = flip
    right = CONTENT[:size]
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(folder, blob_of(right, "sha256"))
        disk.land(right, range(block_count(size)))
        if reopened:
            disk.close()
            disk = Disk(folder, blob_of(right, "sha256"))
        disk.flip(bit)
        if reopened:
            assert not verify_blob(disk.stored, 1.0)
            with pytest.raises(BlockAbsent):
                disk.stored.read(bit // 8, 1)
            disk.land(right, range(block_count(size)))
            assert verify_blob(disk.stored, 2.0), "the damaged block was stored again"
        else:
            with pytest.raises(IntegrityError):
                verify_blob(disk.stored, 1.0)
            assert not disk.stored.verified
        disk.close()


@quick
@given(flips())
def test_a_bit_flipped_on_disk_after_verification_is_detected(flip: tuple[int, int]) -> None:
    size, bit = flip
    right = CONTENT[:size]
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(folder, blob_of(right, "sha256"))
        disk.land(right, range(block_count(size)))
        assert verify_blob(disk.stored, 1.0)
        disk.flip(bit)
        assert not disk.stored.verified, "it was written to: it has to be hashed again"
        assert disk.stored.dup_fd() is None, "and it is not used for passthrough"
        with pytest.raises(IntegrityError):
            verify_blob(disk.stored, 2.0)
        disk.close()


@quick
@given(flips(), st.data())
def test_a_bit_flipped_in_a_file_larger_than_the_cache_is_detected(flip: tuple[int, int], data: st.DataObject) -> None:
    size, bit = flip
    right = CONTENT[:size]
    count = block_count(size)
    wrong = data.draw(st.booleans())
    came = flipped(right, bit) if wrong else right
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        blob = blob_of(right, "sha256")
        assert blob.digest is not None
        disk = stack.enter_context(contextlib.closing(Disk(folder, blob)))
        hashing = IncrementalHash(disk.stored, blob.digest)
        hashing.subscribe()
        for block in range(count):
            disk.land(came, range(block, block + 1))
            if data.draw(st.booleans()):
                hashing.advance()
            if data.draw(st.booleans()):
                disk.stored.evict(range(data.draw(st.integers(0, block)), block + 1), BLOCK_SIZE)
        assert hashing.advance(), "evicted blocks were hashed before"
        if wrong:
            with pytest.raises(IntegrityError):
                concluded(hashing)
            assert not disk.stored.verified
        else:
            whole = disk.stored.complete
            assert concluded(hashing) == ("verified" if whole else "passed")
            assert disk.stored.verified is whole


@pytest.mark.allow_warnings("the block is logged")
@quick
@given(flips(), st.data())
def test_a_bit_flipped_in_hashed_blocks_of_a_growing_file_is_detected(
    flip: tuple[int, int], data: st.DataObject
) -> None:
    size, bit = flip
    right = CONTENT[:size]
    count = block_count(size)
    block = bit // 8 // BLOCK_SIZE
    here = data.draw(st.integers(block + 1, count), label="blocks that are hashed before")
    with tempfile.TemporaryDirectory() as folder:
        blob = blob_of(right, "sha256")
        assert blob.digest is not None
        disk = Disk(folder, blob)
        hashing = IncrementalHash(disk.stored, blob.digest)
        disk.land(right, range(here))
        hashing.advance(limit=here * BLOCK_SIZE)
        assert hashing.hashed == min(here * BLOCK_SIZE, size)
        disk.flip(bit)
        disk.land(right, range(here, count))
        assert not hashing.advance(), "its CRC is no longer that of what was hashed"
        assert not disk.stored.verified
        assert disk.stored.missing(range(count)) == [range(block, block + 1)]
        disk.land(right, range(block, block + 1))
        assert hashing.advance()
        assert concluded(hashing) == "verified"
        assert disk.stored.read(0, size) == right
        disk.close()
