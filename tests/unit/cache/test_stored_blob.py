"""One blob: present means written, checked, announced; damaged blocks are fetched again, never returned."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hffs.cache import BlobStore, Layout, StoredBlob
from hffs.cache.store.extents import punch
from hffs.cache.store.locks import CLOSED_FD
from hffs.errors import BlockAbsent, CacheUnusable, IntegrityError, NoSpace
from hffs.model import Blob, Digest
from hffs.ranges import BLOCK_SIZE
from tests.support.blobs import verify_blob
from tests.support.clock import Clock
from tests.unit.cache.content import HUB, MIRROR, blob_of, piece, pieces, publish, publish_all, some_bytes

CONTENT = some_bytes(3 * BLOCK_SIZE + 1000)
BLOB = blob_of(CONTENT)
ALL = range(4)


@pytest.fixture
def stored(store: BlobStore) -> StoredBlob:
    return store.open(BLOB)


def data_file(layout: Layout) -> Path:
    return Path(layout.paths(BLOB.etag, BLOB.origin).data)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def failing(number: int, real: Callable[..., Any], on_call: int = 1) -> Callable[..., Any]:
    """``real``, but its ``on_call``-th call is an OSError of that number."""
    calls = 0

    def call(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == on_call:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    return call


# Reading


def test_a_new_blob_holds_nothing(stored: StoredBlob) -> None:
    assert stored.missing(ALL) == [ALL]
    assert (stored.local_bytes, stored.complete, stored.verified) == (0, False, False)
    with pytest.raises(BlockAbsent):
        stored.read(0, 1)


def test_published_blocks_are_read_back(stored: StoredBlob) -> None:
    publish(stored, CONTENT, range(1, 3))
    assert stored.missing(ALL) == [range(1), range(3, 4)]
    assert stored.missing(range(1, 3)) == []
    assert stored.local_bytes == 2 * BLOCK_SIZE
    assert stored.read(BLOCK_SIZE, 2 * BLOCK_SIZE) == CONTENT[BLOCK_SIZE : 3 * BLOCK_SIZE]
    assert stored.read(BLOCK_SIZE + 5, 7) == CONTENT[BLOCK_SIZE + 5 : BLOCK_SIZE + 12]
    with pytest.raises(BlockAbsent, match="block 0 of"):
        stored.read(BLOCK_SIZE - 1, 2)


def test_reads_are_cut_at_the_end(stored: StoredBlob) -> None:
    publish_all(stored, CONTENT)
    assert stored.local_bytes == len(CONTENT)
    assert stored.read(0, 1 << 30) == CONTENT
    assert stored.read(len(CONTENT) - 3, 100) == CONTENT[-3:]
    assert stored.read(len(CONTENT), 1) == stored.read(1 << 40, 1) == stored.read(5, 0) == b""
    for offset, length in ((-1, 1), (0, -1)):
        with pytest.raises(ValueError):
            stored.read(offset, length)


@pytest.mark.parametrize("offset", [0, 10])  # the check of a whole block in the read, and of one only partly in it
@pytest.mark.allow_warnings("is damaged")
def test_a_flipped_bit_is_never_returned(store: BlobStore, layout: Layout, stored: StoredBlob, offset: int) -> None:
    publish_all(stored, CONTENT)
    stored.close()
    at = 2 * BLOCK_SIZE + 77
    overwrite(data_file(layout), at, bytes([CONTENT[at] ^ 4]))
    again = store.open(BLOB)
    assert again.read(0, 2 * BLOCK_SIZE) == CONTENT[: 2 * BLOCK_SIZE]
    assert again.missing(ALL) == []
    with pytest.raises(BlockAbsent, match="block 2"):
        again.read(offset, len(CONTENT) - offset)
    assert again.missing(ALL) == [range(2, 3)]
    publish_all(again, CONTENT)
    assert again.read(0, len(CONTENT)) == CONTENT


@pytest.mark.allow_warnings("is damaged")
def test_damage_to_many_blocks_is_one_warning(
    store: BlobStore, layout: Layout, stored: StoredBlob, caplog: pytest.LogCaptureFixture
) -> None:
    publish_all(stored, CONTENT)
    stored.close()
    for block in ALL:
        overwrite(data_file(layout), block * BLOCK_SIZE, bytes(100))
    with pytest.raises(BlockAbsent):
        store.open(BLOB).read(0, len(CONTENT))
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert store.open(BLOB).missing(ALL) == [ALL]


@pytest.mark.allow_warnings("is damaged")
def test_a_damaged_block_locked_by_another_process_is_left_alone(
    store: BlobStore, layout: Layout, stored: StoredBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hffs.cache.store.stored_blob._LOOK_S", 0.0)
    publish_all(stored, CONTENT)
    stored.close()
    overwrite(data_file(layout), 2 * BLOCK_SIZE, bytes(100))
    again = store.open(BLOB)
    other_store = BlobStore(layout)
    other = other_store.open(BLOB)
    other._locks.try_acquire(range(2, 3))
    with pytest.raises(BlockAbsent, match="block 2"):
        again.read(0, len(CONTENT))
    assert again.missing(ALL) == []
    other._locks.release(range(2, 3))
    with pytest.raises(BlockAbsent, match="block 2"):
        again.read(0, len(CONTENT))
    assert again.missing(ALL) == [range(2, 3)]
    other_store.close()


def test_concurrent_drops_and_publications_never_show_wrong_bytes(layout: Layout, stored: StoredBlob) -> None:
    other_store = BlobStore(layout)
    other = other_store.open(BLOB)
    publish_all(other, CONTENT)
    failures: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            for turn in range(300):
                other.discard(range(turn % 3, turn % 3 + 2))
                publish_all(other, CONTENT)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not done.is_set():
        try:
            assert stored.read(100, len(CONTENT) - 200) == CONTENT[100:-100]
        except BlockAbsent:
            pass
    worker.join(30)
    assert not failures
    assert stored.read(0, len(CONTENT)) == CONTENT
    other_store.close()


@pytest.mark.allow_warnings("is damaged")
def test_a_presence_byte_over_a_hole_is_detected_by_the_crc(stored: StoredBlob) -> None:
    publish(stored, CONTENT, range(1))
    # As a flipped bit, or a crash of the machine that lost the data, would leave it.
    stored._state.set_present(1, b"\1")
    with pytest.raises(BlockAbsent):
        stored.read(BLOCK_SIZE, 10)
    assert stored.missing(ALL) == [range(1, 4)]


@pytest.mark.allow_warnings("is damaged")
def test_a_truncated_data_file_is_repaired_block_by_block(layout: Layout, stored: StoredBlob) -> None:
    publish_all(stored, CONTENT)
    os.truncate(data_file(layout), 2 * BLOCK_SIZE + 9)
    with pytest.raises(BlockAbsent):
        stored.read(0, len(CONTENT))
    assert stored.missing(ALL) == [range(2, 4)]
    publish_all(stored, CONTENT)
    assert stored.read(0, len(CONTENT)) == CONTENT


@pytest.mark.allow_warnings("cannot be read")
def test_an_unreadable_sector_is_an_absent_block(stored: StoredBlob, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_all(stored, CONTENT)
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        if fd == stored._data and offset <= BLOCK_SIZE < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, length, offset)

    with monkeypatch.context() as bad_disk:
        bad_disk.setattr(os, "pread", pread)
        with pytest.raises(BlockAbsent, match="block 1"):
            stored.read(0, len(CONTENT))
    assert stored.missing(ALL) == [range(1, 2)]


def test_a_failing_state_file_makes_the_cache_unusable(stored: StoredBlob, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_all(stored, CONTENT)
    looks: list[Callable[[], object]] = [
        lambda: stored.read(0, 1),
        lambda: stored.missing(ALL),
        lambda: stored.lease(ALL),
        lambda: stored.local_bytes,
        lambda: stored.verified,
    ]
    for look in looks:
        with monkeypatch.context() as bad_disk:
            bad_disk.setattr(os, "pread", failing(errno.EIO, os.pread))
            with pytest.raises(CacheUnusable, match="check the disk"):
                look()


def test_a_block_dropped_during_the_read_is_not_served_as_zeros(
    stored: StoredBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(stored, CONTENT)
    stored.read(0, len(CONTENT))
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        if fd == stored._data:
            monkeypatch.undo()
            stored.discard(range(1, 2))  # between the presence byte and the data
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(BlockAbsent):
        stored.read(0, len(CONTENT))


def test_a_block_dropped_and_published_during_the_read_is_read_again(
    stored: StoredBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(stored, CONTENT)
    stored.read(0, len(CONTENT))
    real, reads = os.pread, []

    def pread(fd: int, length: int, offset: int) -> bytes:
        if fd != stored._data:
            return real(fd, length, offset)
        reads.append(offset)
        if len(reads) > 1:
            return real(fd, length, offset)
        stored.discard(range(1, 2))
        zeros = real(fd, length, offset)  # the hole, between drop and publication: presence is set before and after
        publish(stored, CONTENT, ALL)
        return zeros

    monkeypatch.setattr(os, "pread", pread)
    assert stored.read(0, len(CONTENT)) == CONTENT
    assert len(reads) == 2


def test_a_constantly_changing_block_is_read_under_its_lock(
    stored: StoredBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(stored, CONTENT)
    real, reads = os.pread, 0

    def pread(fd: int, length: int, offset: int) -> bytes:
        nonlocal reads
        data = real(fd, length, offset)
        if fd == stored._data:
            reads += 1
            if reads <= 3:
                stored.discard(range(1, 2))
                publish(stored, CONTENT, ALL)
            else:  # now no other process can change it
                assert stored.discard(range(1, 2)) == 0
        return data

    monkeypatch.setattr(os, "pread", pread)
    assert stored.read(0, len(CONTENT)) == CONTENT
    assert reads > 3


def test_access_times_are_written_once_a_minute_and_at_repeated_use(
    stored: StoredBlob, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(stored, CONTENT)
    writes: list[bytes] = []
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        writes.append(bytes(data))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    for seconds in (0, 1, 59, 60, 61, 118, 119):
        clock.now = 1_700_000_000.0 + seconds
        stored.read(0, 10)
    # Publishing was a use; 59 s later it is used again, as the lowest bit shows.
    assert writes == [(1_700_000_000 + seconds).to_bytes(4, "little") for seconds in (59, 119)]
    assert stored._state.last_uses() == [1_700_000_119]
    assert stored.last_use(0) == (1_700_000_119.0, True)


def test_a_read_succeeds_when_its_access_time_cannot_be_written(
    stored: StoredBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(stored, CONTENT)
    monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC, os.pwrite))
    assert stored.read(0, len(CONTENT)) == CONTENT


# Leases and publishing


def test_a_lease_covers_missing_blocks(stored: StoredBlob) -> None:
    publish(stored, CONTENT, range(1, 2))
    with stored.lease(ALL) as lease:
        assert lease.blocks == [range(1), range(2, 4)]
        assert lease.busy == []
        with stored.lease(ALL) as second:
            assert (second.blocks, second.busy) == ([], [range(1), range(2, 4)])
    with stored.lease(ALL) as lease:
        assert lease.blocks == [range(1), range(2, 4)]


def test_a_second_store_is_another_process(layout: Layout, stored: StoredBlob) -> None:
    other_store = BlobStore(layout)
    other = other_store.open(BLOB)
    assert other is not stored
    with other.lease(range(1, 3)):
        lease = stored.lease(ALL)
        assert (lease.blocks, lease.busy) == ([range(1), range(3, 4)], [range(1, 3)])
        assert stored.discard(range(1, 3)) == 0
        lease.release()
        lease.release()
    publish(other, CONTENT, ALL)
    assert stored.read(0, len(CONTENT)) == CONTENT
    other_store.close()


def test_blocks_published_before_the_lock_are_not_leased(
    layout: Layout, stored: StoredBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_store = BlobStore(layout)
    other = other_store.open(BLOB)
    real = stored._locks.try_acquire

    def take(run: range) -> tuple[list[range], list[range]]:
        monkeypatch.undo()
        publish(other, CONTENT, range(1, 2))
        return real(run)

    monkeypatch.setattr(stored._locks, "try_acquire", take)
    with stored.lease(ALL) as lease:
        assert lease.blocks == [range(1), range(2, 4)]
        assert other.discard(range(1, 2)) == BLOCK_SIZE  # its lock was released
    other_store.close()


@pytest.mark.parametrize("on_call", [1, 2])  # the read before the locks, and the one after
def test_a_failed_lease_holds_nothing(stored: StoredBlob, monkeypatch: pytest.MonkeyPatch, on_call: int) -> None:
    with monkeypatch.context() as bad_disk:
        bad_disk.setattr(os, "pread", failing(errno.EIO, os.pread, on_call))
        with pytest.raises(CacheUnusable):
            stored.lease(ALL)
    with stored.lease(ALL) as lease:
        assert lease.blocks == [ALL]
    stored.close()
    assert not stored.hold()


def test_a_published_block_is_unlocked_at_once(stored: StoredBlob) -> None:
    with stored.lease(ALL) as lease:
        stored.publish(lease, 0, piece(CONTENT, 0))
        assert stored.discard(ALL) == BLOCK_SIZE
        with pytest.raises(ValueError, match="block 0 is not leased"):
            stored.publish(lease, 0, piece(CONTENT, 0))
        stored.publish(lease, 3, piece(CONTENT, 3))
    assert stored.missing(ALL) == [range(3)]


def test_only_whole_leased_blocks_are_published(stored: StoredBlob) -> None:
    with stored.lease(range(1, 4)) as lease:
        for block, data in (
            (0, piece(CONTENT, 0)),
            (1, piece(CONTENT, 1)[:-1]),
            (3, piece(CONTENT, 1)),
            (4, memoryview(b"")),
            (1, memoryview(b"")),
            (1, pieces(CONTENT, range(1, 4))[:-1]),
            (2, memoryview(CONTENT)[: 2 * BLOCK_SIZE]),  # more than the blob has
        ):
            with pytest.raises(ValueError):
                stored.publish(lease, block, data)
    with pytest.raises(ValueError, match="not leased"):
        stored.publish(lease, 1, piece(CONTENT, 1))
    for blocks in (range(5), range(-1, 2), range(0, 4, 2)):
        with pytest.raises(ValueError, match="not a run"):
            stored.lease(blocks)
    assert stored.missing(ALL) == [ALL]


def test_a_run_is_published_in_one_write_and_unlocked(stored: StoredBlob, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    real = os.pwrite

    def counting(fd: int, data: bytes | memoryview, offset: int) -> int:
        writes.append(len(data))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", counting)
    with stored.lease(ALL) as lease:
        stored.publish(lease, 1, pieces(CONTENT, range(1, 4)))
        assert writes == [3, len(CONTENT) - BLOCK_SIZE, 12, 3, 4]  # counts, data, CRCs, presence bytes, time of use
        assert stored.missing(ALL) == [range(1)]
        assert stored.discard(range(2, 3)) == BLOCK_SIZE
        with pytest.raises(ValueError, match="block 1 is not leased"):
            stored.publish(lease, 0, pieces(CONTENT, range(2)))
        assert stored.missing(ALL) == [range(1), range(2, 3)]
    assert stored.read(3 * BLOCK_SIZE, BLOCK_SIZE) == CONTENT[3 * BLOCK_SIZE :]


def test_a_read_during_a_publication_gets_right_bytes_or_none(
    layout: Layout, stored: StoredBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over blocks that were there before with other bytes, as a drop without a hole leaves them."""
    other_store = BlobStore(layout)
    reader = other_store.open(BLOB)
    publish_all(stored, CONTENT)
    assert reader.read(0, len(CONTENT)) == CONTENT  # whose CRCs this reader has checked
    stored.discard(ALL)
    data_file(layout).write_bytes(b"\xff" * len(CONTENT))
    seen: list[int] = []
    real = os.pwrite

    def looking(fd: int, data: bytes | memoryview, offset: int) -> int:
        half = real(fd, data[: max(1, len(data) // 2)], offset)
        with monkeypatch.context() as inside:
            inside.setattr(os, "pwrite", real)
            shown = [block for block in ALL if not reader.missing(range(block, block + 1))]
            assert all(reader.read(block * BLOCK_SIZE, BLOCK_SIZE) == piece(CONTENT, block) for block in shown)
        seen.append(len(shown))
        return half

    with stored.lease(ALL) as lease, monkeypatch.context() as watched:
        watched.setattr(os, "pwrite", looking)
        stored.publish(lease, 0, pieces(CONTENT, ALL))
    assert seen[-3:] == [2, 3, 4]  # at last the presence bytes, halves first
    assert set(seen[:-3]) == {0}
    assert reader.read(0, len(CONTENT)) == CONTENT
    other_store.close()


@pytest.mark.parametrize("blocks", [range(1, 2), range(1, 4)])
@pytest.mark.parametrize("on_call", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, CacheUnusable)]
)
def test_a_failed_publication_leaves_blocks_absent_and_can_be_retried(
    stored: StoredBlob,
    monkeypatch: pytest.MonkeyPatch,
    on_call: int,
    number: int,
    kind: type[Exception],
    blocks: range,
) -> None:
    with stored.lease(ALL) as lease:
        with monkeypatch.context() as bad_disk:
            bad_disk.setattr(os, "pwrite", failing(number, os.pwrite, on_call))
            with pytest.raises(kind):
                stored.publish(lease, 1, pieces(CONTENT, blocks))
        assert stored.missing(ALL) == [ALL]
        stored.publish(lease, 1, pieces(CONTENT, blocks))
    assert stored.read(BLOCK_SIZE, 10) == CONTENT[BLOCK_SIZE : BLOCK_SIZE + 10]


def test_short_writes_are_continued(stored: StoredBlob, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:100_000], offset))
    publish_all(stored, CONTENT)
    monkeypatch.undo()
    assert stored.read(0, len(CONTENT)) == CONTENT


def test_a_lease_keeps_the_blob_open(store: BlobStore) -> None:
    stored = store.open(BLOB)
    lease = stored.lease(ALL)
    stored.close()
    stored.publish(lease, 2, piece(CONTENT, 2))
    lease.release()
    assert not stored.hold()
    assert store.open(BLOB).missing(ALL) == [range(2), range(3, 4)]


# Dropping


def test_discarding_frees_the_space(layout: Layout, stored: StoredBlob) -> None:
    publish_all(stored, CONTENT)
    before = data_file(layout).stat()
    assert stored.discard(range(1, 4)) == len(CONTENT) - BLOCK_SIZE
    after = data_file(layout).stat()
    assert after.st_size == before.st_size
    assert before.st_blocks * 512 >= len(CONTENT)
    assert after.st_blocks * 512 < BLOCK_SIZE + 4096  # the last, partial page was freed too
    assert stored.missing(ALL) == [range(1, 4)]
    assert stored.read(0, BLOCK_SIZE) == CONTENT[:BLOCK_SIZE]
    with pytest.raises(BlockAbsent):
        stored.read(BLOCK_SIZE, 1)
    assert stored.discard(ALL) == BLOCK_SIZE
    assert stored.discard(ALL) == 0
    with pytest.raises(ValueError, match="not a run"):
        stored.discard(range(5))


@pytest.mark.parametrize("case", ["open for passthrough", "linked elsewhere"])
def test_a_file_open_for_passthrough_is_never_punched(
    layout: Layout, stored: StoredBlob, tmp_path: Path, case: str
) -> None:
    publish_all(stored, CONTENT)
    reader = os.open(data_file(layout), os.O_RDONLY)
    if case == "open for passthrough":
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
    else:
        os.link(data_file(layout), tmp_path / "link")
    assert stored.discard(ALL) == 0
    assert stored.missing(ALL) == [ALL]
    assert os.pread(reader, len(CONTENT), 0) == CONTENT
    os.close(reader)


def test_a_failed_punch_raises_and_leaves_the_blocks_absent(
    stored: StoredBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(stored, CONTENT)
    with monkeypatch.context() as bad_disk:
        bad_disk.setattr("hffs.cache.store.stored_blob.punch", lambda *_: punch(CLOSED_FD, 0, 1))
        with pytest.raises(CacheUnusable, match="Bad file descriptor"):
            stored.discard(ALL)
    assert stored.missing(ALL) == [ALL]
    publish_all(stored, CONTENT)  # no lock is left


# The whole


def test_a_verified_blob_is_verified_for_other_processes(layout: Layout, stored: StoredBlob) -> None:
    publish(stored, CONTENT, range(3))
    assert not verify_blob(stored, 5.0)
    publish_all(stored, CONTENT)
    assert stored.complete
    assert not stored.verified
    assert verify_blob(stored, 5.0)
    assert stored.verified
    other_store = BlobStore(layout)
    assert other_store.open(BLOB).verified
    assert other_store.state(BLOB) == "verified"
    other_store.close()


def test_a_git_blob_is_verified_by_gits_name(store: BlobStore) -> None:
    content = b"what is up, doc?"
    etag = "bd9dbf5aae1a3862dd1526723246b20206e5fc37"
    stored = store.open(Blob(etag, 16, HUB, Digest("git-sha1", etag)))
    publish_all(stored, content)
    assert verify_blob(stored, 0)


def test_an_empty_blob_is_complete_at_once(store: BlobStore) -> None:
    blob = blob_of(b"")
    stored = store.open(blob)
    assert (stored.complete, stored.local_bytes, stored.missing(range(0))) == (True, 0, [])
    assert stored.read(0, 10) == b""
    assert stored.lease(range(0)).blocks == []
    assert verify_blob(stored, 0)
    assert stored.verified
    stored.discard(range(0))


def test_wrong_bytes_raise_with_both_hashes(store: BlobStore) -> None:
    blob = Blob("e", len(CONTENT), HUB, Digest("sha256", "0" * 64))
    stored = store.open(blob)
    publish_all(stored, CONTENT)
    with pytest.raises(IntegrityError) as caught:
        verify_blob(stored, 0)
    assert (caught.value.expected, caught.value.got) == ("0" * 64, BLOB.etag)
    assert not stored.verified
    assert stored.complete


def test_without_a_digest_nothing_is_verified(store: BlobStore) -> None:
    stored = store.open(Blob("e", len(CONTENT), HUB))
    publish_all(stored, CONTENT)
    assert not verify_blob(stored, 0)


@pytest.mark.parametrize("change", ["drop", "rewrite", "exchange", "touch"])
def test_any_change_of_the_data_file_ends_the_verification(
    layout: Layout, stored: StoredBlob, store: BlobStore, change: str
) -> None:
    publish_all(stored, CONTENT)
    assert verify_blob(stored, 0)
    path = data_file(layout)
    if change == "drop":
        stored.discard(range(1))
        publish_all(stored, CONTENT)
    elif change == "rewrite":
        overwrite(path, 5, b"x")
    elif change == "exchange":
        stored.close()
        path.rename(path.with_suffix(".old"))
        path.write_bytes(CONTENT)
        stored = store.open(BLOB)
    else:
        os.utime(path, ns=(0, 0))
    assert stored.complete
    assert not stored.verified


def test_dropping_ends_the_verification_even_without_a_hole(layout: Layout, stored: StoredBlob) -> None:
    publish_all(stored, CONTENT)
    assert verify_blob(stored, 0)
    reader = os.open(data_file(layout), os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
    stored.discard(range(1))
    os.close(reader)
    header = stored._state.header()
    assert header.verification is None


def test_an_incomplete_blob_is_not_verified(store: BlobStore, stored: StoredBlob) -> None:
    publish_all(stored, CONTENT)
    assert verify_blob(stored, 0)
    stored._state.set_absent(range(1))  # and then its process died
    assert not stored.verified
    assert store.open(replace(BLOB, origin=MIRROR)).missing(ALL) == [ALL]


@pytest.mark.parametrize("meanwhile", ["drop", "drop and publish"])
def test_a_change_during_hashing_leaves_it_unverified(
    stored: StoredBlob, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    publish_all(stored, CONTENT)
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        stored.discard(range(1))
        if meanwhile == "drop and publish":
            publish_all(stored, CONTENT)
        real(fd)

    with monkeypatch.context() as busy:
        busy.setattr(os, "fdatasync", fdatasync)
        assert not verify_blob(stored, 0)
    assert not stored.verified
    publish_all(stored, CONTENT)
    assert verify_blob(stored, 0)


def test_the_verification_is_recorded_after_the_data_is_on_disk(
    stored: StoredBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(stored, CONTENT)
    synced: list[int] = []

    def fdatasync(fd: int) -> None:
        assert not stored.verified
        synced.append(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    assert verify_blob(stored, 0)
    assert synced == [stored._data, stored._state.fd]


@pytest.mark.allow_warnings("is damaged")
def test_verifying_drops_only_the_damaged_block(store: BlobStore, layout: Layout, stored: StoredBlob) -> None:
    publish_all(stored, CONTENT)
    stored.close()
    overwrite(data_file(layout), 5, bytes([CONTENT[5] ^ 1]))
    again = store.open(BLOB)
    assert not verify_blob(again, 0)
    assert again.missing(ALL) == [range(1)]


def test_verifying_does_not_count_as_use(stored: StoredBlob, clock: Clock) -> None:
    publish_all(stored, CONTENT)
    published = stored._state.last_uses()
    clock.now += 120
    assert verify_blob(stored, 0)
    assert stored._state.last_uses() == published
    assert stored.last_use(0) == (1_700_000_000.0, False)


# Closing


def test_a_closed_blob_raises_cache_unusable(store: BlobStore) -> None:
    stored = store.open(BLOB)
    publish_all(stored, CONTENT)
    lease = store.open(blob_of(b"other")).lease(range(1))
    store.close()
    uses: list[Callable[[], object]] = [
        lambda: stored.read(0, 1),
        lambda: stored.missing(ALL),
        lambda: stored.lease(ALL),
        lambda: stored.discard(ALL),
        lambda: stored.local_bytes,
        lambda: stored.verified,
        lambda: verify_blob(stored, 0),
    ]
    for use in uses:
        with pytest.raises(CacheUnusable):
            use()
    stored.close()
    lease.release()
