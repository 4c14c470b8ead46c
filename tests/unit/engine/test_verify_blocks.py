"""A cache verified by its blocks: damage is found, reported, and dropped with ``fix``; intact data is left alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hffs.cache import BlobStore, Layout
from hffs.cache.store import stored_blob
from hffs.cache.store.checksum import crc32 as real_crc32
from hffs.cache.store.state_file import StateFile
from hffs.control.messages import FindingReport, JobProgress
from hffs.engine.verify import VerificationWork
from hffs.engine.verify_blocks import BlockSource
from hffs.errors import CacheUnusable
from hffs.ranges import BLOCK_SIZE
from tests.support.blobs import verify_blob
from tests.unit.cache.conftest import clock, layout, store
from tests.unit.cache.content import blob_of, fill, publish, some_bytes

__all__ = ["clock", "layout", "store"]

CONTENT = some_bytes(3 * BLOCK_SIZE + 100)


def verified(layout: Layout, fix: bool = False) -> JobProgress:
    def fetcher(_: Any) -> Any:
        raise AssertionError("nothing is fetched")

    work = VerificationWork(BlockSource(layout, fix=fix), fix=fix, fetcher=fetcher, big_file=1 << 20)
    work.run()
    return work.progress(0, running=False)


def check(layout: Layout, fix: bool = False) -> list[FindingReport]:
    return verified(layout, fix)["findings"]


def outcomes(findings: list[FindingReport]) -> list[tuple[str, bool]]:
    return [(each["kind"], each["mended"]) for each in findings]


def paths(layout: Layout) -> tuple[Path, Path]:
    place = layout.copies(blob_of(CONTENT).etag)[0]
    return Path(place.data), Path(place.state)


def corrupt(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.fixture(autouse=True)
def _whole(store: BlobStore) -> None:
    fill(store, CONTENT)


def test_an_intact_cache_has_no_findings_and_is_counted(layout: Layout, store: BlobStore) -> None:
    other = some_bytes(2 * BLOCK_SIZE, seed=2)
    stored = store.open(blob_of(other))
    publish(stored, other, range(1, 2))
    stored.close()
    result = verified(layout, fix=True)
    assert (result["files_total"], result["findings"]) == (2, [])
    assert (result["checked"]["blocks"], result["checked"]["bytes"]) == (5, len(CONTENT) + BLOCK_SIZE)


def test_a_missing_cache_has_no_findings_and_is_not_created(tmp_path: Path) -> None:
    assert check(Layout(tmp_path / "none"), fix=True) == []
    assert not (tmp_path / "none").exists()


def test_damaged_blocks_are_found_and_only_dropped_with_fix(layout: Layout, store: BlobStore) -> None:
    data, _ = paths(layout)
    corrupt(data, 10)
    corrupt(data, BLOCK_SIZE + 10)
    corrupt(data, 3 * BLOCK_SIZE + 99)
    found = check(layout)
    what = "CRC mismatch in blocks 0 to 1, block 3: not what was written to the disk"
    assert [(each["what"], each["path"], each["severity"]) for each in found] == [(what, str(data), "damage")]
    assert outcomes(check(layout, fix=True)) == [("blocks", True)]
    assert check(layout) == []
    stored = store.open(blob_of(CONTENT))
    assert stored.missing(range(4)) == [range(2), range(3, 4)]
    assert stored.read(2 * BLOCK_SIZE, BLOCK_SIZE) == CONTENT[2 * BLOCK_SIZE : 3 * BLOCK_SIZE]
    stored.close()


def test_a_block_published_again_while_it_is_checked_is_no_damage(
    layout: Layout, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = store.open(blob_of(CONTENT))
    calls: list[int] = []

    def crc32(data: bytes) -> int:
        """Of the first block, as seen in the middle of a publication."""
        calls.append(len(data))
        if len(calls) > 1:
            return real_crc32(data)
        stored.discard(range(1))
        publish(stored, CONTENT, range(1))
        return 0

    monkeypatch.setattr(stored_blob, "crc32", crc32)
    assert check(layout) == []
    assert len(calls) == 6, "the first one twice, and once more when it is published"
    stored.close()


def test_a_truncated_data_file_is_dropped_as_a_whole(layout: Layout, store: BlobStore) -> None:
    data, state = paths(layout)
    os.truncate(data, BLOCK_SIZE)
    assert outcomes(check(layout)) == [("unreadable", False)]
    assert outcomes(check(layout, fix=True)) == [("unreadable", True)]
    assert not data.exists()
    assert not state.exists()
    assert check(layout) == []


@pytest.mark.parametrize("torn", [b"", b"hffsblob", bytes(1100)])
def test_a_torn_state_file_is_damage(layout: Layout, torn: bytes) -> None:
    _, state = paths(layout)
    state.write_bytes(torn)
    assert outcomes(check(layout)) == [("unreadable", False)]
    assert outcomes(check(layout, fix=True)) == [("unreadable", True)]
    assert check(layout) == []


def test_an_outdated_verification_record_is_reported_and_cleared(layout: Layout, store: BlobStore) -> None:
    data, _ = paths(layout)
    stored = store.open(blob_of(CONTENT))
    assert verify_blob(stored, 1_700_000_000.0)
    os.utime(data)
    assert outcomes(check(layout)) == [("mark", False)]
    assert outcomes(check(layout, fix=True)) == [("mark", True)]
    assert check(layout) == []
    assert stored.local_bytes == len(CONTENT)
    assert verify_blob(stored, 1_700_000_001.0)
    stored.close()


def test_leftovers_are_reported_and_removed(layout: Layout) -> None:
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
    assert outcomes(found) == [("leftover", False)] * 4
    assert {Path(each["path"]).name for each in found} == {
        other.name, half.name, old.name, "cache.db.damaged-1700000000",
    }  # fmt: skip
    assert outcomes(check(layout, fix=True)) == [("leftover", True)] * 4
    assert check(layout) == []
    assert (layout.root / ".probe.new").exists(), "it may be in use"
    assert data.exists()


def test_blobs_of_a_newer_hffs_are_reported_and_not_changed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    data, path = paths(layout)
    state, header = StateFile.open(str(path))
    with monkeypatch.context() as patch:
        patch.setattr("hffs.cache.store.state_file.VERSION", 2)
        state.write_header(header)
    state.close()
    for fix in (False, True):
        (finding,) = check(layout, fix=fix)
        assert (finding["kind"], finding["mended"]) == ("newer", False)
        assert "format 2" in finding["what"]
    assert data.stat().st_blocks * 512 >= len(CONTENT)
    (layout.root / "version").write_text("2\n")
    with pytest.raises(CacheUnusable, match="was written by a newer hffs"):
        check(layout)
