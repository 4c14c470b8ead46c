"""A cache after a power cut: a reader gets right bytes or fetches them again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Layout
from hffs.cache.integrity.check_blob import check_blob
from hffs.errors import BlockAbsent
from hffs.ranges import BLOCK_SIZE
from tests.support.blobs import verify_blob
from tests.support.clock import Clock
from tests.unit.cache.content import blob_of, fill, publish, some_bytes

CONTENT = some_bytes(3 * BLOCK_SIZE + 100)


def damaged(layout: Layout) -> bool:
    return bool(check_blob(layout.copies(blob_of(CONTENT).etag)[0], None).bad)


def paths(layout: Layout) -> tuple[Path, Path]:
    place = layout.copies(blob_of(CONTENT).etag)[0]
    return Path(place.data), Path(place.state)


@pytest.fixture(autouse=True)
def _whole(store: BlobStore) -> None:
    fill(store, CONTENT)


# The state afterwards: another boot, and part of the last minutes lost.


@pytest.mark.allow_warnings("that blocks are damaged")
@pytest.mark.parametrize("lost", ["the end of the data", "all of the data", "nothing"])
def test_after_a_power_cut_a_reader_gets_right_bytes_or_a_miss(layout: Layout, clock: Clock, lost: str) -> None:
    data, _ = paths(layout)
    size = len(CONTENT)
    if lost != "nothing":
        keep = 2 * BLOCK_SIZE + 4096 if lost == "the end of the data" else 0
        os.truncate(data, keep)
        os.truncate(data, size)  # zeros where the file had its size on disk before its bytes
    later = BlobStore(layout, clock=clock, boot_id="the next boot")
    stored = later.open(blob_of(CONTENT))
    for block in range(4):
        start = block * BLOCK_SIZE
        try:
            assert stored.read(start, BLOCK_SIZE) == CONTENT[start : start + BLOCK_SIZE]
        except BlockAbsent:
            assert stored.missing(range(block, block + 1)), "it is fetched again"
            publish(stored, CONTENT, range(block, block + 1))
    assert stored.read(0, size) == CONTENT
    assert verify_blob(stored, 1_700_000_000.0)
    later.close()
    assert not damaged(layout)


@pytest.mark.allow_warnings("that the blob begins anew")
@pytest.mark.parametrize("torn", ["cut off", "zeros", "presence without CRCs"])
def test_after_a_power_cut_that_tore_the_state_no_wrong_byte_is_read(layout: Layout, clock: Clock, torn: str) -> None:
    _, state = paths(layout)
    whole = state.read_bytes()
    crcs = 1024 + 2 * 4
    after = {
        "cut off": whole[:1024],
        "zeros": bytes(len(whole)),
        "presence without CRCs": whole[:crcs] + bytes(len(whole) - crcs),
    }
    state.write_bytes(after[torn])
    later = BlobStore(layout, clock=clock, boot_id="the next boot")
    stored = later.open(blob_of(CONTENT))
    with pytest.raises(BlockAbsent):
        stored.read(0, len(CONTENT))
    publish(stored, CONTENT, range(4))
    assert stored.read(0, len(CONTENT)) == CONTENT
    later.close()
    assert not damaged(layout)
