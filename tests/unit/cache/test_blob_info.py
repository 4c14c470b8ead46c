"""Blobs of a cache one by one: sizes as on the disk; eviction keeps what is pinned or in use."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Layout, blob_info, export_file
from hffs.cache.blob_info import BlobInfo, Freed
from hffs.cache.store.state_file import StateFile
from hffs.ranges import BLOCK_SIZE
from tests.support.blobs import verify_blob
from tests.support.clock import Clock
from tests.unit.cache.content import MIRROR, OtherProcess, blob_of, fill, piece, publish, some_bytes

CONTENT = some_bytes(3 * BLOCK_SIZE + 100)


def only(layout: Layout) -> BlobInfo:
    (found,) = blob_info.scan(layout)
    return found


def disk(layout: Layout) -> int:
    return sum(path.stat().st_blocks * 512 for path in layout.blobs.rglob("*") if path.is_file())


def verify(store: BlobStore, content: bytes = CONTENT) -> None:
    stored = store.open(blob_of(content))
    assert verify_blob(stored, 1_700_000_000.0)
    stored.close()


def test_empty_and_missing_caches_hold_nothing(layout: Layout, tmp_path: Path) -> None:
    assert list(blob_info.scan(layout)) == []
    assert list(blob_info.scan(Layout(tmp_path / "none"))) == []
    assert not (tmp_path / "none").exists()


def test_a_blob_is_reported_with_its_disk_use(layout: Layout, store: BlobStore, clock: Clock) -> None:
    blob = blob_of(CONTENT)
    stored = store.open(blob)
    publish(stored, CONTENT, range(1, 2))
    clock.now += 90
    stored.read(BLOCK_SIZE, 10)
    stored.close()
    found = only(layout)
    assert (found.etag, found.origin, found.size) == (blob.etag, blob.origin, blob.size)
    assert (found.bytes_local, found.complete, found.verified, found.pinned) == (BLOCK_SIZE, False, None, False)
    assert found.bytes_disk == disk(layout) >= BLOCK_SIZE + 4096
    assert found.last_used == clock.now


def test_a_blob_is_reported_as_verified_until_its_file_is_touched(layout: Layout, store: BlobStore) -> None:
    blob = fill(store, CONTENT)
    assert (only(layout).complete, only(layout).verified) == (True, None)
    verify(store)
    found = only(layout)
    assert found.verified == blob.digest
    os.utime(found.paths.data)
    assert only(layout).verified is None


def test_unusable_files_are_reported_with_the_reason(layout: Layout, store: BlobStore) -> None:
    fill(store, CONTENT)
    paths = only(layout).paths
    whole = Path(paths.state).read_bytes()

    def wrong() -> str:
        found = only(layout)
        assert (found.complete, found.bytes_local) == (False, 0)
        return found.unusable

    Path(paths.state).write_bytes(whole[:1040])
    assert wrong().startswith("its state file is damaged: it has 1040 bytes")
    Path(paths.state).write_bytes(bytes(len(whole)))
    assert "header does not match" in wrong()
    Path(paths.state).write_bytes(whole)
    os.truncate(paths.data, 10)
    assert wrong() == f"its data file has 10 bytes instead of {len(CONTENT)}"
    os.unlink(paths.data)
    assert wrong() == "its data file is missing"
    Path(paths.data).write_bytes(b"left")
    os.unlink(paths.state)
    assert wrong() == "there is no state file beside its data"
    assert blob_info.evict(only(layout)).bytes > 0
    assert list(blob_info.scan(layout)) == []


def test_an_evicted_blob_takes_no_disk_space(layout: Layout, store: BlobStore) -> None:
    fill(store, CONTENT)
    found = only(layout)
    assert blob_info.evict(found) == Freed(found.bytes_disk)
    assert (list(blob_info.scan(layout)), disk(layout)) == ([], 0)
    assert blob_info.evict(found) == Freed(0), "another process was faster"
    again = store.open(blob_of(CONTENT))
    assert again.local_bytes == 0
    again.close()


def test_a_blob_open_in_another_process_loses_blocks_but_not_files(layout: Layout, store: BlobStore) -> None:
    blob = fill(store, CONTENT)
    with OtherProcess(layout.root, blob) as other:
        assert other.ask("lease 0 1") == "[] []", "it has the blob open, and nothing is missing"
        in_use = blob_info.open_files(layout)
        found = only(layout)
        assert found.paths.data in in_use
        freed = blob_info.evict(found, in_use)
        assert freed.bytes >= len(CONTENT)
        assert freed.kept == ""
        assert only(layout).bytes_local == 0
        assert only(layout).bytes_disk < BLOCK_SIZE
    assert blob_info.evict(only(layout), blob_info.open_files(layout)).kept == ""
    assert list(blob_info.scan(layout)) == []


def test_a_blob_open_in_this_process_keeps_its_files(layout: Layout, store: BlobStore) -> None:
    blob = fill(store, CONTENT)
    assert blob_info.open_files(layout) == frozenset(), "inspecting leaves nothing open"
    stored = store.open(blob)
    blob_info.evict(only(layout), blob_info.open_files(layout))
    publish(stored, CONTENT, range(4))
    stored.close()
    assert only(layout).complete, "blocks stored later are not lost"


def test_a_blob_open_for_passthrough_is_not_evicted(layout: Layout, store: BlobStore) -> None:
    fill(store, CONTENT)
    found = only(layout)
    with open(found.paths.data, "rb") as passthrough:
        fcntl.flock(passthrough, fcntl.LOCK_SH)
        assert blob_info.evict(found) == Freed(0, "in use")
        assert only(layout).complete
    assert blob_info.evict(found).bytes == found.bytes_disk


def test_blocks_being_fetched_are_not_evicted(layout: Layout, store: BlobStore) -> None:
    blob = blob_of(CONTENT)
    stored = store.open(blob)
    publish(stored, CONTENT, range(2))
    with stored.lease(range(2, 3)) as lease:
        blob_info.evict(only(layout), frozenset({only(layout).paths.data}))
        stored.publish(lease, 2, piece(CONTENT, 2))
    assert stored.missing(range(4)) == [range(2), range(3, 4)]
    assert stored.read(2 * BLOCK_SIZE, 10) == CONTENT[2 * BLOCK_SIZE :][:10]
    stored.close()


def test_an_exported_file_keeps_its_bytes_when_its_blob_is_evicted(
    layout: Layout, store: BlobStore, tmp_path: Path
) -> None:
    fill(store, CONTENT)
    verify(store)
    stored = store.open(blob_of(CONTENT))
    laid = export_file(stored, str(tmp_path / "out" / "model.bin"), copy_below=0)
    stored.close()
    if laid != "link":
        pytest.skip("this file system reflinks")
    found = only(layout)
    assert found.shared
    assert blob_info.evict(found) == Freed(0, "elsewhere")
    assert list(blob_info.scan(layout)) == []
    assert (tmp_path / "out" / "model.bin").read_bytes() == CONTENT


def test_a_pinned_blob_is_evicted_only_after_unpinning(layout: Layout, store: BlobStore) -> None:
    fill(store, CONTENT)
    assert blob_info.pin(only(layout), True)
    assert not blob_info.pin(only(layout), True)
    assert only(layout).pinned
    assert blob_info.evict(only(layout)) == Freed(0, "pinned")
    assert only(layout).complete
    verify(store)
    assert only(layout).pinned, "verifying forgets no pin"
    assert blob_info.pin(only(layout), False)
    assert blob_info.evict(only(layout)).bytes > len(CONTENT)


def test_a_blob_of_a_newer_hffs_is_left_alone(
    layout: Layout, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, CONTENT)
    paths = only(layout).paths
    state, header = StateFile.open(paths.state)
    with monkeypatch.context() as patch:
        patch.setattr("hffs.cache.store.state_file.VERSION", 2)
        state.write_header(header)
    state.close()
    before = Path(paths.state).read_bytes()
    found = only(layout)
    assert found.newer
    assert "was written by a newer hffs (format 2)" in found.unusable
    assert blob_info.evict(found) == Freed(0, "unreadable")
    assert (Path(paths.state).read_bytes(), Path(paths.data).stat().st_size) == (before, len(CONTENT))


def test_copies_of_one_content_are_listed_separately(layout: Layout, store: BlobStore) -> None:
    fill(store, CONTENT)
    fill(store, CONTENT, MIRROR)
    found = list(blob_info.scan(layout))
    assert len({each.origin for each in found}) == 2
    assert blob_info.allocated([*found, *found]) == disk(layout)
