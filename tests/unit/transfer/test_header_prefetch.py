"""Plans are made beside the reads, from local bytes, once for all readers of a blob."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hffs.cache import BlobStore, StoredBlob
from hffs.errors import BlockAbsent, NoSpace
from hffs.formats import ReadPlan, format_of
from hffs.model import Digest, RemoteFile
from hffs.ranges import BLOCK_SIZE, ByteRange, span_of
from hffs.transfer import BlobReader, CommitFiles
from hffs.transfer.header_prefetch import MOST_PLANS, MOST_WAITING, HeaderLookup, HeaderPrefetch
from tests.support.waiting import read, until

TENSORS = 8
TENSOR = 3 * BLOCK_SIZE


@pytest.fixture
def header_prefetch() -> Iterator[HeaderPrefetch]:
    header_prefetch = HeaderPrefetch()
    yield header_prefetch
    header_prefetch.stop()


def weights(source, path: str = "model.safetensors", header: int = 4096, seed: int = 1) -> RemoteFile:
    """A safetensors file whose header takes that many bytes, its length included."""
    file = source.file(path, header + TENSORS * TENSOR, seed)
    members = {f"t{n}": {"data_offsets": [n * TENSOR, (n + 1) * TENSOR]} for n in range(TENSORS)}
    text = json.dumps(members).encode().ljust(header - 8)
    whole = source.contents[path] = struct.pack("<Q", len(text)) + text + source.contents[path][header:]
    digest = hashlib.sha256(whole).hexdigest()
    return replace(file, blob=replace(file.blob, etag=digest, digest=Digest("sha256", digest)))


def plan_of(header: int = 4096) -> ReadPlan:
    return ReadPlan(header + TENSORS * TENSOR, [header + n * TENSOR for n in range(TENSORS)], range(TENSORS))


def learns(reader: BlobReader, header_prefetch: HeaderPrefetch) -> HeaderLookup:
    """Reads the first bytes until the lookup is done and the reader has its plan."""
    lookup = header_prefetch.lookup(reader.handle)
    assert lookup is not None
    until(lambda: read(reader, 0, 8) and lookup.done)
    read(reader, 0, 8)
    return lookup


def asked_blocks(source, path: str) -> set[int]:
    return {
        block
        for name, asked in source.asked
        if name == path
        for block in range(asked.start // BLOCK_SIZE, -(-asked.stop // BLOCK_SIZE))
    }


def test_opening_fetches_nothing_and_the_first_read_fetches_the_header(fetcher_of, source, header_prefetch) -> None:
    file = weights(source)
    reader = BlobReader(fetcher_of(), file, header_prefetch=header_prefetch)
    assert source.asked == []
    spot = 20 * BLOCK_SIZE
    assert read(reader, spot, 10) == source.contents[file.path][spot : spot + 10]
    until(lambda: asked_blocks(source, file.path) == {0, 20})
    reader.close()


def test_a_plan_is_made_of_a_header_longer_than_the_blocks_read(fetcher_of, source, header_prefetch) -> None:
    header = 5 * BLOCK_SIZE - 100
    file = weights(source, header=header)
    reader = BlobReader(fetcher_of(), file, header_prefetch=header_prefetch)
    assert learns(reader, header_prefetch).plan == plan_of(header)
    assert reader._cursors.plan == plan_of(header)
    assert asked_blocks(source, file.path) == set(range(5))
    reader.close()


def test_one_plan_serves_all_readers_and_later_ones_after_one_read(fetcher_of, source, header_prefetch) -> None:
    file = weights(source)
    fetcher = fetcher_of()
    first = BlobReader(fetcher, file, header_prefetch=header_prefetch)
    learns(first, header_prefetch)
    first.close()
    second = BlobReader(fetcher, file, header_prefetch=header_prefetch)
    read(second, 10 * BLOCK_SIZE, 10)
    assert second._cursors.plan is not None
    assert second._cursors.plan is first._cursors.plan
    second.close()


def test_a_file_without_a_plan_is_parsed_once(fetcher_of, source, header_prefetch) -> None:
    file = source.file("model.safetensors", 4 * BLOCK_SIZE)
    reader = BlobReader(fetcher_of(), file, header_prefetch=header_prefetch)
    assert learns(reader, header_prefetch).plan is None
    assert reader._cursors.plan is None
    assert reader._lookup is None
    reader.close()


def test_files_of_other_formats_start_no_thread_and_fetch_no_header(fetcher_of, source, header_prefetch) -> None:
    file = source.file("vocab.txt", 4 * BLOCK_SIZE)
    reader = BlobReader(fetcher_of(), file, header_prefetch=header_prefetch)
    read(reader, 2 * BLOCK_SIZE, 10)
    assert asked_blocks(source, file.path) == {2}
    assert header_prefetch.lookup(reader.handle) is None
    assert header_prefetch._thread is None
    reader.close()


def test_the_first_read_fetches_the_tail_of_a_parquet_and_not_of_a_bin_file(
    fetcher_of, source, header_prefetch
) -> None:
    fetcher = fetcher_of()
    for seed, path in enumerate(("rows.parquet", "some.bin")):
        reader = BlobReader(fetcher, source.file(path, 40 * BLOCK_SIZE, seed), header_prefetch=header_prefetch)
        read(reader, 0, 10)
        read(reader, 20 * BLOCK_SIZE, 10)
        reader.close()
    until(lambda: asked_blocks(source, "rows.parquet") == {0, 20, 39})
    assert asked_blocks(source, "some.bin") == {0, 20}


def slow(lookup: HeaderLookup, inside: threading.Event, go: threading.Event) -> None:
    """Parsing takes until ``go``."""
    found = lookup.format

    def learn(size: int, seen: ByteRange, data: bytes):
        inside.set()
        assert go.wait(10)
        return found.learn(size, seen, data)

    lookup.format = replace(found, learn=learn)


def test_no_read_waits_for_a_plan_whose_parse_holds_the_file_open(fetcher_of, source, header_prefetch) -> None:
    file = weights(source)
    fetcher = fetcher_of()
    inside, go = threading.Event(), threading.Event()
    reader = BlobReader(fetcher, file, header_prefetch=header_prefetch)
    lookup = header_prefetch.lookup(reader.handle)
    assert lookup is not None
    slow(lookup, inside, go)
    read(reader, 0, 8)
    read(reader, 0, 8)
    assert inside.wait(10)
    whole = source.contents[file.path]
    assert read(reader, 0, len(whole)) == whole
    assert reader._cursors.plan is None
    reader.close()
    assert fetcher._scheduler._handles, "its bytes are being parsed"
    go.set()
    until(lambda: lookup.done and not fetcher._scheduler._handles)
    assert lookup.plan == plan_of()


@pytest.mark.allow_warnings("plan-bug")
def test_a_parser_that_fails_costs_only_its_own_file_the_plan(fetcher_of, source, header_prefetch, caplog) -> None:
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, weights(source), header_prefetch=header_prefetch)
    lookup = header_prefetch.lookup(reader.handle)
    assert lookup is not None
    lookup.format = replace(lookup.format, learn=lambda *_: 1 // 0)  # type: ignore[arg-type,return-value]
    assert learns(reader, header_prefetch).plan is None
    until(lambda: "plan-bug" in caplog.text)
    reader.close()
    other = BlobReader(fetcher, weights(source, "other.safetensors", seed=2), header_prefetch=header_prefetch)
    assert learns(other, header_prefetch).plan == plan_of()
    other.close()


def test_a_header_evicted_before_it_is_parsed_is_fetched_again(
    fetcher_of, source, header_prefetch, monkeypatch
) -> None:
    file = weights(source)
    reader = BlobReader(fetcher_of(), file, header_prefetch=header_prefetch)
    read(reader, 0, 8)
    plain, lost = StoredBlob.read, threading.Event()

    def vanishing(self, offset: int, length: int) -> bytes:
        if threading.current_thread().name == "hffs-plan" and not lost.is_set():
            self.discard(range(1))
            lost.set()
            raise BlockAbsent("evicted")
        return plain(self, offset, length)

    monkeypatch.setattr(StoredBlob, "read", vanishing)
    assert learns(reader, header_prefetch).plan == plan_of()
    assert [asked.start for _, asked in source.asked].count(0) == 2
    reader.close()


def test_stopping_ends_the_thread_and_releases_waiting_readers(fetcher_of, source) -> None:
    header_prefetch = HeaderPrefetch()
    fetcher = fetcher_of()
    inside, go = threading.Event(), threading.Event()
    readers = [
        BlobReader(fetcher, weights(source, f"{n}.safetensors", seed=n), header_prefetch=header_prefetch)
        for n in range(3)
    ]
    lookup = header_prefetch.lookup(readers[0].handle)
    assert lookup is not None
    slow(lookup, inside, go)
    for reader in readers:
        read(reader, 0, 8)
        read(reader, 0, 8)
    assert inside.wait(10)
    assert len(header_prefetch._waiting) == 2
    for reader in readers:
        reader.close()
    stopper = threading.Thread(target=header_prefetch.stop)
    stopper.start()
    until(lambda: len(fetcher._scheduler._handles) == 1)
    go.set()
    stopper.join(10)
    assert not stopper.is_alive()
    assert header_prefetch._thread is not None
    assert not header_prefetch._thread.is_alive()
    until(lambda: not fetcher._scheduler._handles)
    late = BlobReader(fetcher, weights(source, "late.safetensors", seed=9), header_prefetch=header_prefetch)
    for _ in range(3):
        read(late, 0, 8)
    assert late._lookup is not None
    assert not late._lookup.queued
    late.close()
    header_prefetch.stop()


class Held:
    """As much of a reader as HeaderPrefetch needs; counts its holders."""

    def __init__(self, handle) -> None:
        self.handle = handle
        self.held = 0

    def want_ahead(self, asked: ByteRange) -> None:
        assert not self.handle.missing(span_of(asked)), "all is local"

    def hold(self) -> None:
        self.held += 1

    def release(self) -> None:
        self.held -= 1


def test_a_bounded_number_of_files_waits_to_be_parsed(fetcher_of, source, header_prefetch) -> None:
    file = weights(source)
    opened = BlobReader(fetcher_of(), file)
    read(opened, 0, 8)
    reader = Held(opened.handle)
    found = format_of(file.path, opened.size)
    assert found is not None
    inside, go = threading.Event(), threading.Event()
    lookups = [HeaderLookup(found, opened.size) for _ in range(MOST_WAITING + 3)]
    slow(lookups[0], inside, go)
    header_prefetch.submit(lookups[0], reader)
    assert inside.wait(10)
    for lookup in lookups:
        header_prefetch.submit(lookup, reader)
    assert [lookup.queued for lookup in lookups] == [True] * (MOST_WAITING + 1) + [False] * 2
    go.set()
    until(lambda: not reader.held)
    for lookup in lookups:
        header_prefetch.submit(lookup, reader)
    until(lambda: all(lookup.done for lookup in lookups))
    opened.close()


def test_plans_of_the_last_files_are_kept(fetcher_of, source, header_prefetch) -> None:
    fetcher = fetcher_of()
    readers = [BlobReader(fetcher, source.file(f"{n}.gguf", 100, seed=n)) for n in range(MOST_PLANS + 1)]
    lookups = [header_prefetch.lookup(reader.handle) for reader in readers[:MOST_PLANS]]
    assert header_prefetch.lookup(readers[0].handle) is lookups[0]
    header_prefetch.lookup(readers[MOST_PLANS].handle)
    assert header_prefetch.lookup(readers[0].handle) is lookups[0]
    assert header_prefetch.lookup(readers[1].handle) is not lookups[1]
    for reader in readers:
        reader.close()


# the whole of a file that was read


def content_of(filesystem_of, prefetch: str) -> CommitFiles:
    made = filesystem_of({"big.dat": 50 * BLOCK_SIZE, "other.dat": BLOCK_SIZE}).view.snapshot.files
    return CommitFiles(made.listings, made._store, made._fetcher, read_timeout=10, prefetch=prefetch)


@pytest.mark.parametrize(("prefetch", "all_of_it"), [("all", True), ("small", False), ("none", False)])
def test_with_prefetch_all_the_first_read_fetches_the_rest_of_the_file(
    filesystem_of, source, store: BlobStore, prefetch: str, all_of_it: bool
) -> None:
    content = content_of(filesystem_of, prefetch)
    entry = content.entry("big.dat")
    reader = content.open(entry)
    assert source.asked == []
    read(reader, 30 * BLOCK_SIZE, 10)
    reader.close()
    if all_of_it:
        until(lambda: content.local_bytes(entry) == entry.size)
        rest = [asked.start for _, asked in source.asked if asked.start != 30 * BLOCK_SIZE]
        moved = [abs(sorted(rest).index(start) - place) for place, start in enumerate(rest)]
        assert max(moved) < 4, "in file order, but for the races of four workers"
    else:
        until(lambda: not content._fetcher._scheduler._handles)
        assert content.local_bytes(entry) == BLOCK_SIZE
    assert {path for path, _ in source.asked} == {"big.dat"}
    content.close()


def test_nothing_is_prefetched_that_cannot_be_kept(filesystem_of, source, monkeypatch) -> None:
    def full(self, claim, block, data):
        raise NoSpace("no room")

    monkeypatch.setattr(StoredBlob, "publish", full)
    content = content_of(filesystem_of, "all")
    other = content.open(content.entry("other.dat"))
    read(other, 0, 10)
    assert content._fetcher.degraded
    reader = content.open(content.entry("big.dat"))
    read(reader, 0, 10)
    until(lambda: not content._fetcher._scheduler._queue.busy(reader.handle.key))
    assert asked_blocks(source, "big.dat") == {0}
    reader.close()
    other.close()
    content.close()


def test_commit_files_make_plans_and_end_their_thread(filesystem_of, source) -> None:
    filesystem = filesystem_of({"model.safetensors": 5 * BLOCK_SIZE})
    content = filesystem.view.snapshot.files
    reader = content.open(content.entry("model.safetensors"))
    assert learns(reader, content._header_prefetch).plan is None
    reader.close()
    content.close()
    content.close()
