"""Hashing goes on whatever one blob does, ends when it is stopped, and hashes the latest bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from hffs.cache import BlobStore, IncrementalHash, StoredBlob
from hffs.errors import CacheUnusable
from hffs.ranges import BLOCK_SIZE
from hffs.transfer import BlobReader
from tests.support.blobs import verify_blob
from tests.support.waiting import SOON, read, until


@pytest.mark.allow_warnings("the bug is logged")
def test_a_blob_that_cannot_be_hashed_does_not_keep_others_from_it(
    fetcher_of, source, store: BlobStore, monkeypatch
) -> None:
    plain = IncrementalHash.advance

    def advance(self: IncrementalHash, *given: object) -> bool:
        if self.stored.size == 1:
            raise MemoryError
        return plain(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(IncrementalHash, "advance", advance)
    fetcher = fetcher_of()
    bad, good = source.file("bad.bin", 1, seed=1), source.file("good.bin", 2, seed=2)
    for file in (bad, good):
        reader = BlobReader(fetcher, file)
        read(reader, 0, 1)
        reader.close()
    until(lambda: store.state(good.blob) == "verified")
    until(lambda: not fetcher._scheduler._handles)


def test_a_machine_that_forbids_low_priority_hashes_all_the_same(
    fetcher_of, source, store: BlobStore, monkeypatch
) -> None:
    def forbidden(*_: int) -> None:
        raise PermissionError("seccomp")

    monkeypatch.setattr(os, "setpriority", forbidden)
    file = source.file("a.bin", 5)
    reader = BlobReader(fetcher_of(), file)
    read(reader, 0, 1)
    reader.close()
    until(lambda: store.state(file.blob) == "verified")


def test_hashing_ends_with_its_next_step_when_it_is_stopped(fetcher_of, source, store: BlobStore, monkeypatch) -> None:
    file = source.file("a.bin", 6 * BLOCK_SIZE)
    reader = BlobReader(fetcher_of(), file)
    stored = store.open(file.blob)
    began = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(IncrementalHash, "advance", lambda *_: began.set())
        read(reader, 0, file.blob.size)
        assert began.wait(SOON)
    answers = iter((False, True))
    assert not verify_blob(stored, 1.0, lambda: next(answers))
    assert next(answers, None) is None
    assert not stored.verified
    assert verify_blob(stored, 1.0)
    stored.close()
    reader.close()


def test_stopping_does_not_wait_for_a_hash(fetcher_of, source, monkeypatch) -> None:
    began, ended = threading.Event(), threading.Event()

    def endless(self: IncrementalHash, cancelled: Callable[[], bool], **_: object) -> bool:
        began.set()
        until(cancelled)
        ended.set()
        return False

    monkeypatch.setattr(IncrementalHash, "advance", endless)
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, source.file("a.bin", 5))
    read(reader, 0, 1)
    assert began.wait(SOON)
    fetcher.stop()
    assert ended.is_set()


def test_a_blob_that_becomes_whole_again_while_hashed_is_hashed_again(
    fetcher_of, source, store: BlobStore, monkeypatch
) -> None:
    plain = IncrementalHash.advance
    began, go_on = threading.Event(), threading.Event()

    def advance(self: IncrementalHash, *given: object) -> bool:
        if began.is_set():
            return plain(self, *given)  # type: ignore[arg-type]
        began.set()
        assert go_on.wait(SOON)
        return False  # as after a block that was found damaged

    monkeypatch.setattr(IncrementalHash, "advance", advance)
    file = source.file("a.bin", 2 * BLOCK_SIZE)
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    read(reader, 0, file.blob.size)
    assert began.wait(SOON)
    reader.handle.stored.discard(range(1))
    read(reader, 0, 5)
    until(lambda: not fetcher.active_workers())
    go_on.set()
    until(lambda: store.state(file.blob) == "verified")
    reader.close()


@pytest.mark.allow_warnings("mismatch, and the disk")
def test_a_mismatch_is_reported_though_the_disk_will_not_drop_the_bytes(fetcher_of, source, monkeypatch) -> None:
    def failing(self: StoredBlob, blocks: range) -> int:
        raise CacheUnusable("input/output error")

    monkeypatch.setattr(StoredBlob, "discard", failing)
    file = source.file("a.bin", 5)
    source.contents["a.bin"] = b"wrong"
    fetcher = fetcher_of()
    reported = threading.Event()
    fetcher.quarantine.on_mismatch = lambda _: reported.set()
    reader = BlobReader(fetcher, file)
    reader.prefetch()
    reader.close()
    assert reported.wait(SOON)


def test_a_file_read_in_order_is_hashed_while_it_grows(fetcher_of, source, store: BlobStore, monkeypatch) -> None:
    hashed: list[int] = []
    plain = IncrementalHash.advance

    def advance(self: IncrementalHash, *given: object) -> bool:
        whole = plain(self, *given)  # type: ignore[arg-type]
        hashed.append(self.hashed)
        return whole

    monkeypatch.setattr(IncrementalHash, "advance", advance)
    file = source.file("a.bin", 5 * BLOCK_SIZE + 3)
    fetcher = fetcher_of(fetch_size=BLOCK_SIZE)
    reader = BlobReader(fetcher, file)
    reports: list[object] = []
    fetcher.watch(reader.handle, reports.append)
    read(reader, 4 * BLOCK_SIZE, 1)
    read(reader, 0, 2 * BLOCK_SIZE)
    until(lambda: 2 * BLOCK_SIZE in hashed)
    read(reader, 0, file.blob.size)
    until(lambda: store.state(file.blob) == "verified")
    until(lambda: not fetcher.active_workers())
    assert max(hashed) == file.blob.size
    assert set(reports) == {None}
    fetcher.unwatch(reader.handle, reports.append)
    reader.close()


def test_a_block_published_anew_after_it_was_hashed_is_hashed_again(fetcher_of, source, store: BlobStore) -> None:
    file = source.file("a.bin", 3 * BLOCK_SIZE)
    reader = BlobReader(fetcher_of(), file)
    read(reader, 0, BLOCK_SIZE)
    assert file.blob.digest is not None
    hashing = IncrementalHash(reader.handle.stored, file.blob.digest)
    assert not hashing.advance()
    assert hashing.hashed == BLOCK_SIZE
    reader.handle.stored.discard(range(1))
    read(reader, 0, file.blob.size)
    assert hashing.advance()
    assert hashing.finish(1.0) == "again", "the block that was hashed has been replaced"
    assert hashing.hashed == 0
    assert hashing.advance()
    assert hashing.finish(1.0) == "verified"
    assert reader.handle.stored.verified
    reader.close()
