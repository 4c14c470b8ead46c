"""Blocks that another process is fetching: polled often where a reader waits, seldom in the background."""

from __future__ import annotations

import threading
import time

import pytest

from hffs.cache import BlobStore
from hffs.policy import BlockQueue
from hffs.ranges import BLOCK_SIZE
from hffs.transfer import BlobReader, Pending
from hffs.transfer.fetcher import BUSY_BACKGROUND_SECONDS, BUSY_SECONDS

SOON = 5.0


@pytest.mark.parametrize("waited_for", [True, False])
def test_blocks_of_another_process_are_polled_often_only_for_readers(
    fetcher_of, source, store: BlobStore, monkeypatch, waited_for: bool
) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    other_store = BlobStore(store.layout)
    other = other_store.open(file.blob)
    claim = other.lease(range(1))
    pauses: list[float] = []
    deferred = threading.Event()
    plain = BlockQueue.defer

    def defer(self, fetch, until):
        pauses.append(until - time.monotonic())
        deferred.set()
        plain(self, fetch, until)

    monkeypatch.setattr(BlockQueue, "defer", defer)
    reader = BlobReader(fetcher_of(), file)
    pending = reader.read(0, 5) if waited_for else reader.prefetch()
    assert deferred.wait(SOON)
    other.publish(claim, 0, source.contents["a.bin"])
    claim.release()
    if isinstance(pending, Pending):
        assert pending.result(SOON) == source.contents["a.bin"][:5]
        assert max(pauses) <= BUSY_SECONDS
    else:
        assert BUSY_SECONDS < max(pauses) <= BUSY_BACKGROUND_SECONDS
    assert source.asked == []
    reader.close()
    other.close()
    other_store.close()
