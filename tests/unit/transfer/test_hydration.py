"""Files become wholly local, in order, each verified; whatever fails or is cancelled, the hydration ends."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hffs.cache import BlobStore, StoredBlob
from hffs.errors import (
    AccessDenied,
    BlockAbsent,
    CacheUnusable,
    EntryNotFound,
    HffsError,
    HubUnreachable,
    IntegrityError,
    NoSpace,
    NotFound,
)
from hffs.model import RemoteFile
from hffs.policy import ConcurrencyController, Priority
from hffs.ranges import BLOCK_SIZE, ByteRange
from hffs.transfer import BlobReader, Fetcher, HydrationProgress, Pending, Throttle
from hffs.transfer.hydrate import MOST_BIG, MOST_FAILURES, MOST_OPEN, _Work
from tests.support.hydrations import HydrationThread
from tests.support.profile import examples
from tests.support.waiting import SOON, until
from tests.unit.memory import MemoryBody, MemorySource

BIG = 4 * BLOCK_SIZE  # what counts as big in these tests
FRESH = itertools.count(1)


@dataclass
class Source(MemorySource):
    """``refusals`` by path are always raised; the first ``corruptions`` answers for a path are wrong in each byte."""

    refusals: dict[str, Exception] = field(default_factory=dict)
    corruptions: Counter[str] = field(default_factory=Counter)

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> MemoryBody:
        body = super().open_range(file, wanted)
        if file.path in self.refusals:
            raise self.refusals[file.path]
        if self.corruptions[file.path] > 0:
            self.corruptions[file.path] -= 1
            body.data = bytes(byte ^ 1 for byte in body.data)
        return body

    def files(self, *sizes: int) -> list[RemoteFile]:
        return [self.file(f"{number}.bin", size, seed=number + 1) for number, size in enumerate(sizes)]

    def bytes_asked(self) -> int:
        return sum(wanted.length for _, wanted in self.asked)


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.gate.set()


@pytest.fixture
def hydrate(store: BlobStore) -> Iterator[Callable[..., HydrationThread]]:
    """``hydrate(fetcher, files, …)`` starts a hydration, which is ended after the test."""
    made: list[HydrationThread] = []

    def make(fetcher: Fetcher, files: list[RemoteFile], **options: object) -> HydrationThread:
        hydration = HydrationThread(
            fetcher, lambda: [(file, store.local_bytes(file.blob)) for file in files], big_file=BIG, **options
        )  # type: ignore[arg-type]
        made.append(hydration)
        hydration.start()
        return hydration

    yield make
    for hydration in made:
        hydration.cancel()
        assert hydration.join(SOON)


def ended(hydration: HydrationThread) -> HydrationProgress:
    assert hydration.join(SOON), hydration.progress()
    return hydration.progress()


def nothing_left(fetcher: Fetcher) -> bool:
    return not fetcher._scheduler._handles and not fetcher._scheduler._queue._maps


def errors(snapshot: HydrationProgress) -> dict[str, HffsError | None]:
    return {part.file.path: part.error for part in snapshot.failed}


# What is fetched, and in which order.


def test_all_files_become_local_and_verified_small_ones_first(fetcher_of, source: Source, store, hydrate) -> None:
    sizes = [BIG + 5, 10, 3 * BLOCK_SIZE, 0, BIG, 1]
    files = source.files(*sizes)
    fetcher = fetcher_of(workers=1)
    hydration = hydrate(fetcher, files)
    now = ended(hydration)
    assert (now.state, now.files_done, now.files_total, now.error) == ("done", 6, 6, None)
    assert now.bytes_done == now.bytes_total == sum(sizes)
    assert (now.active, now.failed) == ([], [])
    report = hydration.report()
    assert (report["active"], report["eta_s"], report["bytes_per_s"]) == ([], None, 0.0)
    assert {store.state(file.blob) for file in files} == {"verified"}
    order = list(dict.fromkeys(path for path, _ in source.asked))
    assert order == ["5.bin", "1.bin", "2.bin", "0.bin", "4.bin"], "by size, and big ones in listing order"
    assert source.bytes_asked() == sum(sizes), "nothing twice"
    until(lambda: nothing_left(fetcher))


def test_local_bytes_are_not_fetched_and_begun_files_are_continued(
    fetcher_of, source: Source, store: BlobStore, hydrate
) -> None:
    whole, half = source.files(2 * BLOCK_SIZE, 6 * BLOCK_SIZE)
    fetcher = fetcher_of()
    for file, length in ((whole, whole.blob.size), (half, 3 * BLOCK_SIZE)):
        reader = BlobReader(fetcher, file)
        pending = reader.read(0, length)
        assert isinstance(pending, Pending)
        pending.result(SOON)
        reader.close()
    until(lambda: not fetcher.active_workers() and nothing_left(fetcher))
    begun = store.local_bytes(half.blob)
    source.asked.clear()
    now = ended(hydrate(fetcher, [whole, half]))
    assert now.state == "done"
    assert source.bytes_asked() == half.blob.size - begun
    source.asked.clear()
    assert ended(hydrate(fetcher, [whole, half])).bytes_done == 8 * BLOCK_SIZE
    assert source.asked == []


def test_a_bounded_number_of_files_is_open(fetcher_of, source: Source, hydrate, monkeypatch) -> None:
    files = source.files(*[BIG] * 5, *range(1, 2 * MOST_OPEN))
    most = most_big = 0
    plain = Fetcher.attach

    def attach(self: Fetcher, file: RemoteFile):
        nonlocal most, most_big
        handle = plain(self, file)
        most = max(most, len(self._scheduler._handles))
        most_big = max(most_big, sum(each.size >= BIG for each in self._scheduler._handles.values()))
        return handle

    monkeypatch.setattr(Fetcher, "attach", attach)
    source.gate.clear()
    hydration = hydrate(fetcher_of(), files)
    until(lambda: len(hydration.progress().active) == MOST_OPEN)
    source.gate.set()
    assert ended(hydration).state == "done"
    # One that has ended may still be held by a worker or by the hash worker.
    assert most <= MOST_OPEN + 4 + 1
    assert most_big <= MOST_BIG + 4 + 1


def test_big_files_are_fetched_by_as_many_workers_as_the_controller_allows(fetcher_of, source: Source, hydrate) -> None:
    controller = ConcurrencyController(most=1)
    fetcher = fetcher_of(workers=6, controller=controller)
    at_once = 0
    plain = source.open_range

    def get(file: RemoteFile, wanted: ByteRange) -> MemoryBody:
        nonlocal at_once
        at_once = max(at_once, sum(each.priority is Priority.BULK for each in fetcher.active_workers()))
        return plain(file, wanted)

    source.open_range = get  # type: ignore[method-assign]
    assert ended(hydrate(fetcher, source.files(40 * BLOCK_SIZE, 40 * BLOCK_SIZE, 7))).state == "done"
    assert at_once == 1


def test_a_file_without_a_digest_is_done_when_it_is_whole(
    fetcher_of, source: Source, store: BlobStore, hydrate
) -> None:
    file = source.file("a.bin", 3)
    file = replace(file, blob=replace(file.blob, digest=None))
    empty = source.file("b.bin", 0)
    empty = replace(empty, blob=replace(empty.blob, digest=None))
    assert ended(hydrate(fetcher_of(), [file, empty])).state == "done"
    assert store.state(file.blob) == "local"


def test_content_that_two_files_share_is_fetched_once(fetcher_of, source: Source, hydrate) -> None:
    one = source.file("a.bin", 2 * BLOCK_SIZE)
    now = ended(hydrate(fetcher_of(), [one, replace(one, path="b.bin")]))
    assert (now.state, now.files_done, now.bytes_done) == ("done", 2, 4 * BLOCK_SIZE)
    assert source.bytes_asked() == 2 * BLOCK_SIZE


def test_force_fetches_local_content_anew_and_each_once(fetcher_of, source: Source, store: BlobStore, hydrate) -> None:
    files = source.files(BLOCK_SIZE + 1, BIG)
    twin = replace(files[1], path="twin.bin")
    fetcher = fetcher_of()
    assert ended(hydrate(fetcher, files)).state == "done"
    source.asked.clear()
    now = ended(hydrate(fetcher, [*files, twin], force=True))
    assert (now.state, now.bytes_done) == ("done", BLOCK_SIZE + 1 + 2 * BIG)
    assert source.bytes_asked() == BLOCK_SIZE + 1 + BIG
    assert {store.state(file.blob) for file in files} == {"verified"}


def test_an_empty_plan_is_done_and_a_plan_that_raises_is_the_error(fetcher_of, source: Source, hydrate) -> None:
    now = ended(hydrate(fetcher_of(), []))
    assert (now.state, now.bytes_total, now.files_total) == ("done", 0, 0)

    def nothing() -> list[tuple[RemoteFile, int]]:
        raise NotFound("nothing fits")

    hydration = HydrationThread(fetcher_of(), nothing)
    hydration.start()
    now = ended(hydration)
    assert now.state == "failed"
    assert str(now.error) == "nothing fits"


def test_only_the_named_blocks_of_a_file_are_fetched(fetcher_of, source: Source, store, hydrate) -> None:
    partly, whole = source.files(9 * BLOCK_SIZE + 5, 2 * BLOCK_SIZE)
    hydration = hydrate(fetcher_of(), [partly, whole], only={partly: (range(1, 3), range(8, 10))})
    now = ended(hydration)
    sizes = {part.file.path: (part.size, part.local) for part in now.ended}
    assert (now.state, now.failed) == ("done", [])
    assert sizes == {"0.bin": (3 * BLOCK_SIZE + 5, 3 * BLOCK_SIZE + 5), "1.bin": (2 * BLOCK_SIZE, 2 * BLOCK_SIZE)}
    assert now.bytes_done == now.bytes_total == source.bytes_asked() == 5 * BLOCK_SIZE + 5
    assert store.local_bytes(partly.blob) == 3 * BLOCK_SIZE + 5
    assert (store.state(partly.blob), store.state(whole.blob)) == ("partial", "verified")


# Beside readers and other hydrations.


def test_two_hydrations_of_the_same_files_fetch_each_block_once(fetcher_of, source: Source, hydrate) -> None:
    files = source.files(3, BLOCK_SIZE, BIG, 3 * BIG + 1)
    fetcher = fetcher_of()
    source.gate.clear()
    first, second = hydrate(fetcher, files), hydrate(fetcher, [*files[1:], source.file("own.bin", 9, seed=99)])
    until(lambda: first.progress().active and second.progress().active)
    source.gate.set()
    assert [ended(each).state for each in (first, second)] == ["done", "done"]
    assert source.bytes_asked() == sum(file.blob.size for file in files) + 9
    until(lambda: nothing_left(fetcher))


def test_blocks_of_another_cancelled_hydration_are_wanted_again(fetcher_of, source: Source, hydrate) -> None:
    """Events of other files keep coming, each less than a second after the one before."""
    shared = source.file("shared.bin", 20 * BLOCK_SIZE)
    fetcher = fetcher_of(workers=1, fetch_size=BLOCK_SIZE)
    source.gate.clear()
    first, second = hydrate(fetcher, [shared]), hydrate(fetcher, [shared])
    until(lambda: first.progress().active and second.progress().active and fetcher.active_workers())
    first.cancel()
    assert ended(first).state == "cancelled"
    noise = threading.Event()
    ended_before = _Work(shared, 0)

    def hum() -> None:
        while not noise.wait(0.01):
            second.hydration._events.put((ended_before, None))

    listener = threading.Thread(target=hum)
    listener.start()
    try:
        source.gate.set()
        assert ended(second).state == "done"
    finally:
        noise.set()
        listener.join(SOON)


def test_a_file_that_a_reader_keeps_busy_is_hydrated(fetcher_of, source: Source, hydrate) -> None:
    """Its other blocks are wanted at once, though a reader's blocks are running and stay so."""
    file = source.file("a.bin", BIG + BLOCK_SIZE)
    fetcher = fetcher_of(workers=4, fetch_size=BLOCK_SIZE)
    held = threading.Event()
    plain = source.open_range

    def get(wanted_file: RemoteFile, wanted: ByteRange) -> MemoryBody:
        if wanted.start == 0:
            assert held.wait(SOON)
        return plain(wanted_file, wanted)

    source.open_range = get  # type: ignore[method-assign]
    reader = BlobReader(fetcher, file)
    pending = reader.read(0, 5)
    assert isinstance(pending, Pending)
    until(fetcher.active_workers)
    hydration = hydrate(fetcher, [file])
    until(lambda: hydration.progress().bytes_done == BIG)
    held.set()
    assert ended(hydration).state == "done"
    assert pending.result(SOON) == source.contents["a.bin"][:5]
    reader.close()


def test_a_failure_remembered_for_a_reader_is_retried_once_forgotten(
    fetcher_of, source: Source, hydrate, monkeypatch
) -> None:
    file = source.file("a.bin", 5)
    fetcher = fetcher_of()
    monkeypatch.setattr(fetcher._scheduler._queue, "_failure_seconds", 0.2)
    source.refusals["a.bin"] = EntryNotFound("not yet")
    reader = BlobReader(fetcher, file)
    pending = reader.read(0, 5)
    assert isinstance(pending, Pending)
    with pytest.raises(EntryNotFound):
        pending.result(SOON)
    source.refusals.clear()
    assert ended(hydrate(fetcher, [file])).state == "done"
    reader.close()


def test_a_waiting_reader_goes_before_a_hydration(fetcher_of, source: Source, hydrate) -> None:
    """Seen by the order of requests: the reader gets the only worker's next one."""
    big, wanted = source.files(60 * BLOCK_SIZE, 2 * BLOCK_SIZE)
    fetcher = fetcher_of(workers=1, fetch_size=BLOCK_SIZE)
    source.gate.clear()
    hydration = hydrate(fetcher, [big])
    assert source.arrived.acquire(timeout=SOON)
    reader = BlobReader(fetcher, wanted)
    pending = reader.read(0, 5)
    assert isinstance(pending, Pending)
    source.gate.set()
    assert pending.result(SOON) == source.contents["1.bin"][:5]
    assert [path for path, _ in source.asked][:2] == ["0.bin", "1.bin"]
    reader.close()
    assert ended(hydration).state == "done"


# Content that is wrong.


@pytest.mark.allow_warnings("mismatch")
@pytest.mark.parametrize("size", [5, BLOCK_SIZE + 1])
def test_content_that_was_wrong_once_is_fetched_once_more(
    fetcher_of, source: Source, store: BlobStore, hydrate, size: int
) -> None:
    bad, good = source.files(size, 7)
    source.corruptions["0.bin"] = 1
    now = ended(hydrate(fetcher_of(), [bad, good]))
    assert (now.state, now.failed) == ("done", [])
    assert store.state(bad.blob) == "verified"
    assert len([path for path, _ in source.asked if path == "0.bin"]) == 2


@pytest.mark.allow_warnings("mismatch")
def test_content_that_stays_wrong_fails_its_file_and_no_other(
    fetcher_of, source: Source, store: BlobStore, hydrate
) -> None:
    bad, *good = source.files(BLOCK_SIZE + 1, 7, BIG)
    source.corruptions["0.bin"] = 1000
    fetcher = fetcher_of()
    now = ended(hydrate(fetcher, [bad, *good]))
    assert (now.state, now.files_done) == ("failed", 2)
    assert {path: type(error) for path, error in errors(now).items()} == {"0.bin": IntegrityError}
    assert store.state(bad.blob) == "remote"
    assert {store.state(file.blob) for file in good} == {"verified"}
    assert len([path for path, _ in source.asked if path == "0.bin"]) == 2
    until(lambda: nothing_left(fetcher))


# A source that serves nothing.


@pytest.mark.allow_warnings("failures are logged")
def test_a_file_that_cannot_be_fetched_fails_no_other(fetcher_of, source: Source, hydrate) -> None:
    files = source.files(*range(1, 3 * MOST_FAILURES), BIG)
    source.refusals["3.bin"] = EntryNotFound("missing")
    source.refusals[files[-1].path] = HubUnreachable("silent")
    now = ended(hydrate(fetcher_of(), files))
    assert (now.state, now.files_done) == ("failed", len(files) - 2)
    assert {path: type(error) for path, error in errors(now).items()} == {
        "3.bin": EntryNotFound,
        files[-1].path: HubUnreachable,
    }


@pytest.mark.allow_warnings("failures are logged")
def test_a_source_that_serves_nothing_is_asked_for_few_files(fetcher_of, source: Source, hydrate) -> None:
    files = source.files(*range(1, 4 * MOST_OPEN))
    source.refusals = {file.path: HubUnreachable("away") for file in files}
    fetcher = fetcher_of()
    now = ended(hydrate(fetcher, files))
    assert (now.state, now.files_done) == ("failed", 0)
    assert {type(error) for error in errors(now).values()} == {HubUnreachable}
    assert MOST_FAILURES <= len(now.failed) <= MOST_OPEN + MOST_FAILURES
    until(lambda: nothing_left(fetcher))


@pytest.mark.allow_warnings("failures are logged")
@pytest.mark.parametrize("refusal", [AccessDenied("gated"), CacheUnusable("the cache is unusable")])
def test_an_error_that_all_files_would_meet_ends_the_hydration(
    fetcher_of, source: Source, hydrate, refusal: HffsError
) -> None:
    files = source.files(*range(1, 4 * MOST_OPEN))
    source.refusals["0.bin"] = refusal
    fetcher = fetcher_of(workers=1)
    now = ended(hydrate(fetcher, files))
    assert now.state == "failed"
    assert errors(now) == {"0.bin": refusal}
    assert now.files_done < MOST_OPEN
    assert len(source.asked) <= MOST_OPEN
    until(lambda: nothing_left(fetcher))


# A disk that stores nothing.


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The disk takes nothing while this is set."""
    is_full = threading.Event()
    is_full.set()
    plain = StoredBlob.publish

    def publish(self: StoredBlob, claim, block: int, data) -> None:
        if is_full.is_set():
            raise NoSpace("no room")
        plain(self, claim, block, data)

    monkeypatch.setattr(StoredBlob, "publish", publish)
    return is_full


@pytest.mark.allow_warnings("failures are logged")
def test_a_full_disk_ends_a_hydration_without_repeated_fetches(
    fetcher_of, source: Source, hydrate, full: threading.Event
) -> None:
    files = source.files(*range(1, MOST_OPEN), 2 * BIG, 3 * BIG)
    fetcher = fetcher_of()
    now = ended(hydrate(fetcher, files))
    assert now.state == "failed"
    assert {type(error) for error in errors(now).values()} == {NoSpace}
    asked = Counter((path, each.start) for path, each in source.asked)
    assert max(asked.values()) == 1
    until(lambda: nothing_left(fetcher))


def test_a_disk_that_was_full_before_is_tried_again(fetcher_of, source: Source, hydrate, full: threading.Event) -> None:
    read, *files = source.files(5, 6, BIG)
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, read)
    pending = reader.read(0, 5)
    assert isinstance(pending, Pending)
    assert pending.result(SOON) == source.contents["0.bin"]
    assert fetcher.store_error is not None
    full.clear()
    assert ended(hydrate(fetcher, [read, *files])).state == "done"
    assert fetcher.store_error is None
    reader.close()


# Exports.


def test_each_file_is_exported_verified_before_it_counts_as_done(fetcher_of, source: Source, hydrate) -> None:
    files = source.files(0, 5, BIG)
    exported: list[tuple[str, bool]] = []
    hydration: list[HydrationThread] = []

    def export(file: RemoteFile, stored: StoredBlob) -> None:
        assert file.path not in [part.file.path for part in hydration[0].progress().ended]
        exported.append((file.path, stored.verified))

    source.gate.clear()
    hydration.append(hydrate(fetcher_of(), files[1:], export_file=export))
    source.gate.set()
    assert ended(hydration[0]).state == "done"
    assert sorted(exported) == [("1.bin", True), ("2.bin", True)]


def test_a_file_found_damaged_while_exported_is_fetched_again(fetcher_of, source: Source, hydrate) -> None:
    file = source.file("a.bin", 3 * BLOCK_SIZE)
    tries = []

    def export(_: RemoteFile, stored: StoredBlob) -> None:
        tries.append(stored.verified)
        if len(tries) == 1:
            stored.discard(range(1, 2))
            raise BlockAbsent("block 1 is damaged")

    assert ended(hydrate(fetcher_of(), [file], export_file=export)).state == "done"
    assert tries == [True, True]
    assert source.bytes_asked() == 4 * BLOCK_SIZE


@pytest.mark.allow_warnings("failures are logged")
@pytest.mark.parametrize(("error", "most"), [(CacheUnusable("not writable"), MOST_FAILURES), (NoSpace("full"), 1)])
def test_a_folder_that_takes_no_file_ends_the_hydration_one_bad_name_does_not(
    fetcher_of, source: Source, hydrate, error: HffsError, most: int
) -> None:
    def export(file: RemoteFile, _: StoredBlob) -> None:
        if file.path in refused:
            raise error

    files = source.files(*range(1, 3 * MOST_OPEN))
    refused = {file.path for file in files}
    now = ended(hydrate(fetcher_of(), files, export_file=export))
    assert now.state == "failed"
    assert most <= len(now.failed) <= MOST_OPEN + most
    if most > 1:
        refused = {"5.bin"}
        now = ended(hydrate(fetcher_of(), files, export_file=export))
        assert errors(now) == {"5.bin": error}
        assert now.files_done == len(files) - 1


# The end of a hydration.


@pytest.mark.parametrize("while_it", ["is silent", "is throttled", "lists", "waits for a retry"])
def test_a_cancelled_hydration_ends_at_once_and_keeps_what_came(
    fetcher_of, source: Source, store: BlobStore, hydrate, while_it: str
) -> None:
    first, *rest = source.files(1, BIG, BIG, 8 * BIG)
    throttle = Throttle()
    fetcher = fetcher_of(throttle=throttle, controller=ConcurrencyController(most=2))
    assert ended(hydrate(fetcher, [first])).state == "done"
    listing, go_on = threading.Event(), threading.Event()
    if while_it == "is throttled":
        throttle.set_rate(1)
    elif while_it == "waits for a retry":
        source.refusals = {file.path: HubUnreachable("away", retry_after=300.0) for file in rest}
    elif while_it == "is silent":
        source.gate.clear()
    if while_it == "lists":

        def plan() -> Iterator[tuple[RemoteFile, int]]:
            yield first, 1
            listing.set()
            assert go_on.wait(SOON)
            for file in rest:
                yield file, 0

        hydration = HydrationThread(fetcher, plan)
        hydration.start()
        assert listing.wait(SOON)
    else:
        hydration = hydrate(fetcher, [first, *rest])
        until(lambda: len(source.asked) > 1)
    hydration.cancel()
    go_on.set()
    now = ended(hydration)
    assert now.state == "cancelled"
    assert now.failed == []
    assert store.state(first.blob) == "verified"
    throttle.set_rate(None)
    source.refusals.clear()
    source.gate.set()
    until(lambda: not fetcher.active_workers())
    until(lambda: not any(handle.watchers for handle in fetcher._scheduler.handles()))
    asked = len(source.asked)
    assert not any(fetcher._scheduler._queue.queued().values())
    assert len(source.asked) == asked, "nothing more of it is fetched"


@pytest.mark.allow_warnings("the end of the fetcher")
@pytest.mark.parametrize("silent", [True, False])
def test_a_hydration_ends_with_its_fetcher(fetcher_of, source: Source, hydrate, silent: bool) -> None:
    fetcher = fetcher_of(workers=3)
    if silent:
        source.gate.clear()
    hydration = hydrate(fetcher, source.files(*range(1, 500), 40 * BIG))
    until(lambda: source.asked)
    stopper = threading.Thread(target=fetcher.stop, args=(1.0,))
    stopper.start()
    until(lambda: fetcher.stopped)
    source.gate.set()
    stopper.join(SOON)
    assert ended(hydration).state in ("cancelled", "failed")
    assert hydration.progress().active == []


@pytest.mark.allow_warnings("the bug is logged")
def test_an_unexpected_error_fails_the_hydration(fetcher_of, source: Source, hydrate, monkeypatch) -> None:
    def broken(self: Fetcher, *_: object) -> None:
        raise MemoryError

    over = threading.Event()
    monkeypatch.setattr(Fetcher, "want", broken)
    now = ended(hydrate(fetcher_of(), source.files(5), ended=over.set))
    assert now.state == "failed"
    assert "MemoryError" in str(now.error)
    assert over.is_set()


# Progress.


def test_progress_grows_and_adds_up_on_any_thread(fetcher_of, source: Source, hydrate, monkeypatch) -> None:
    monkeypatch.setattr("hffs.transfer.hydrate.LOOK_SECONDS", 0.005)
    files = source.files(*[number * 977 % (2 * BLOCK_SIZE) for number in range(1, 120)], *[3 * BIG] * 4)
    hydration = hydrate(fetcher_of(workers=8, fetch_size=BLOCK_SIZE), files)
    wrong: list[BaseException] = []
    never = threading.Event()

    def look() -> None:
        try:
            before = hydration.progress()
            while before.state == "running":
                never.wait(0.001)  # else two observers keep the interpreter's lock from the workers
                now = hydration.progress()
                assert before.bytes_done <= now.bytes_done
                assert before.bytes_total in (0, now.bytes_total)
                assert before.files_done <= now.files_done <= now.files_total or not now.files_total
                assert now.ended[: len(before.ended)] == before.ended
                assert all(part.state == "done" and part.local == part.size for part in now.ended)
                assert all(part.state in ("waiting", "fetching", "verifying") for part in now.active)
                assert not {part.file.path for part in now.active} & {part.file.path for part in now.ended}
                assert now.bytes_done <= now.bytes_total
                assert now.eta_s is None or now.eta_s >= 0
                before = now
        except BaseException as error:
            wrong.append(error)

    observers = [threading.Thread(target=look) for _ in range(2)]
    for looker in observers:
        looker.start()
    now = ended(hydration)
    for looker in observers:
        looker.join(SOON)
    assert wrong == []
    assert now.state == "done"
    assert now.bytes_done == now.bytes_total == sum(file.blob.size for file in files)


# At least 8 bytes: all examples share one store, and two files of one byte have the same content in some runs, so that
# a file whose fetch is refused is served from the other one.
@pytest.mark.allow_warnings("failures are logged")
@given(
    sizes=st.lists(st.sampled_from([0, 8, BLOCK_SIZE - 1, BLOCK_SIZE, 3 * BLOCK_SIZE + 7, BIG, BIG + 1]), max_size=12),
    absent=st.sets(st.integers(0, 11)),
    local=st.sets(st.integers(0, 11)),
)
@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_totals_are_those_of_the_files_for_any_plan(
    fetcher_of, source: Source, store: BlobStore, hydrate, sizes: list[int], absent: set[int], local: set[int]
) -> None:
    salt = 100 * next(FRESH)  # all examples share the store: none may use another's content
    source.contents.clear()
    source.refusals.clear()
    files = [source.file(f"{salt}-{n}", size, seed=salt + n) for n, size in enumerate(sizes)]
    fetcher = fetcher_of()
    ready = [file for number, file in enumerate(files) if number in local]
    assert ended(hydrate(fetcher, ready)).state == "done"
    lost = {file.path for number, file in enumerate(files) if number in absent and file not in ready and file.blob.size}
    lost -= {file.path for file in files if file.blob.etag in {each.blob.etag for each in ready}}
    source.refusals = {path: EntryNotFound("missing") for path in lost}
    now = ended(hydrate(fetcher, files))
    assert set(errors(now)) == lost
    assert now.state == ("failed" if lost else "done")
    assert now.files_done == len(files) - len(lost)
    assert now.bytes_done == sum(file.blob.size for file in files if file.path not in lost)
    for file in files:
        if file.path not in lost:
            assert store.state(file.blob) == "verified"
    with suppress(HffsError):
        fetcher.stop()


def test_hydrated_content_is_the_source_s(fetcher_of, source: Source, store: BlobStore, hydrate) -> None:
    files = source.files(5, 3 * BLOCK_SIZE + 1, 7 * BIG)
    assert ended(hydrate(fetcher_of(workers=8, fetch_size=BLOCK_SIZE), files)).state == "done"
    for file in files:
        stored = store.open(file.blob)
        data = stored.read(0, file.blob.size)
        stored.close()
        assert hashlib.sha256(data).hexdigest() == file.blob.etag
