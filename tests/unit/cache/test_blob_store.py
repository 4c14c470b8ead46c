"""The store: opening and sharing of blobs, local bytes, and the replacement of damaged files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Layout, StoredBlob
from hffs.cache.store.layout import BlobPaths
from hffs.errors import BlockAbsent, CacheUnusable, NoSpace
from hffs.model import Blob, Digest
from hffs.ranges import BLOCK_SIZE
from tests.support.blobs import verify_blob
from tests.support.clock import Clock
from tests.unit.cache.content import HUB, MIRROR, ROOT, blob_of, fill, piece, publish, publish_all, some_bytes

CONTENT = some_bytes(2 * BLOCK_SIZE + 1000)
BLOB = blob_of(CONTENT)
ALL = range(3)


def verified(store: BlobStore, content: bytes = CONTENT, origin: str = HUB) -> Blob:
    blob = fill(store, content, origin)
    stored = store.open(blob)
    assert verify_blob(stored, 0)
    stored.close()
    return blob


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Opening


def test_an_open_blob_is_one_object(store: BlobStore) -> None:
    one, other = store.open(BLOB), store.open(BLOB)
    assert one is other
    one.close()
    assert other.missing(ALL) == [ALL]
    other.close()
    other.close()
    again = store.open(BLOB)
    assert again is not one


def test_a_blob_uses_three_descriptors_until_closed(store: BlobStore) -> None:
    before = descriptors()
    several = [store.open(BLOB) for _ in range(3)]
    publish_all(several[0], CONTENT)
    verify_blob(several[0], 0)
    several[0].discard(range(1))
    assert descriptors() == before + 3
    for each in several:
        each.close()
    assert descriptors() == before


def test_threads_opening_at_once_get_one_object(store: BlobStore) -> None:
    start = threading.Barrier(8)
    found = []

    def work() -> None:
        start.wait(10)
        found.append(store.open(BLOB))

    before = descriptors()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(map(id, found))) == 1
    assert descriptors() == before + 3


def test_the_second_of_two_concurrent_opens_closes_its_files(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real, first = store._open_files, []

    def open_files(blob: Blob, paths: BlobPaths) -> StoredBlob:
        monkeypatch.undo()
        first.append(store.open(BLOB))
        return real(blob, paths)

    before = descriptors()
    monkeypatch.setattr(store, "_open_files", open_files)
    assert store.open(BLOB) is first[0]
    assert descriptors() == before + 3


def test_stored_blocks_outlive_the_process(layout: Layout, store: BlobStore) -> None:
    fill(store, CONTENT)
    store.close()
    later = BlobStore(layout, boot_id="this boot")
    assert later.open(BLOB).read(0, len(CONTENT)) == CONTENT
    later.close()


def test_two_origins_do_not_share_before_verification(store: BlobStore) -> None:
    fill(store, CONTENT)
    assert store.open(replace(BLOB, origin=MIRROR)).missing(ALL) == [ALL]


def test_a_verified_copy_serves_every_origin(store: BlobStore, layout: Layout) -> None:
    verified(store)
    mirrored = replace(BLOB, origin=MIRROR)
    assert store.local_bytes(mirrored) == len(CONTENT)
    assert store.state(mirrored) == "verified"
    one, other = store.open(mirrored), store.open(BLOB)
    assert one is other
    assert one.read(0, len(CONTENT)) == CONTENT
    assert one.blob == BLOB
    assert len(layout.copies(BLOB.etag)) == 1


def test_a_verified_copy_is_preferred_to_an_own_part(store: BlobStore) -> None:
    mirrored = replace(BLOB, origin=MIRROR)
    part = store.open(mirrored)
    publish(part, CONTENT, range(1))
    part.close()
    assert store.local_bytes(mirrored) == BLOCK_SIZE
    verified(store)
    assert store.open(mirrored).complete


@pytest.mark.parametrize("spoiled", ["another digest", "no digest", "dropped", "touched"])
def test_a_copy_serves_others_only_as_long_as_its_verification_holds(
    store: BlobStore, layout: Layout, spoiled: str
) -> None:
    verified(store)
    asked = replace(BLOB, origin=MIRROR)
    if spoiled == "another digest":
        asked = replace(asked, digest=Digest("sha256", "0" * 64))
    elif spoiled == "no digest":  # the etag of a plain server is not a hash
        asked = replace(asked, digest=None)
    elif spoiled == "dropped":
        stored = store.open(BLOB)
        stored.discard(range(1))
        stored.close()
    else:
        os.utime(layout.paths(BLOB.etag, HUB).data, ns=(0, 0))
    assert store.open(asked).missing(ALL) == [ALL]
    assert store.local_bytes(asked) == 0


def test_a_digest_given_later_counts(store: BlobStore) -> None:
    stored = store.open(replace(BLOB, digest=None))
    publish_all(stored, CONTENT)
    assert not verify_blob(stored, 0)
    assert store.open(BLOB) is stored
    assert verify_blob(stored, 0)


# Damage


@pytest.mark.allow_warnings("begins anew")
@pytest.mark.parametrize("damage", ["header", "cut", "empty", "data missing", "data cut", "another blob's"])
def test_damaged_files_are_replaced(
    store: BlobStore, layout: Layout, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, CONTENT)
    paths = layout.paths(BLOB.etag, HUB)
    if damage == "header":
        with open(paths.state, "r+b") as file:
            file.seek(40)
            file.write(b"\xff")
    elif damage in {"cut", "empty"}:
        os.truncate(paths.state, 1030 if damage == "cut" else 0)
    elif damage == "data missing":
        os.unlink(paths.data)
    elif damage == "data cut":
        os.truncate(paths.data, 5)
    else:
        other = fill(store, CONTENT[1:])
        os.replace(layout.paths(other.etag, HUB).state, paths.state)
    stored = store.open(BLOB)
    assert stored.missing(ALL) == [ALL]
    publish_all(stored, CONTENT)
    assert stored.read(0, len(CONTENT)) == CONTENT
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


@pytest.mark.allow_warnings("begins anew")
def test_a_process_with_the_old_files_open_continues_with_them(store: BlobStore, layout: Layout) -> None:
    old = store.open(BLOB)
    publish_all(old, CONTENT)
    os.truncate(layout.paths(BLOB.etag, HUB).state, 1100)
    other_store = BlobStore(layout, boot_id="this boot")
    new = other_store.open(BLOB)
    publish_all(new, CONTENT)
    assert new is not old
    assert old.discard(range(1)) == BLOCK_SIZE
    assert new.read(0, len(CONTENT)) == CONTENT
    other_store.close()


@pytest.mark.allow_warnings("begins anew")
def test_a_server_that_changes_a_blobs_size_gets_a_new_file(store: BlobStore) -> None:
    etag = "opaque"
    one = store.open(Blob(etag, 10, HUB))
    publish_all(one, b"0123456789")
    other = store.open(Blob(etag, 5, HUB))
    assert other.missing(range(1)) == [range(1)]
    assert one.read(0, 10) == b"0123456789"


def test_data_without_state_is_silently_replaced(store: BlobStore, layout: Layout) -> None:
    fill(store, CONTENT)
    os.unlink(layout.paths(BLOB.etag, HUB).state)  # killed between the two files
    assert store.open(BLOB).missing(ALL) == [ALL]


def test_a_blob_of_a_newer_hffs_is_refused_and_kept(
    store: BlobStore, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as future:
        future.setattr("hffs.cache.store.state_file.VERSION", 2)
        fill(store, CONTENT)
    before = descriptors()
    with pytest.raises(CacheUnusable, match="upgrade hffs"):
        store.open(BLOB)
    assert descriptors() == before
    assert store.local_bytes(BLOB) == 0
    assert Path(layout.paths(BLOB.etag, HUB).data).stat().st_blocks


def test_another_boot_is_recorded_and_nothing_is_lost(layout: Layout, store: BlobStore) -> None:
    verified(store)
    later = BlobStore(layout, boot_id="next boot")
    stored = later.open(BLOB)
    assert stored._state.header().boot_id == "next boot"
    assert stored.verified
    assert not any(stored._checked)  # nothing is trusted before its CRC was checked
    assert stored.read(0, len(CONTENT)) == CONTENT
    later.close()


def test_a_folder_that_cannot_be_created_raises_cache_unusable(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "cache")
    layout.prepare()
    (layout.blobs / BLOB.etag[:2]).write_text("in the way")
    store = BlobStore(layout)
    with pytest.raises(CacheUnusable, match="Not a directory"):
        store.open(BLOB)
    assert store.local_bytes(BLOB) == 0


@pytest.mark.parametrize("call", ["makedirs", "ftruncate", "posix_fallocate"])
def test_on_a_full_disk_a_new_blob_opens_and_stores_nothing(
    store: BlobStore, layout: Layout, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(os, call, full)
        stored = store.open(BLOB)
    with stored.lease(ALL) as lease:
        assert lease.blocks == [ALL]
        with pytest.raises(NoSpace, match=r"no space left for the cache file .*: free some disk space"):
            stored.publish(lease, 0, piece(CONTENT, 0))
    assert stored.missing(ALL) == [ALL]
    assert (stored.local_bytes, stored.verified, verify_blob(stored, 0)) == (0, False, False)
    with pytest.raises(BlockAbsent):
        stored.read(0, 1)
    assert stored.discard(ALL) == 0
    assert not layout.copies(BLOB.etag)
    stored.close()
    publish_all(store.open(BLOB), CONTENT)  # space again


SMALL_DISK = """
import os, sys
from hffs.cache import BlobStore, Layout, StoredBlob
from hffs.cache.store.layout import BlobPaths
from hffs.errors import NoSpace
from tests.unit.cache.content import blob_of, piece, publish_all, some_bytes

layout = Layout(sys.argv[1])
layout.prepare()
store = BlobStore(layout)
content = some_bytes(1 << 21)
stored = store.open(blob_of(content))
stored_blocks = 0
with stored.lease(range(8)) as lease:
    for block in range(8):
        try:
            stored.publish(lease, block, piece(content, block))
            stored_blocks += 1
        except NoSpace:
            assert stored.missing(range(8)) == [range(block, 8)]
            break
assert 0 < stored_blocks < 8, stored_blocks
assert stored.read(0, stored.local_bytes) == content[: stored.local_bytes]
stored.discard(range(1))
assert store.disk_free() >= 200_000
with stored.lease(range(7, 8)) as lease:
    stored.publish(lease, 7, piece(content, 7))
print("passed")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_tmpfs_behaves_like_a_full_disk(tmp_path: Path) -> None:
    mounted = 'mount -t tmpfs -o size=1m,mode=700 small "$1" && exec "$2" -c "$3" "$1"'
    run = subprocess.run(
        ["timeout", "-k5", "60", "unshare", "-m", "sh", "-ec", mounted, "sh", tmp_path, sys.executable, SMALL_DISK],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if "permission denied" in run.stderr or "Operation not permitted" in run.stderr:
        pytest.skip("this machine cannot mount")
    assert (run.stdout, run.stderr) == ("passed\n", "")


# Local bytes


def test_local_bytes_of_this_process_show_at_once(store: BlobStore) -> None:
    assert store.local_bytes(BLOB) == 0
    assert store.state(BLOB) == "remote"
    stored = store.open(BLOB)
    publish(stored, CONTENT, range(1, 3))
    assert store.local_bytes(BLOB) == BLOCK_SIZE + 1000
    assert store.state(BLOB) == "partial"
    stored.close()
    assert store.local_bytes(BLOB) == BLOCK_SIZE + 1000
    stored = store.open(BLOB)
    stored.discard(range(2))
    stored.close()
    assert store.local_bytes(BLOB) == 1000
    fill(store, CONTENT)
    assert store.state(BLOB) == "local"
    verified(store)
    assert store.state(BLOB) == "verified"


def test_changes_by_other_processes_show_within_a_minute(layout: Layout, store: BlobStore, clock: Clock) -> None:
    assert store.local_bytes(BLOB) == 0
    other_store = BlobStore(layout)
    fill(other_store, CONTENT)
    clock.now += 59
    assert store.local_bytes(BLOB) == 0
    clock.now += 1
    assert store.local_bytes(BLOB) == len(CONTENT)
    stored = other_store.open(BLOB)
    stored.discard(ALL)
    assert store.local_bytes(BLOB) == len(CONTENT)
    clock.now -= 1000  # a clock set back extends nothing
    assert store.local_bytes(BLOB) == 0
    other_store.close()


def test_absent_files_cost_one_listing_per_folder(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, CONTENT)
    listed: list[object] = []
    real = os.listdir

    def listdir(path: str) -> list[str]:
        listed.append(path)
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    for number in range(5000):
        assert store.local_bytes(Blob(f"{number % 256:02x}{number:038x}", 5, HUB)) == 0
    assert len(listed) <= 256


def test_a_directory_listing_older_than_a_change_is_not_kept(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.listdir

    def listdir(path: str) -> list[str]:
        monkeypatch.undo()
        seen = real(path) if os.path.exists(path) else []
        fill(store, CONTENT)
        return seen

    monkeypatch.setattr(os, "listdir", listdir)
    assert store.local_bytes(BLOB) == 0
    assert store.local_bytes(BLOB) == len(CONTENT)


def test_a_byte_count_older_than_a_change_is_not_kept(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = fill(store, CONTENT)
    real = store._peek

    def peek(*arguments: object) -> object:
        monkeypatch.undo()
        seen = real(*arguments)  # type: ignore[arg-type]
        stored = store.open(blob)
        stored.discard(ALL)
        stored.close()
        return seen

    monkeypatch.setattr(store, "_peek", peek)
    store.local_bytes(blob)
    assert store.local_bytes(blob) == 0


def test_a_failing_disk_shows_files_as_remote(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = store.open(BLOB)
    publish_all(stored, CONTENT)

    def bad(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as bad_disk:
        bad_disk.setattr(os, "pread", bad)
        assert store.local_bytes(BLOB) == 0
    stored.close()
    with monkeypatch.context() as bad_disk:
        bad_disk.setattr(os, "pread", bad)
        assert store.state(BLOB) == "remote"


def test_free_space_is_that_of_unprivileged_users(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = list(os.statvfs("."))
    fields[1], fields[3], fields[4] = 4096, 100, 70  # f_frsize, f_bfree, f_bavail: 30 blocks are root's
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    assert store.disk_free() == 70 * 4096


def test_a_removed_cache_raises(store: BlobStore, layout: Layout) -> None:
    layout.root.rename(layout.root.with_name("elsewhere"))
    with pytest.raises(CacheUnusable, match="No such file"):
        store.disk_free()
