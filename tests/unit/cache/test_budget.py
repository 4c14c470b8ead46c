"""The budget evicts what is least useful, never what is pinned, linked or open for passthrough."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hffs.cache import BlobStore, CacheBudget, Layout, StoredBlob, export_file
from hffs.cache.store.access_times import AGAIN_AFTER_S
from hffs.errors import CacheUnusable, NoSpace
from hffs.model import Blob
from hffs.ranges import BLOCK_SIZE, block_count
from tests.support.blobs import verify_blob
from tests.support.clock import Clock
from tests.unit.cache.content import OtherProcess, blob_of, fill, pieces, publish_all, some_bytes

MIB = 1 << 20
# A folder and a state file for each blob, and the index, version and tag.
SMALL = 256 * 1024

MakeRoom = Callable[..., CacheBudget]


@pytest.fixture
def room_of(store: BlobStore, clock: Clock) -> Iterator[MakeRoom]:
    made: list[CacheBudget] = []

    def make(limit: int | None = None, min_free: int | None = 0) -> CacheBudget:
        made.append(CacheBudget(store, limit, min_free, now=clock, clock=clock))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """``disk(free, total)``: the bytes that statvfs returns from now on."""

    def tell(free: int, total: int) -> None:
        fields = list(os.statvfs("/"))
        fields[1], fields[2], fields[4] = 1, total, free
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))

    return tell


def on_disk(layout: Layout) -> int:
    """As du(1) counts: of folders, too."""
    return sum(path.lstat().st_blocks for path in layout.root.rglob("*")) * 512


def put(store: BlobStore, room: CacheBudget, size: int, seed: int) -> Blob:
    """Stores a complete blob as a fetch task does."""
    content = some_bytes(size, seed)
    blob = blob_of(content)
    stored = store.open(blob)
    for first in range(0, block_count(size), 4):
        run = range(first, min(first + 4, block_count(size)))
        data = pieces(content, run)
        pages = -(-len(data) // 4096) * 4096
        reservation = room.reserve(pages)
        assert reservation is not None
        with stored.lease(run) as lease:
            stored.publish(lease, first, data)
        reservation.settle(pages)
    stored.close()
    return blob


def test_without_a_limit_the_whole_disk_may_be_reserved(room_of: MakeRoom, store: BlobStore, layout: Layout) -> None:
    room = room_of()
    blobs = [put(store, room, 3 * MIB, seed) for seed in range(3)]
    assert [store.local_bytes(blob) for blob in blobs] == [3 * MIB] * 3
    assert room.limit is None
    assert abs(room.held - on_disk(layout)) < SMALL


def test_the_least_recently_used_blob_is_evicted(room_of: MakeRoom, store: BlobStore, clock: Clock) -> None:
    room = room_of(10 * MIB)
    blobs = []
    for seed in range(3):
        blobs.append(put(store, room, 3 * MIB, seed))
        clock.now += 10
    stored = store.open(blobs[0])
    stored.read(0, 10)
    stored.close()
    clock.now += 10
    blobs.append(put(store, room, 3 * MIB, 3))
    left = [store.local_bytes(blob) for blob in blobs]
    assert left[0] == left[3] == 3 * MIB
    assert left[1] < 1 * MIB
    assert 2 * MIB < left[2] <= 3 * MIB, "and no more than was needed"


def test_the_directory_keeps_to_the_limit_at_every_moment(room_of: MakeRoom, store: BlobStore, layout: Layout) -> None:
    room = room_of(8 * MIB)
    before = on_disk(layout)
    for seed in range(12):
        put(store, room, MIB + seed, seed)
        assert before < on_disk(layout) <= 8 * MIB + SMALL
        assert abs(room.held - on_disk(layout)) < SMALL


def test_an_open_file_larger_than_the_limit_evicts_its_own_blocks(room_of: MakeRoom, store: BlobStore) -> None:
    room = room_of(8 * MIB)
    blob = put(store, room, 40 * MIB, 1)
    stored = store.open(blob)
    missing = stored.missing(range(160))
    assert 4 * MIB < stored.local_bytes <= 8 * MIB
    assert missing[-1].stop < 160, "what came last is here"
    stored.close()


def test_a_hot_file_survives_a_scan_of_five_times_the_cache(
    room_of: MakeRoom, store: BlobStore, layout: Layout, clock: Clock
) -> None:
    room = room_of(20 * MIB)
    hot = put(store, room, 6 * MIB, 1)
    clock.now += AGAIN_AFTER_S + 1
    stored = store.open(hot)
    stored.read(0, 6 * MIB)
    stored.close()
    for seed in range(2, 12):
        clock.now += 1
        put(store, room, 10 * MIB, seed)
    assert store.local_bytes(hot) == 6 * MIB
    later = BlobStore(layout, clock=clock)
    assert later.local_bytes(hot) == 6 * MIB
    later.close()


def test_a_use_after_the_choice_saves_a_segment(room_of: MakeRoom, store: BlobStore, clock: Clock) -> None:
    room = room_of(10 * MIB)
    blobs = []
    for seed in range(3):
        blobs.append(put(store, room, 3 * MIB, seed))
        clock.now += 10
    first, second, third = blobs
    put(store, room, 1 * MIB, 3)  # reads all segments, and evicts a part of the first
    assert store.local_bytes(first) < 3 * MIB
    clock.now += 10
    stored = store.open(second)
    stored.read(0, 10)
    clock.now += 10
    put(store, room, 4 * MIB, 4)
    assert store.local_bytes(second) == 3 * MIB
    assert store.local_bytes(third) < 3 * MIB
    stored.close()


def pin(store: BlobStore, blob: Blob) -> None:
    stored = store.open(blob)
    stored._state.write_header(replace(stored._state.header(), pinned=True))
    stored.close()


def lend(store: BlobStore, blob: Blob) -> int:
    stored = store.open(blob)
    assert verify_blob(stored, 1.0)
    fd = stored.dup_fd()
    stored.close()
    assert fd is not None
    return fd


def test_pinned_linked_and_passthrough_blobs_are_never_evicted(
    room_of: MakeRoom, store: BlobStore, tmp_path: Path, clock: Clock
) -> None:
    room = room_of(11 * MIB)
    pinned, linked, lent = (put(store, room, 3 * MIB, seed) for seed in range(3))
    pin(store, pinned)
    stored = store.open(linked)
    assert verify_blob(stored, 1.0)
    assert export_file(stored, str(tmp_path / "out"), copy_below=0) in {"link", "reflink"}
    stored.close()
    fd = lend(store, lent)
    clock.now += 10
    assert room.reserve(4 * MIB) is None
    assert [store.state(blob) for blob in (linked, lent)] == ["verified"] * 2
    assert store.local_bytes(pinned) == 3 * MIB
    assert "pinned or in use" in room.no_space_error().what
    os.close(fd)
    assert room.reserve(4 * MIB) is None, "a search that found nothing is believed for a second"
    clock.now += 2
    reservation = room.reserve(4 * MIB)
    assert reservation is not None
    assert store.local_bytes(lent) < 3 * MIB
    assert store.state(lent) == "partial"
    assert store.local_bytes(pinned) == 3 * MIB


def test_a_reservation_above_the_limit_is_refused_without_eviction(room_of: MakeRoom, store: BlobStore) -> None:
    room = room_of(8 * MIB)
    blob = put(store, room, 3 * MIB, 1)
    assert room.reserve(9 * MIB) is None
    assert store.local_bytes(blob) == 3 * MIB


def test_many_threads_reserving_at_once_keep_to_the_limit(room_of: MakeRoom, store: BlobStore, layout: Layout) -> None:
    room = room_of(12 * MIB)
    ended = threading.Event()
    most = [0]

    def watch() -> None:  # the ledger: files change while their sizes are added up
        while not ended.is_set():
            account = room._ledger.read()
            most[0] = max(most[0], account.held + account.reserved)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda seed: put(store, room, 5 * MIB, seed), range(12)))
    finally:
        ended.set()
        watcher.join()
    assert most[0] <= 12 * MIB + SMALL
    assert on_disk(layout) <= 12 * MIB + SMALL
    assert abs(room.held - on_disk(layout)) < SMALL
    assert room._ledger.read().reserved == 0


# Other processes


def test_a_blob_read_by_another_process_is_evicted_without_wrong_reads(
    room_of: MakeRoom, store: BlobStore, layout: Layout
) -> None:
    content = some_bytes(5 * BLOCK_SIZE)
    blob = fill(store, content)
    room = room_of(2 * MIB)
    with OtherProcess(layout.root, blob) as other:
        assert other.ask("read 0 10") != "absent"
        assert room.reserve(2 * MIB - 100_000) is not None
        assert other.ask("read 0 10") == "absent"


def test_blocks_leased_to_another_process_are_left_alone(room_of: MakeRoom, store: BlobStore, layout: Layout) -> None:
    content = some_bytes(5 * BLOCK_SIZE)
    blob = blob_of(content)
    room = room_of(2 * MIB)
    with OtherProcess(layout.root, blob) as other:
        assert other.ask("lease 0 5") == "[range(0, 5)] []"
        assert room.reserve(2 * MIB - 100_000) is not None
        assert other.ask("publish") == "published"
    assert store.local_bytes(blob) == len(content)


# The disk


def test_min_free_is_a_limit_too(room_of: MakeRoom, store: BlobStore, disk, clock: Clock) -> None:
    disk(100 * MIB, 1000 * MIB)
    room = room_of(min_free=96 * MIB)
    blob = put(store, room, 3 * MIB, 1)
    disk(97 * MIB, 1000 * MIB)
    clock.now += 2
    assert room.reserve(2 * MIB) is not None, "by evicting what is stored"
    assert store.local_bytes(blob) < 3 * MIB
    assert room.reserve(5 * MIB) is None
    assert "--min-free" in room.no_space_error().what


@pytest.mark.parametrize(("total", "kept"), [(300 * MIB, 30 * MIB), (1 << 40, 2 << 30)])
def test_two_gib_or_a_tenth_of_a_small_disk_stay_free_by_default(
    room_of: MakeRoom, disk, total: int, kept: int
) -> None:
    disk(kept + 10 * MIB, total)
    room = room_of(min_free=None)
    assert room.reserve(11 * MIB) is None
    assert room.reserve(9 * MIB) is not None


def test_statvfs_is_called_once_a_second(room_of: MakeRoom, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    looks = []
    real = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: looks.append(path) or real(path))
    room = room_of()
    for _ in range(10):
        assert room.reserve(1) is not None
        clock.now += 0.25
    assert len(looks) == 3


def test_blocks_are_evicted_when_other_programs_fill_the_disk(
    room_of: MakeRoom, store: BlobStore, disk, clock: Clock
) -> None:
    disk(100 * MIB, 1000 * MIB)
    room = room_of(min_free=90 * MIB)
    blob = put(store, room, 6 * MIB, 1)
    disk(88 * MIB, 1000 * MIB)
    clock.now += 2
    room.maintain()
    assert 1 * MIB < store.local_bytes(blob) <= 4 * MIB


def test_a_failing_statvfs_raises_cache_unusable(room_of: MakeRoom, layout: Layout, clock: Clock) -> None:
    room = room_of()
    layout.root.rename(layout.root.with_name("elsewhere"))
    clock.now += 2
    with pytest.raises(CacheUnusable):
        room.reserve(1)


def test_a_probe_leaves_no_file_and_raises_on_failure(
    room_of: MakeRoom, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = room_of()
    before = sorted(layout.root.iterdir())
    room.probe()
    assert sorted(layout.root.iterdir()) == before

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoSpace):
        room.probe()


# Counting


def test_a_process_that_starts_alone_counts_the_directory(room_of: MakeRoom, store: BlobStore, layout: Layout) -> None:
    fill(store, some_bytes(3 * MIB))
    room = room_of()
    assert room.held == on_disk(layout)


def test_manual_changes_are_counted_in_time(room_of: MakeRoom, store: BlobStore, layout: Layout, clock: Clock) -> None:
    room = room_of()
    blob = put(store, room, 3 * MIB, 1)
    os.unlink(layout.paths(blob.etag, blob.origin).data)
    clock.now += 599
    room.maintain()
    assert room.held > 3 * MIB
    clock.now += 1
    room.maintain()
    assert room.held < SMALL


def test_no_count_happens_while_bytes_are_reserved(room_of: MakeRoom, layout: Layout, clock: Clock) -> None:
    room = room_of()
    reservation = room.reserve(5)
    assert reservation is not None
    (layout.root / "mine").write_bytes(bytes(MIB))
    clock.now += 600
    room.maintain()
    assert room.held < MIB
    reservation.settle(0)
    room.maintain()
    assert room.held > MIB


def test_discarded_blocks_are_subtracted(room_of: MakeRoom, store: BlobStore, layout: Layout) -> None:
    room = room_of()
    blob = put(store, room, 3 * MIB, 1)
    stored = store.open(blob)
    stored.discard(range(8))
    stored.close()
    assert abs(room.held - on_disk(layout)) < SMALL
    assert room.held < 2 * MIB


def test_small_blobs_count_with_all_their_files(room_of: MakeRoom, store: BlobStore, layout: Layout) -> None:
    room = room_of()
    for seed in range(100):
        put(store, room, 100, seed)
    counted = room.held
    assert abs(counted - on_disk(layout)) < 100 * 4096 + SMALL, "folders of two letters are shared by chance"


def test_opening_a_removed_blob_by_path_gives_none(store: BlobStore, layout: Layout) -> None:
    blob = fill(store, some_bytes(1000))
    paths = layout.paths(blob.etag, blob.origin)
    found = store.open_path(paths.state)
    assert isinstance(found, StoredBlob)
    assert found.evict(range(1), 1) == 4096
    found.close()
    assert store.local_bytes(blob) == 0
    os.unlink(paths.data)
    assert store.open_path(paths.state) is None
    os.unlink(paths.state)
    assert store.open_path(paths.state) is None
    assert list(store.state_files()) == []


def test_blocks_published_after_eviction_are_right(room_of: MakeRoom, store: BlobStore) -> None:
    room = room_of(8 * MIB)
    blob = put(store, room, 20 * MIB, 1)
    content = some_bytes(20 * MIB, 1)
    stored = store.open(blob)
    reservation = room.reserve(BLOCK_SIZE)
    assert reservation is not None
    with stored.lease(range(1)) as lease:
        stored.publish(lease, 0, pieces(content, range(1)))
    reservation.settle(BLOCK_SIZE)
    assert stored.read(0, BLOCK_SIZE) == content[:BLOCK_SIZE]
    assert not stored.verified
    stored.close()


def test_an_evicted_blob_is_verified_again_only_when_complete(room_of: MakeRoom, store: BlobStore) -> None:
    room = room_of()
    blob = put(store, room, 3 * MIB, 1)
    stored = store.open(blob)
    assert verify_blob(stored, 1.0)
    assert stored.evict(range(12), BLOCK_SIZE) == BLOCK_SIZE
    assert stored.missing(range(12)) == [range(1)]
    assert not stored.verified
    publish_all(stored, some_bytes(3 * MIB, 1))
    assert not stored.verified
    assert verify_blob(stored, 2.0)
    stored.close()


def test_hashing_before_eviction_does_not_delay_others_for_long(
    room_of: MakeRoom, store: BlobStore, clock: Clock
) -> None:
    room = room_of(60 * MIB)
    stored = store.open(put(store, room, 48 * MIB, 1))
    hashed: list[range] = []

    def slowly(blocks: range) -> None:
        hashed.append(blocks)
        clock.now += 1.5

    stored.on_evict = slowly
    clock.now += 10
    reservation = room.reserve(59 * MIB)
    assert reservation is not None
    assert stored.local_bytes == 0
    assert hashed == [range(64), range(64, 128)], "the third segment went unhashed"
    reservation.settle(0)
    stored.close()
