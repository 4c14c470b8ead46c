"""A blob that is also a user's file: it outlives the cache, and is verified only while it is right."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from hffs.cache import BlobStore, Layout, StoredBlob, export_file
from hffs.cache.store.locks import HEADER
from hffs.errors import BlockAbsent, CacheUnusable, HffsError
from hffs.ranges import BLOCK_SIZE
from tests.support.blobs import verify_blob
from tests.unit.cache.content import OtherProcess, publish_all
from tests.unit.cache.exported import (
    ALL,
    BLOB,
    CONTENT,
    LINKED,
    data_file,
    no_reflink,
    whole,
)

pytestmark = pytest.mark.usefixtures("as_on_ext4")


# The verification of a linked blob


def test_a_write_during_linking_ends_the_verification(
    layout: Layout, stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(*arguments: Any, **more: Any) -> None:
        real(*arguments, **more)
        with open(data_file(layout), "r+b") as file:
            file.write(b"x")

    monkeypatch.setattr(os, "rename", rename)
    assert export_file(stored, str(tmp_path / "laid"), copy_below=LINKED) == "link"
    assert not stored.verified


def test_linking_does_not_verify_a_file_changed_before(layout: Layout, stored: StoredBlob, tmp_path: Path) -> None:
    os.utime(data_file(layout), ns=(0, 0))
    with pytest.raises(HffsError, match="has not been verified"):
        export_file(stored, str(tmp_path / "laid"), copy_below=LINKED)
    assert not stored.verified


def test_a_write_before_the_link_is_detected(
    layout: Layout, stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> int:
        with open(data_file(layout), "r+b") as file:
            file.write(b"x")
        return no_reflink()

    monkeypatch.setattr(fcntl, "ioctl", write)
    with pytest.raises(HffsError, match="has not been verified"):
        export_file(stored, str(tmp_path / "laid"), copy_below=LINKED)
    assert not stored.verified
    assert data_file(layout).stat().st_nlink == 1


def test_verification_is_checked_while_no_other_process_links(
    layout: Layout, stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_store = BlobStore(layout, boot_id="this boot")
    other = other_store.open(BLOB)
    real = stored.dup_fd

    def lend() -> int | None:
        assert other._locks.try_acquire(range(HEADER, HEADER + 1))[0] == []
        return real()

    monkeypatch.setattr(stored, "dup_fd", lend)
    assert export_file(stored, str(tmp_path / "laid"), copy_below=LINKED) == "link"
    other_store.close()


def test_an_export_waits_for_another_that_links(
    layout: Layout, stored: StoredBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_store = BlobStore(layout, boot_id="this boot")
    other = other_store.open(BLOB)
    refused = threading.Event()
    real_rename, real_take = os.rename, other._locks.try_acquire
    done: list[str] = []

    def take(wanted: range) -> tuple[list[range], list[range]]:
        taken, busy = real_take(wanted)
        if busy:
            refused.set()
        return taken, busy

    worker = threading.Thread(target=lambda: done.append(export_file(other, str(tmp_path / "two"), copy_below=LINKED)))

    def rename(*arguments: Any, **more: Any) -> None:
        monkeypatch.setattr(os, "rename", real_rename)
        real_rename(*arguments, **more)  # name and mode are new, the record still of the old ones
        worker.start()
        assert refused.wait(30)

    monkeypatch.setattr(other._locks, "try_acquire", take)
    monkeypatch.setattr(os, "rename", rename)
    assert export_file(stored, str(tmp_path / "one"), copy_below=LINKED) == "link"
    worker.join(30)
    assert done == ["link"]
    assert stored.verified
    other_store.close()


def test_a_hash_finished_while_another_links_finds_it_verified(
    layout: Layout, store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = store.open(BLOB)
    publish_all(stored, CONTENT)
    other_store = BlobStore(layout, boot_id="this boot")
    other = other_store.open(BLOB)

    def fdatasync(fd: int) -> None:
        monkeypatch.undo()
        assert verify_blob(other, 0)
        export_file(other, str(tmp_path / "laid"), copy_below=LINKED)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    assert verify_blob(stored, 0)
    other_store.close()


def test_a_deleted_link_costs_one_rehash(layout: Layout, store: BlobStore, stored: StoredBlob, tmp_path: Path) -> None:
    laid = tmp_path / "laid"
    export_file(stored, str(laid), copy_below=LINKED)
    stored.close()
    laid.unlink()
    again = store.open(BLOB)
    assert again.complete
    assert not again.verified
    assert again.read(0, len(CONTENT)) == CONTENT
    assert verify_blob(again, 0)
    assert export_file(again, str(laid), copy_below=LINKED) == "link"
    assert laid.samefile(data_file(layout))


@pytest.mark.allow_warnings("is damaged")
def test_an_edited_link_is_detected_and_left_to_its_user(store: BlobStore, stored: StoredBlob, tmp_path: Path) -> None:
    laid = tmp_path / "laid"
    export_file(stored, str(laid), copy_below=LINKED)
    stored.close()
    laid.chmod(0o644)
    with open(laid, "r+b") as file:
        file.seek(2 * BLOCK_SIZE)
        file.write(b"edited")
    edited = laid.read_bytes()
    again = store.open(BLOB)
    assert not again.verified
    assert again.dup_fd() is None
    with pytest.raises(BlockAbsent, match="block 2"):
        again.read(0, len(CONTENT))
    with again.lease(ALL) as lease, pytest.raises(CacheUnusable, match="stored anew when it is opened next"):
        again.publish(lease, 2, CONTENT[2 * BLOCK_SIZE : 3 * BLOCK_SIZE])
    again.close()
    assert whole(store).read(0, len(CONTENT)) == CONTENT
    assert laid.read_bytes() == edited


@pytest.mark.allow_warnings("begins anew")
def test_an_overwritten_link_is_replaced_in_the_cache(store: BlobStore, stored: StoredBlob, tmp_path: Path) -> None:
    laid = tmp_path / "laid"
    export_file(stored, str(laid), copy_below=LINKED)
    stored.close()
    laid.chmod(0o644)
    laid.write_bytes(b"all new")
    assert whole(store).read(0, len(CONTENT)) == CONTENT
    assert laid.read_bytes() == b"all new"


# The user's file, whatever becomes of the cache


@pytest.mark.parametrize("dropped", [ALL, range(1, 2)])
def test_a_linked_file_outlives_its_blob(
    layout: Layout, store: BlobStore, stored: StoredBlob, tmp_path: Path, dropped: range
) -> None:
    laid = tmp_path / "laid"
    export_file(stored, str(laid), copy_below=LINKED)
    before = (laid.stat().st_ino, laid.stat().st_mtime_ns)
    assert stored.discard(dropped) == 0
    with stored.lease(dropped) as lease, pytest.raises(CacheUnusable, match="a file of another folder"):
        stored.publish(lease, 1, CONTENT[BLOCK_SIZE : 2 * BLOCK_SIZE])
    with pytest.raises(BlockAbsent):
        stored.read(BLOCK_SIZE, 1)
    stored.close()
    again = store.open(BLOB)
    assert again.missing(ALL) == [ALL]
    publish_all(again, CONTENT)
    assert verify_blob(again, 0)
    assert again.read(0, len(CONTENT)) == CONTENT
    assert not laid.samefile(data_file(layout))
    assert again.discard(range(1, 2)) == BLOCK_SIZE  # a file of its own again, with holes where there is nothing
    assert laid.read_bytes() == CONTENT
    assert (laid.stat().st_ino, laid.stat().st_mtime_ns) == before
    assert laid.stat().st_nlink == 1


def test_a_dropped_linked_blob_leaves_the_file_to_its_user(layout: Layout, stored: StoredBlob, tmp_path: Path) -> None:
    export_file(stored, str(tmp_path / "laid"), copy_below=LINKED)
    stored.discard(range(1, 4))
    assert data_file(layout).exists()
    stored.discard(range(1))
    assert not data_file(layout).exists()
    assert not layout.copies(BLOB.etag)


def test_closing_an_old_copy_does_not_disturb_its_replacement(
    layout: Layout, stored: StoredBlob, tmp_path: Path
) -> None:
    export_file(stored, str(tmp_path / "laid"), copy_below=LINKED)
    stored.discard(range(1, 2))
    other_store = BlobStore(layout, boot_id="this boot")
    new = whole(other_store)
    stored.discard(ALL)
    assert data_file(layout).exists()
    assert other_store.state(BLOB) == "verified"
    assert new.read(0, len(CONTENT)) == CONTENT
    other_store.close()


def test_another_process_with_the_blob_open_changes_nothing_of_a_link(
    layout: Layout, store: BlobStore, stored: StoredBlob, tmp_path: Path
) -> None:
    laid = tmp_path / "laid"
    with OtherProcess(layout.root, BLOB) as other:
        assert other.ask("lease 0 4") == "[] []"  # it has the files open, for writing
        export_file(stored, str(laid), copy_below=LINKED)
        assert other.ask("verify") == "True"
        assert other.ask("discard 0 2") == "0"
        assert other.ask("lease 0 2") == "[range(0, 2)] []"
        assert other.ask("publish") == ""  # it died of CacheUnusable
    assert laid.read_bytes() == CONTENT
    assert stored.missing(ALL) == [range(2)]


def test_a_deleted_link_that_is_still_open_keeps_its_bytes(
    layout: Layout, store: BlobStore, stored: StoredBlob, tmp_path: Path
) -> None:
    laid = tmp_path / "laid"
    export_file(stored, str(laid), copy_below=LINKED)
    with open(laid, "rb") as reader:
        laid.unlink()
        assert data_file(layout).stat().st_nlink == 1
        assert stored.discard(ALL) == 0
        stored.close()
        whole(store)
        assert reader.read() == CONTENT
