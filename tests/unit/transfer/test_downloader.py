"""Blocks of a fetch are stored together on a fast line and one by one on a slow one, demanded ones at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pytest

from hffs.cache import BlobStore
from hffs.errors import Cancelled, HffsError, HubUnreachable, NoSpace
from hffs.policy import Fetch, Priority
from hffs.ranges import BLOCK_SIZE
from hffs.transfer.blob_handle import BlobHandle, MemoryBlocks
from hffs.transfer.downloader import GATHER_BYTES, GATHER_SECONDS, Downloader
from tests.unit.memory import MemoryBody, MemorySource

BLOCKS = 10  # the last of 1,000 bytes
SIZE = 9 * BLOCK_SIZE + 1000
WHOLE = range(BLOCKS)


@dataclass
class Rig:
    """A downloader whose source takes ``seconds`` for each block and breaks off before block ``breaks_at``."""

    store: BlobStore
    source: MemorySource
    seconds: float = 0.0
    breaks_at: int = BLOCKS
    stops_at: int = BLOCKS
    time: float = 100.0
    landed: list[list[int]] = field(default_factory=list)
    errors: list[HffsError] = field(default_factory=list)

    def __post_init__(self) -> None:
        file = self.source.file("a.bin", SIZE)
        self.content = self.source.contents["a.bin"]
        self.handle = BlobHandle("a", file, self.store.open(file.blob), MemoryBlocks())
        self.downloader = Downloader(
            self, on_landed=self.note, on_store_error=lambda _, e: self.errors.append(e), now=lambda: self.time
        )
        self.buffer = memoryview(bytearray(GATHER_BYTES))

    def note(self, fetch: Fetch, blocks: Iterable[int]) -> None:
        del fetch
        run = list(blocks)
        assert not run or not self.handle.missing(range(run[0], run[-1] + 1))  # stored before it is reported
        if run:
            self.landed.append(run)

    def open_range(self, file, wanted) -> MemoryBody:
        body = self.source.open_range(file, wanted)
        plain = body.readinto

        def readinto(view: memoryview) -> int:
            block = (wanted.start + body.at) // BLOCK_SIZE
            if block == self.breaks_at:
                raise HubUnreachable("the line broke")
            self.downloader.stopping = block + 1 == self.stops_at
            self.time += self.seconds
            return plain(view)

        body.readinto = readinto  # type: ignore[method-assign]
        return body

    def run(self, priority: Priority, blocks: range = WHOLE) -> bool:
        return self.downloader.run(Fetch(1, "a", blocks, priority, 0), self.handle, self.buffer)


@pytest.fixture
def rig(store: BlobStore, source: MemorySource) -> Iterator[Rig]:
    rig = Rig(store, source)
    yield rig
    rig.handle.stored.close()


@pytest.mark.parametrize("priority", [Priority.AHEAD, Priority.BACKGROUND])
def test_on_a_fast_line_blocks_are_stored_a_buffer_at_a_time(rig: Rig, priority: Priority) -> None:
    assert not rig.run(priority)
    assert rig.landed == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert rig.handle.stored.read(0, SIZE) == rig.content
    assert rig.downloader.fetched == SIZE


def test_demanded_blocks_are_stored_and_reported_one_by_one(rig: Rig) -> None:
    rig.run(Priority.DEMAND)
    assert rig.landed == [[block] for block in WHOLE]
    assert rig.handle.stored.read(0, SIZE) == rig.content


@pytest.mark.parametrize(("seconds", "together"), [(1.1 * GATHER_SECONDS, 1), (0.6 * GATHER_SECONDS, 2), (0.1, 1)])
def test_on_a_slow_line_no_block_waits_long_for_the_next(rig: Rig, seconds: float, together: int) -> None:
    rig.seconds = seconds
    rig.run(Priority.AHEAD)
    assert rig.landed == [list(WHOLE[at : at + together]) for at in range(0, BLOCKS, together)]
    assert rig.handle.stored.read(0, SIZE) == rig.content


def test_whole_blocks_of_a_broken_answer_are_not_requested_again(rig: Rig) -> None:
    rig.breaks_at = 6
    with pytest.raises(HubUnreachable):
        rig.run(Priority.AHEAD)
    assert rig.landed == [[0, 1, 2, 3], [4, 5]]
    assert rig.handle.missing(WHOLE) == [range(6, 10)]
    rig.breaks_at = BLOCKS
    rig.run(Priority.AHEAD)
    assert [wanted.start for _, wanted in rig.source.asked] == [0, 6 * BLOCK_SIZE]
    assert rig.handle.stored.read(0, SIZE) == rig.content


def test_a_fetch_that_is_stopped_keeps_what_has_come(rig: Rig) -> None:
    rig.stops_at = 2
    with pytest.raises(Cancelled):
        rig.run(Priority.BACKGROUND)
    assert rig.landed == [[0, 1]]
    assert rig.handle.stored.read(0, 2 * BLOCK_SIZE) == rig.content[: 2 * BLOCK_SIZE]


def test_a_run_that_the_disk_refuses_is_readable_from_memory(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise NoSpace("no room")

    monkeypatch.setattr(rig.handle.stored, "publish", full)
    rig.run(Priority.AHEAD)
    assert rig.landed == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (str(rig.downloader.sink.error), len(rig.errors)) == ("no room", 1)
    held = [rig.handle.memory.get("a", block) for block in WHOLE]
    assert b"".join(block or b"" for block in held) == rig.content
    assert [len(block or b"") for block in held] == [BLOCK_SIZE] * 9 + [1000]
