"""Checking one blob: damage is found whatever was known before, and nothing is dropped unless requested."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Layout, blob_info
from hffs.cache.integrity import check_blob
from hffs.cache.store.layout import BlobPaths
from hffs.cache.store.state_file import StateFile
from hffs.errors import BlockAbsent
from hffs.model import Digest
from hffs.ranges import BLOCK_SIZE
from tests.unit.cache.content import blob_of, fill, publish, some_bytes

CONTENT = some_bytes(3 * BLOCK_SIZE + 100)
BLOB = blob_of(CONTENT)


@pytest.fixture
def paths(layout: Layout, store: BlobStore) -> BlobPaths:
    """Of the whole blob, which no store has open any more."""
    fill(store, CONTENT)
    return layout.copies(BLOB.etag)[0]


def spoil(path: str, offset: int) -> None:
    with Path(path).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def verified(paths: BlobPaths) -> bool:
    found = blob_info.inspect(paths)
    return found is not None and found.verified is not None


def test_a_right_blob_is_verified_and_every_byte_counted(paths: BlobPaths) -> None:
    seen: list[int] = []
    found = check_blob.check_blob(paths, BLOB.digest, counted=seen.append)
    assert BLOB.digest is not None
    assert (found.bytes, found.blocks, found.bad, found.got, found.judged) == (
        len(CONTENT), 4, (), BLOB.digest.hex, True,
    )  # fmt: skip
    assert sum(seen) == len(CONTENT)
    assert verified(paths)


def test_a_damaged_block_is_reported_kept_and_ends_the_verification(paths: BlobPaths) -> None:
    check_blob.check_blob(paths, BLOB.digest)
    before = os.stat(paths.data)
    spoil(paths.data, BLOCK_SIZE + 5)
    os.utime(paths.data, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = check_blob.check_blob(paths, BLOB.digest)
    assert (found.bad, found.got, found.judged) == ((range(1, 2),), "", True)
    state, header = StateFile.open(paths.state, writing=False)
    state.close()
    assert header.verification is None
    assert state_bytes(paths) == len(CONTENT), "nothing is dropped unless requested"
    assert check_blob.drop_blocks(paths, found.bad)
    assert state_bytes(paths) == len(CONTENT) - BLOCK_SIZE


def state_bytes(paths: BlobPaths) -> int:
    found = blob_info.inspect(paths)
    assert found is not None
    return found.bytes_local


def test_a_wrong_hash_is_reported_and_ends_the_verification(paths: BlobPaths) -> None:
    assert BLOB.digest is not None
    check_blob.check_blob(paths, BLOB.digest)
    found = check_blob.check_blob(paths, Digest("sha256", "0" * 64))
    assert (found.bad, found.got) == ((), BLOB.digest.hex)
    assert not verified(paths)
    assert check_blob.drop_blocks(paths)
    assert state_bytes(paths) == 0


def test_of_an_incomplete_blob_only_the_blocks_are_checked(layout: Layout, store: BlobStore) -> None:
    other = some_bytes(3 * BLOCK_SIZE, seed=2)
    stored = store.open(blob_of(other))
    publish(stored, other, range(1, 3))
    stored.close()
    paths = layout.copies(blob_of(other).etag)[0]
    found = check_blob.check_blob(paths, blob_of(other).digest)
    assert (found.bytes, found.blocks, found.bad, found.got, found.judged) == (2 * BLOCK_SIZE, 2, (), "", True)
    with check_blob.open_reader(paths) as read:
        assert read(BLOCK_SIZE, BLOCK_SIZE + 9) == other[BLOCK_SIZE : BLOCK_SIZE + 9]
        with pytest.raises(BlockAbsent):
            read(0, 1)


def test_a_blob_changed_meanwhile_is_not_judged(paths: BlobPaths, store: BlobStore) -> None:
    stored = store.open(BLOB)

    def meddle(_: int) -> None:
        stored.discard(range(3, 4))

    found = check_blob.check_blob(paths, replace(BLOB).digest, counted=meddle)
    stored.close()
    assert (found.bad, found.got, found.judged) == ((), "", True), "it is incomplete now, and its blocks are sound"
    fill(store, CONTENT)
    stored = store.open(BLOB)
    left = iter([lambda: None, lambda: None, lambda: None, lambda: again(stored)])
    found = check_blob.check_blob(paths, BLOB.digest, counted=lambda _: next(left)())
    stored.close()
    assert (found.got, found.judged) == ("", False)


def again(stored: object) -> None:
    stored.discard(range(1))  # type: ignore[attr-defined]
    publish(stored, CONTENT, range(1))  # type: ignore[arg-type]


def test_a_cancelled_check_or_removed_blob_is_not_judged(paths: BlobPaths, tmp_path: Path) -> None:
    assert not check_blob.check_blob(paths, BLOB.digest, cancelled=lambda: True).judged
    missing = BlobPaths(str(tmp_path / "none"), "x")
    assert not check_blob.check_blob(missing, BLOB.digest).judged
    assert check_blob.drop_blocks(missing)
    with pytest.raises(BlockAbsent), check_blob.open_reader(missing):
        pass
    assert not os.path.exists(missing.folder)
