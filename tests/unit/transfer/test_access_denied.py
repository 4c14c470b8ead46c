"""Access that a source denies: reads fail at once; background work waits where access was granted before."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from hffs.errors import AccessDenied, AccessLapsed, HffsError
from hffs.model import RemoteFile
from hffs.policy import Priority
from hffs.ranges import ByteRange
from hffs.transfer import BlobReader, Fetcher, Pending
from hffs.transfer.blob_handle import ContentRefusal
from tests.support.waiting import SOON, until
from tests.unit.memory import MemoryBody, MemorySource

MakeFetcher = Callable[..., Fetcher]


def read(reader: BlobReader) -> bytes:
    answer = reader.read(0, reader.size)
    return answer if isinstance(answer, bytes) else answer.result(SOON)


def test_a_denied_fetch_is_not_remembered_so_that_a_new_token_counts_at_once(
    fetcher_of: MakeFetcher, source: MemorySource
) -> None:
    file = source.file("a.bin", 10)
    source.failures = [AccessDenied("no"), AccessDenied("no")]
    reader = BlobReader(fetcher_of(), file, read_timeout=SOON)
    for _ in range(2):
        with pytest.raises(AccessDenied):
            read(reader)
    assert read(reader) == source.contents["a.bin"]
    reader.close()


def test_lapsed_access_pauses_background_work_until_it_is_back(fetcher_of: MakeFetcher, source: MemorySource) -> None:
    fetcher = fetcher_of(workers=1)
    files = [source.file(f"{n}.bin", 10, seed=n) for n in range(5)]
    source.failures = [AccessLapsed("the token has expired")]
    handles = [fetcher.attach(file) for file in files]
    reports: list[HffsError | None] = []
    for handle in handles:
        fetcher.watch(handle, reports.append)
        fetcher.want(handle, range(1), Priority.BACKGROUND)
    until(lambda: "the token has expired" in fetcher.worker_limit()[1] and not fetcher.active_workers())
    assert len(source.asked) == 1, "the other four wait too"
    assert reports == [], "nor are failures reported"
    fetcher.resume()
    until(lambda: all(handle.stored.complete for handle in handles))
    until(lambda: reports.count(None) >= 5)
    assert len(source.asked) == 6
    for handle in handles:
        fetcher.unwatch(handle, reports.append)
        fetcher.detach(handle)


def test_access_that_was_never_granted_fails_background_work(fetcher_of: MakeFetcher, source: MemorySource) -> None:
    fetcher = fetcher_of(workers=1)
    source.failures = [AccessDenied("gated")]
    handle = fetcher.attach(source.file("a.bin", 10))
    failed = threading.Event()
    reports: list[HffsError | None] = []
    fetcher.watch(handle, lambda error: (reports.append(error), failed.set()))  # type: ignore[func-returns-value]
    fetcher.want(handle, range(1), Priority.BACKGROUND)
    assert failed.wait(SOON)
    assert str(reports[0]) == "gated"
    fetcher.detach(handle)


def test_background_delay_holds_back_background_work_and_no_reader(
    fetcher_of: MakeFetcher, source: MemorySource
) -> None:
    waits: dict[str, float] = {"slow.bin": 300.0, "read.bin": 300.0, "free.bin": 0.0}
    paced: list[str] = []

    def pace(file: object) -> float:
        path = str(getattr(file, "path", ""))
        paced.append(path)
        return waits[path]

    fetcher = fetcher_of(workers=1, background_delay=pace)
    handles = {path: fetcher.attach(source.file(path, 10, seed=seed)) for seed, path in enumerate(waits)}
    for handle in handles.values():
        fetcher.want(handle, range(1), Priority.BACKGROUND)
    until(lambda: handles["free.bin"].stored.complete)
    until(lambda: set(paced) == set(waits) and not fetcher.active_workers())
    assert [path for path, _ in source.asked] == ["free.bin"]
    reader = BlobReader(fetcher, handles["read.bin"].file, read_timeout=SOON)
    assert read(reader) == source.contents["read.bin"], "at once, though it was delayed by five minutes"
    reader.close()
    assert [path for path, _ in source.asked] == ["free.bin", "read.bin"]
    for handle in handles.values():
        fetcher.detach(handle)


def test_a_reader_does_not_wait_for_a_delayed_background_fetch(fetcher_of: MakeFetcher, source: MemorySource) -> None:
    file = source.file("a.bin", 10)
    came: list[bytes | Pending] = []

    def pace(_: object) -> float:
        if not came:  # while the fetch is being delayed
            came.append(reader.read(0, 10))
        return 300.0

    fetcher = fetcher_of(workers=1, background_delay=pace)
    reader = BlobReader(fetcher, file, read_timeout=SOON)
    reader.prefetch()
    until(lambda: came)
    (answer,) = came
    assert not isinstance(answer, bytes)
    assert answer.result() == source.contents["a.bin"]
    reader.close()


def test_lapsed_access_does_not_requeue_content_in_quarantine(fetcher_of: MakeFetcher, source: MemorySource) -> None:
    fetcher = fetcher_of(workers=1)
    handle = fetcher.attach(source.file("a.bin", 10))

    source.failures = [AccessLapsed("the token has expired")]
    got = source.open_range

    def get(file: RemoteFile, wanted: ByteRange) -> MemoryBody:
        handle.refusal = ContentRefusal("wrong", "later", "aa", "bb")
        fetcher._drop(handle)
        return got(file, wanted)

    source.open_range = get  # type: ignore[method-assign]
    fetcher.want(handle, range(1), Priority.BACKGROUND)
    until(lambda: source.asked and not fetcher.active_workers())
    assert not fetcher.is_busy(handle), "no reader could use it"
    fetcher.detach(handle)
