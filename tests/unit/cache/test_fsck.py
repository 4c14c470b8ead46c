"""A cache looked through: damage is found, told, and dropped where that is asked for; what is sound is left alone."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from hffs.cache import BlobStore, Layout
from hffs.cache.integrity import fsck
from hffs.cache.integrity.fsck import FsckFinding
from hffs.cache.store.state_file import StateFile
from hffs.errors import BlockAbsent, CacheUnusable
from hffs.ranges import BLOCK_SIZE
from tests.support.blobs import verify_blob
from tests.unit.cache.conftest import Clock
from tests.unit.cache.content import blob_of, fill, publish, some_bytes

CONTENT = some_bytes(3 * BLOCK_SIZE + 100)


def check(layout: Layout, repair: bool = False) -> list[FsckFinding]:
    return [finding for step in fsck.check(layout, repair=repair) for finding in step.findings]


def told(findings: list[FsckFinding]) -> list[tuple[str, bool]]:
    return [(finding.kind, finding.mended) for finding in findings]


def paths(layout: Layout) -> tuple[Path, Path]:
    place = layout.copies(blob_of(CONTENT).etag)[0]
    return Path(place.data), Path(place.state)


def spoil(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.fixture(autouse=True)
def _whole(store: BlobStore) -> None:
    fill(store, CONTENT)


def test_a_sound_cache_is_clean_and_counted(layout: Layout, store: BlobStore) -> None:
    other = some_bytes(2 * BLOCK_SIZE, seed=2)
    stored = store.open(blob_of(other))
    publish(stored, other, range(1, 2))
    stored.close()
    steps = list(fsck.check(layout, repair=True))
    last = steps[-1]
    assert (last.blobs, last.blocks, last.bytes) == (2, 5, len(CONTENT) + BLOCK_SIZE)
    assert [step.findings for step in steps] == [(), (), ()]


def test_a_cache_that_is_not_there_is_clean_and_not_made(tmp_path: Path) -> None:
    assert check(Layout(tmp_path / "none"), repair=True) == []
    assert not (tmp_path / "none").exists()


def test_damaged_blocks_are_found_and_only_with_repair_dropped(layout: Layout, store: BlobStore) -> None:
    data, _ = paths(layout)
    spoil(data, 10)
    spoil(data, BLOCK_SIZE + 10)
    spoil(data, 3 * BLOCK_SIZE + 99)
    found = check(layout)
    assert [finding.what for finding in found] == [
        "blocks 0 to 1 of 4 are not what was written",
        "block 3 of 4 is not what was written",
    ]
    assert told(found) == [("damage", False)] * 2
    assert {finding.path for finding in found} == {str(data)}
    assert told(check(layout, repair=True)) == [("damage", True)] * 2
    assert check(layout) == []
    stored = store.open(blob_of(CONTENT))
    assert stored.missing(range(4)) == [range(2), range(3, 4)]
    assert stored.read(2 * BLOCK_SIZE, BLOCK_SIZE) == CONTENT[2 * BLOCK_SIZE : 3 * BLOCK_SIZE]
    stored.close()


def test_a_block_that_is_published_anew_while_it_is_looked_at_is_no_damage(
    layout: Layout, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = store.open(blob_of(CONTENT))
    looks: list[int] = []

    def crc32(data: bytes) -> int:
        """Of the first block, what a look in the middle of a publication sees."""
        looks.append(len(data))
        if len(looks) > 1:
            return zlib.crc32(data)
        stored.discard(range(1))
        publish(stored, CONTENT, range(1))
        return 0

    monkeypatch.setattr(fsck, "zlib", SimpleNamespace(crc32=crc32))
    assert check(layout) == []
    assert len(looks) == 5, "the first one twice"
    stored.close()


def test_a_data_file_that_was_cut_off_goes_as_a_whole(layout: Layout, store: BlobStore) -> None:
    data, state = paths(layout)
    os.truncate(data, BLOCK_SIZE)
    assert told(check(layout)) == [("damage", False)]
    assert told(check(layout, repair=True)) == [("damage", True)]
    assert not data.exists()
    assert not state.exists()
    assert check(layout) == []


@pytest.mark.parametrize("torn", [b"", b"hffsblob", bytes(1100)])
def test_a_torn_state_file_is_damage(layout: Layout, torn: bytes) -> None:
    _, state = paths(layout)
    state.write_bytes(torn)
    assert told(check(layout)) == [("damage", False)]
    assert told(check(layout, repair=True)) == [("damage", True)]
    assert check(layout) == []


def test_a_mark_that_no_longer_fits_is_told_and_harms_nobody(layout: Layout, store: BlobStore) -> None:
    data, _ = paths(layout)
    stored = store.open(blob_of(CONTENT))
    assert verify_blob(stored, 1_700_000_000.0)
    os.utime(data)
    assert told(check(layout)) == [("mark", False)]
    assert told(check(layout, repair=True)) == [("mark", True)]
    assert check(layout) == []
    assert stored.local_bytes == len(CONTENT)
    assert verify_blob(stored, 1_700_000_001.0)
    stored.close()


def test_leftovers_are_told_and_removed(layout: Layout) -> None:
    data, state = paths(layout)
    other = state.with_name("0" * 16 + ".data")
    other.write_bytes(b"without state")
    half = state.with_name("1" * 16 + ".new")
    (state.parent / ("1" * 16 + ".lock")).touch()
    half.write_bytes(b"half")
    old = layout.root / ".probe.abc"
    old.touch()
    os.utime(old, (1_000_000_000, 1_000_000_000))
    (layout.root / ".probe.new").touch()
    (layout.index / "cache.db.damaged-1700000000").touch()
    found = check(layout)
    assert told(found) == [("leftover", False)] * 4
    assert {Path(finding.path).name for finding in found} == {
        other.name, half.name, old.name, "cache.db.damaged-1700000000",
    }  # fmt: skip
    assert told(check(layout, repair=True)) == [("leftover", True)] * 4
    assert check(layout) == []
    assert (layout.root / ".probe.new").exists(), "somebody may be at it"
    assert data.exists()


def test_what_a_newer_hffs_wrote_is_told_and_left_alone(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    data, path = paths(layout)
    state, header = StateFile.open(str(path))
    with monkeypatch.context() as patch:
        patch.setattr("hffs.cache.store.state_file.VERSION", 2)
        state.write_header(header)
    state.close()
    for repair in (False, True):
        (finding,) = check(layout, repair=repair)
        assert (finding.kind, finding.mended) == ("newer", False)
        assert "format 2" in finding.what
    assert data.stat().st_blocks * 512 >= len(CONTENT)
    (layout.root / "version").write_text("2\n")
    with pytest.raises(CacheUnusable, match="was written by a newer hffs"):
        check(layout)


# A power cut, as it shows afterwards: another boot, and whatever part of the last minutes the disk never got.


@pytest.mark.allow_warnings("that blocks are damaged")
@pytest.mark.parametrize("lost", ["the end of the data", "all of the data", "nothing"])
def test_after_a_power_cut_a_reader_gets_right_bytes_or_is_told_to_fetch(
    layout: Layout, clock: Clock, lost: str
) -> None:
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
            assert stored.missing(range(block, block + 1)), "it is asked for again"
            publish(stored, CONTENT, range(block, block + 1))
    assert stored.read(0, size) == CONTENT
    assert verify_blob(stored, 1_700_000_000.0)
    later.close()
    assert check(layout) == []


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
    assert check(layout) == []
