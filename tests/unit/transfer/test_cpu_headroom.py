"""Hashing of a growing file waits while the machine is busy; that of a whole or idle one does not."""

from __future__ import annotations

import time

import pytest

from hffs.cache import BlobStore
from hffs.policy import Priority
from hffs.ranges import BLOCK_SIZE
from hffs.transfer import BlobReader, hash_worker
from hffs.transfer.cpu_headroom import CpuHeadroom, idle_seconds
from tests.support.waiting import SOON, until
from tests.unit.memory import MemorySource


class Machine:
    """The clocks of a machine with two cores."""

    def __init__(self) -> None:
        self.now = self.idle = self.own = 0.0
        self.headroom = CpuHeadroom(lambda: self.idle, lambda: self.own, lambda: self.now, cores=2)
        assert not self.headroom.is_short(), "nothing is known yet"

    def passes(self, *, idle: float, own: float = 0.0) -> bool:
        self.now += 1.0
        self.idle += idle
        self.own += own
        return self.headroom.is_short()


def test_headroom_is_short_below_a_quarter_of_the_machine() -> None:
    machine = Machine()
    assert [machine.passes(idle=idle) for idle in (2.0, 0.6, 0.4, 0.0, 1.0)] == [False, False, True, True, False]


def test_the_hash_worker_s_own_processor_time_counts_as_headroom() -> None:
    machine = Machine()
    assert not machine.passes(idle=0.1, own=0.9)
    assert machine.passes(idle=0.1, own=0.1)


def test_headroom_is_sampled_and_not_read_each_time() -> None:
    machine = Machine()
    machine.passes(idle=2.0)
    machine.now += 0.05
    assert not machine.headroom.is_short(), "too soon for another sample"


def test_without_idle_time_figures_headroom_is_never_short() -> None:
    headroom = CpuHeadroom(lambda: None, lambda: 0.0, time.monotonic)
    assert not headroom.is_short()
    assert not headroom.is_short()
    assert (idle_seconds() or 1.0) > 0.0


@pytest.mark.parametrize("rest", [True, False])
def test_on_a_busy_machine_a_file_is_hashed_once_whole_or_no_longer_growing(
    fetcher_of, source: MemorySource, store: BlobStore, monkeypatch: pytest.MonkeyPatch, *, rest: bool
) -> None:
    monkeypatch.setattr(CpuHeadroom, "is_short", lambda _: True)
    monkeypatch.setattr(hash_worker, "GROWING_SECONDS", SOON if rest else 0.0)
    file = source.file("a.bin", 4 * BLOCK_SIZE)
    fetcher = fetcher_of(fetch_size=BLOCK_SIZE)
    reader = BlobReader(fetcher, file)
    fetcher.want(reader.handle, range(1), Priority.DEMAND)
    hashings, key = fetcher.hash_worker._hashings, reader.handle.key
    until(lambda: key in hashings and not fetcher.active_workers())
    if rest:
        assert hashings[key].hashed == 0
        answer = reader.read(0, file.blob.size)
        assert isinstance(answer, bytes) or answer.result(SOON)
        until(lambda: store.state(file.blob) == "verified")
    else:
        until(lambda: hashings[key].hashed == BLOCK_SIZE)
    reader.close()
