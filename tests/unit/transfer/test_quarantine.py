"""Content that proved wrong: dropped, recorded, fetched once more, then refused for a time or until cleared."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from hffs.cache import BlobStore
from hffs.cache.integrity import mismatches
from hffs.errors import HffsError, IntegrityError
from hffs.model import RemoteFile
from hffs.policy import Priority
from hffs.policy.integrity_backoff import FIRST_PAUSE_S
from hffs.ranges import BLOCK_SIZE
from hffs.transfer import BlobReader, Fetcher
from tests.support.mismatch_records import recorded
from tests.support.waiting import SOON, read, until
from tests.unit.memory import MemorySource

SIZE = 3 * BLOCK_SIZE + 7
pytestmark = pytest.mark.allow_warnings("mismatch", "bad-content")


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def failure(reader: BlobReader, offset: int = 0, length: int = 1) -> HffsError:
    with pytest.raises(HffsError) as failed:
        read(reader, offset, length)
    return failed.value


def spoilt(source: MemorySource, file: RemoteFile, at: int = 5) -> bytes:
    """Flips one bit of what the source serves; returns the right bytes."""
    right = source.contents[file.path]
    source.contents[file.path] = right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :]
    return right


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [each.getMessage() for each in caplog.records if f"event={event} " in each.getMessage()]


def wrong_once(fetcher: Fetcher, source: MemorySource, file: RemoteFile, next_copy: bytes | None = None) -> BlobReader:
    """A reader of a file whose first copy was wrong and is dropped; the source holds the next one back."""
    dropped = threading.Event()

    def wrong(_: RemoteFile) -> None:
        if not dropped.is_set():
            source.gate.clear()
            source.contents[file.path] = next_copy or source.contents[file.path]
        dropped.set()

    fetcher.quarantine.on_mismatch = wrong
    reader = BlobReader(fetcher, file)
    reader.prefetch()
    assert dropped.wait(SOON)
    return reader


def refused(fetcher: Fetcher, file: RemoteFile) -> BlobReader:
    """A reader of a file of which two copies in a row were wrong."""
    reader = BlobReader(fetcher, file)
    reader.prefetch()
    until(lambda: reader.handle.refusal is not None)
    until(lambda: not fetcher.active_workers() and not reader.handle.holders)
    return reader


def test_a_wrong_copy_is_dropped_recorded_and_fetched_from_a_fresh_url(
    fetcher_of, source: MemorySource, store: BlobStore, caplog: pytest.LogCaptureFixture
) -> None:
    file = source.file("a.bin", SIZE)
    right = spoilt(source, file)
    fetcher: Fetcher = fetcher_of()
    reader = wrong_once(fetcher, source, file, right)
    assert source.forgotten == ["a.bin"]
    [found] = mismatches.current(store.layout)
    assert (found.path, found.expected, found.copies) == ("a.bin", file.blob.etag, 1)
    assert found.got != found.expected
    [line] = logged(caplog, "mismatch")
    assert f"path=a.bin etag={file.blob.etag} origin=http://hub expected={found.expected} got={found.got}" in line
    source.gate.set()
    until(lambda: store.state(file.blob) == "verified")
    assert read(reader, 0, SIZE) == right, "and without another request for it"
    assert sum(wanted.length for _, wanted in source.asked) == 2 * SIZE
    until(lambda: mismatches.current(store.layout) == [])
    assert len(recorded(store.layout)) == 1
    reader.close()


def test_two_wrong_copies_in_a_row_are_refused_and_not_fetched_again(
    fetcher_of, source: MemorySource, store: BlobStore, caplog: pytest.LogCaptureFixture
) -> None:
    file = source.file("a.bin", SIZE)
    spoilt(source, file)
    fetcher: Fetcher = fetcher_of()
    reader = refused(fetcher, file)
    asked = len(source.asked)
    for number in range(20):
        error = failure(reader, number)
        assert isinstance(error, IntegrityError)
        assert error.expected == file.blob.etag
    reader.prefetch()
    reader.close()
    again = BlobReader(fetcher, file)
    assert isinstance(failure(again), IntegrityError)
    again.close()
    assert len(source.asked) == asked
    assert sum(wanted.length for _, wanted in source.asked) == 2 * SIZE
    assert (len(logged(caplog, "mismatch")), len(logged(caplog, "bad-content"))) == (1, 1)
    assert store.state(file.blob) == "remote"
    assert fetcher.quarantine.mismatch(file.blob).copies == 2


def test_reads_that_wait_when_the_second_copy_is_wrong_fail_at_once(
    fetcher_of, source: MemorySource, store: BlobStore
) -> None:
    file = source.file("a.bin", SIZE)
    spoilt(source, file)
    fetcher: Fetcher = fetcher_of()
    reader = wrong_once(fetcher, source, file)
    source.gate.set()
    until(lambda: reader.handle.refusal is not None and store.local_bytes(file.blob) == 0)
    source.gate.clear()
    # A fetch that was running meanwhile: what it stores is neither served nor kept.
    refusal, reader.handle.refusal = reader.handle.refusal, None
    fetcher.quarantine.record.clear(file.blob, right=False, now=time.time())
    waits = reader.read(0, 5)
    assert not isinstance(waits, bytes)
    reader.handle.refusal = refusal
    fetcher._drop(reader.handle)
    source.gate.set()
    with pytest.raises(IntegrityError):
        waits.result(SOON)
    until(lambda: not fetcher.active_workers())
    until(lambda: store.local_bytes(file.blob) == 0)
    reader.close()


def test_another_process_refuses_the_content_too_until_the_pause_is_over(
    fetcher_of, source: MemorySource, store: BlobStore
) -> None:
    file = source.file("a.bin", SIZE)
    right = spoilt(source, file)
    refused(fetcher_of(), file).close()
    clock = Clock()
    later: Fetcher = fetcher_of(clock=clock)
    reader = BlobReader(later, file)
    asked = len(source.asked)
    clock.ahead = FIRST_PAUSE_S - 60
    error = failure(reader)
    assert isinstance(error, IntegrityError)
    assert "hffs verify --fix" in error.remedy
    assert len(source.asked) == asked
    source.contents["a.bin"] = right
    clock.ahead = FIRST_PAUSE_S + 60
    assert read(reader, 0, SIZE) == right
    until(lambda: store.state(file.blob) == "verified")
    until(lambda: later.quarantine.mismatch(file.blob) is None)
    reader.close()


def test_content_wrong_again_costs_one_copy_and_a_longer_pause(fetcher_of, source: MemorySource) -> None:
    file = source.file("a.bin", SIZE)
    spoilt(source, file)
    clock = Clock()
    fetcher: Fetcher = fetcher_of(clock=clock)
    reader = refused(fetcher, file)
    first = reader.handle.refusal
    clock.ahead = FIRST_PAUSE_S + 60
    reader.read(0, 1)
    reader.prefetch()
    until(lambda: reader.handle.refusal not in (None, first))
    assert sum(wanted.length for _, wanted in source.asked) == 3 * SIZE
    found = fetcher.quarantine.mismatch(file.blob)
    assert found.copies == 3
    clock.ahead += FIRST_PAUSE_S + 60
    assert isinstance(failure(reader), IntegrityError), "the second pause takes two hours"
    reader.close()


def test_clear_quarantine_makes_the_content_readable_at_once(
    fetcher_of, source: MemorySource, store: BlobStore
) -> None:
    file = source.file("a.bin", SIZE)
    right = spoilt(source, file)
    fetcher: Fetcher = fetcher_of()
    reader = refused(fetcher, file)
    source.contents["a.bin"] = right
    source.forgotten.clear()
    assert fetcher.clear_quarantine(file.blob)
    assert source.forgotten == ["a.bin"]
    assert read(reader, 0, SIZE) == right
    until(lambda: store.state(file.blob) == "verified")
    assert not fetcher.clear_quarantine(file.blob), "there is no record of it any more"
    reader.close()


def test_a_file_in_quarantine_keeps_no_other_from_being_read(fetcher_of, source: MemorySource) -> None:
    bad, good = source.file("bad.bin", SIZE, seed=1), source.file("good.bin", SIZE, seed=2)
    spoilt(source, bad)
    fetcher: Fetcher = fetcher_of()
    reader = refused(fetcher, bad)
    other = BlobReader(fetcher, good)
    assert read(other, 0, SIZE) == source.contents["good.bin"]
    for each in (reader, other):
        each.close()


def test_a_clock_set_back_does_not_refuse_content_for_years(fetcher_of, source: MemorySource) -> None:
    file = source.file("a.bin", SIZE)
    spoilt(source, file)
    clock = Clock()
    clock.ahead = 1e9
    refused(fetcher_of(clock=clock), file).close()
    clock.ahead = 0.0
    assert fetcher_of(clock=clock).quarantine.mismatch(file.blob) is None


def test_errors_are_one_line_each(fetcher_of, source: MemorySource, caplog: pytest.LogCaptureFixture) -> None:
    file = source.file("a.bin", SIZE)
    spoilt(source, file)
    refused(fetcher_of(), file).close()
    loud = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert len(loud) == 2
    assert all("\n" not in each for each in loud)


def test_a_read_waiting_for_refused_content_fails_though_no_byte_comes(fetcher_of, source: MemorySource) -> None:
    file = source.file("a.bin", SIZE)
    fetcher: Fetcher = fetcher_of(workers=1, fetch_size=BLOCK_SIZE)
    source.gate.clear()
    reader = BlobReader(fetcher, file)
    fetcher.want(reader.handle, range(1), Priority.DEMAND)
    assert source.arrived.acquire(timeout=SOON), "the only worker waits for a byte"
    waits = reader.read(2 * BLOCK_SIZE, 5)
    assert not isinstance(waits, bytes)
    for got in ("0" * 64, "1" * 64):  # as a verification on demand reports
        wrong = IntegrityError("wrong", expected=file.blob.etag, got=got)
        fetcher.quarantine.found_wrong(reader.handle, wrong, time.time())
    with pytest.raises(IntegrityError):
        waits.result(SOON)
    assert not any(fetcher._scheduler._queue.queued().values())
    source.gate.set()
    reader.close()
