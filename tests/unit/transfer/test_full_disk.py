"""While nothing can be stored: memory serves waiting reads, once, and background work pushes nothing out of it."""

from __future__ import annotations

import threading
import time

import pytest

from hffs.cache import StoredBlob
from hffs.errors import Cancelled, NoSpace
from hffs.ranges import BLOCK_SIZE, ByteRange
from hffs.transfer import BlobReader, Fetcher, Pending
from hffs.transfer.blob_handle import MemoryBlocks
from hffs.transfer.fetcher import MEMORY_READAHEAD
from tests.support.waiting import SOON, read


@pytest.fixture
def _full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: StoredBlob, claim: object, block: int, data: object) -> None:
        raise NoSpace("no room")

    monkeypatch.setattr(StoredBlob, "publish", full)


def test_expendable_blocks_push_nothing_out_and_are_dropped_first() -> None:
    held = MemoryBlocks(limit=2)
    held.put("demanded", 0, b"x")
    held.put("demanded", 1, b"y")
    held.put("hydrated", 0, b"z", expendable=True)
    assert [held.get("demanded", 0), held.get("demanded", 1), held.get("hydrated", 0)] == [b"x", b"y", None]
    held.forget("demanded")
    held.put("hydrated", 0, b"z", expendable=True)
    held.put("demanded", 0, b"x")
    held.put("demanded", 1, b"y")
    assert [held.get("demanded", 0), held.get("demanded", 1), held.get("hydrated", 0)] == [b"x", b"y", None]


@pytest.mark.usefixtures("_full")
def test_a_block_in_memory_is_not_fetched_again_for_a_read_that_missed_it(fetcher_of, source, monkeypatch) -> None:
    file = source.file("a.bin", BLOCK_SIZE)
    fetcher: Fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    assert read(reader, 0, 5) == source.contents["a.bin"][:5]
    plain = type(reader.handle).missing
    looks = iter([[range(1)]])  # what the second read found before the block of the first one landed
    monkeypatch.setattr(type(reader.handle), "missing", lambda self, blocks: next(looks, None) or plain(self, blocks))
    pending = Pending(reader, ByteRange(0, 5), time.monotonic() + SOON)
    assert pending.result(SOON) == source.contents["a.bin"][:5]
    assert len(source.asked) == 1
    reader.close()


@pytest.mark.usefixtures("_full")
def test_readahead_is_small_while_nothing_can_be_stored(fetcher_of, source) -> None:
    size = 3 * MEMORY_READAHEAD
    file = source.file("a.bin", size)
    fetcher: Fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    for offset in range(0, size, 1 << 20):
        assert read(reader, offset, 1 << 20) == source.contents["a.bin"][offset : offset + (1 << 20)]
        [window] = reader._cursors.windows()
        assert window.wanted - window.position <= MEMORY_READAHEAD
    reader.close()


def test_a_running_fetch_ends_with_its_next_block_when_the_fetcher_stops(fetcher_of, source) -> None:
    file = source.file("a.bin", 8 * BLOCK_SIZE)
    fetcher: Fetcher = fetcher_of(workers=1)
    in_block, go_on = threading.Event(), threading.Event()
    plain_get, given = source.open_range, []

    def get(wanted_file, wanted):
        body = plain_get(wanted_file, wanted)
        plain = body.readinto

        def readinto(view):
            given.append(len(view))
            in_block.set()
            assert go_on.wait(SOON)
            return plain(view)

        body.readinto = readinto
        return body

    source.open_range = get
    reader = BlobReader(fetcher, file)
    pending = reader.read(0, 8 * BLOCK_SIZE)
    assert in_block.wait(SOON)
    stopper = threading.Thread(target=fetcher.stop)
    stopper.start()
    assert isinstance(pending, Pending)
    with pytest.raises(Cancelled):
        pending.result(SOON)
    go_on.set()
    stopper.join(SOON)
    assert not stopper.is_alive()
    assert given == [BLOCK_SIZE]
    reader.close()
