"""Listings: which requests they make, and how often. The source is a small one in memory that counts its calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hffs.cache import Index
from hffs.errors import EntryNotFound, HubUnreachable
from hffs.model import Entry
from hffs.transfer import Listings, cached_files
from hffs.transfer.listings import RENEWED_SECONDS
from tests.unit.memory import COMMIT, MemoryCatalog


def listings_of(catalog: MemoryCatalog, index: Index, root: str = "") -> Listings:
    listings = Listings(catalog, index, COMMIT, root=root, timeout=10)
    listings.load()
    return listings


def test_a_small_repo_costs_one_request_ever(index: Index) -> None:
    catalog = MemoryCatalog({"a.txt": 1, "deep/er/b.txt": 2})
    listings = listings_of(catalog, index)
    assert listings.complete
    assert set(listings.directory("")) == {"a.txt", "deep"}
    assert set(listings.directory("deep")) == {"er"}
    assert listings.entry("deep/er/b.txt").size == 2
    with pytest.raises(EntryNotFound):
        listings.entry("deep/none")
    with pytest.raises(EntryNotFound):
        listings.directory("nowhere")
    assert catalog.calls == ["tree "]


def test_a_commit_listed_once_is_never_requested_again(index: Index) -> None:
    listings_of(MemoryCatalog({"a.txt": 1}), index)
    again = MemoryCatalog({})
    assert listings_of(again, index).entry("a.txt").size == 1
    assert again.calls == []


def test_a_damaged_index_row_is_requested_anew(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    first = listings_of(MemoryCatalog({"a.txt": 1}), index)
    index.set(first._stored.key("all", ""), '[{"not": "rows"}]')
    with caplog.at_level("CRITICAL", logger="hffs"):
        assert listings_of(MemoryCatalog({"b.txt": 1}), index).entry("b.txt").size == 1


def test_a_big_repo_is_listed_directory_by_directory_as_opened(index: Index) -> None:
    files: dict[str, int | None] = {f"d{number}/f{file}": 1 for number in range(5) for file in range(5)}
    catalog = MemoryCatalog(files, page=10)
    listings = listings_of(catalog, index)
    assert not listings.complete
    assert set(listings.directory("")) == {f"d{number}" for number in range(5)}
    assert set(listings.directory("d4")) == {f"f{file}" for file in range(5)}
    listings.directory("d4")
    assert catalog.calls == ["tree ", "dir ", "dir d4"]


def test_the_first_page_of_a_big_repo_is_not_requested_again(index: Index) -> None:
    files: dict[str, int | None] = {f"d{number}/f{file}": 1 for number in range(5) for file in range(5)}
    listings_of(MemoryCatalog(files, page=10), index).directory("")
    again = MemoryCatalog(files, page=10)
    listings = listings_of(again, index)
    assert set(listings.directory("")) == {f"d{number}" for number in range(5)}
    assert set(listings.directory("d4")) == {f"f{file}" for file in range(5)}
    assert again.calls == ["dir d4"]


def test_a_flat_repo_of_many_files_costs_its_pages_only(index: Index) -> None:
    catalog = MemoryCatalog({f"f{number:03}": 1 for number in range(50)}, page=10)
    listings = listings_of(catalog, index)
    assert len(listings.directory("")) == 50
    assert listings.complete
    assert catalog.calls == ["tree "]  # the iterator requests the other pages


def test_a_name_in_an_unlisted_directory_is_looked_up_alone_and_remembered(index: Index) -> None:
    files: dict[str, int | None] = {f"d{number}/f{file}": 1 for number in range(5) for file in range(5)}
    catalog = MemoryCatalog(files, page=10)
    listings = listings_of(catalog, index)
    for _ in range(3):
        assert listings.entry("d3/f1").size == 1
        with pytest.raises(EntryNotFound):
            listings.entry("d3/none")
    assert catalog.calls == ["tree ", "lookup ['d3/f1']", "lookup ['d3/none']"]


def test_simultaneous_listings_share_one_request(index: Index) -> None:
    catalog = MemoryCatalog({f"d{number}/f": 1 for number in range(20)}, page=5)
    listings = listings_of(catalog, index)
    catalog.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(listings.directory, "d7") for _ in range(8)]
        catalog.gate.set()
        assert all(set(answer.result(10)) == {"f"} for answer in answers)
    assert catalog.calls.count("dir d7") == 1


def test_a_failed_listing_raises_and_the_next_requests_again(index: Index) -> None:
    catalog = MemoryCatalog({f"d{number}/f": 1 for number in range(20)}, page=5)
    listings = listings_of(catalog, index)
    catalog.fail = True
    with pytest.raises(HubUnreachable):
        listings.directory("d1")
    catalog.fail = False
    assert set(listings.directory("d1")) == {"f"}


def test_a_size_that_the_listing_lacks_is_requested_once(index: Index) -> None:
    catalog = MemoryCatalog({"a": None, "b": 3})
    listings = listings_of(catalog, index)
    for _ in range(2):
        assert listings.sized(listings.entry("a")).size == 7
    assert listings.sized(listings.entry("b")).size == 3
    assert catalog.calls == ["tree ", "head a"]
    fresh = MemoryCatalog({"a": None})
    again = listings_of(fresh, index)
    assert again.sized(again.entry("a")).size == 7
    assert fresh.calls == []


def test_only_the_subfolder_is_listed(index: Index) -> None:
    catalog = MemoryCatalog({"onnx/a": 1, "onnx/deep/b": 2, "other": 3})
    listings = listings_of(catalog, index, root="onnx")
    assert set(listings.directory("onnx")) == {"a", "deep"}
    assert [entry.path for entry in listings.files()] == ["onnx/a", "onnx/deep/b"]
    assert catalog.calls == ["tree onnx"]


def test_a_folder_of_a_wholly_listed_commit_costs_no_request(index: Index) -> None:
    files: dict[str, int | None] = {"a.txt": 1, "deep/er/b.txt": 2, "deeper/c.txt": 3}
    listings_of(MemoryCatalog(files), index)
    catalog = MemoryCatalog({})
    listings = listings_of(catalog, index, root="deep")
    assert listings.complete
    assert [entry.path for entry in listings.files()] == ["deep/er/b.txt"]
    for root in ("none", "a.txt"):
        with pytest.raises(EntryNotFound):
            listings_of(catalog, index, root=root)
    assert Listings(catalog, index, COMMIT, root="a.txt").is_file("a.txt")
    assert not Listings(catalog, index, COMMIT, root="none").is_file("none")
    assert catalog.calls == []


def test_a_listing_in_use_is_renewed_once_a_day(tmp_path: Path) -> None:
    now = [1_000_000.0]
    index = Index(tmp_path / "aging", clock=lambda: now[0])
    listings = listings_of(MemoryCatalog({"a.txt": 1}), index)
    key = listings._stored.key("all", "")
    for later, age in ((RENEWED_SECONDS, RENEWED_SECONDS), (1, 0)):
        now[0] += later
        listings_of(MemoryCatalog({}), index)
        assert index.age(key) == age
    index.close()


def test_cached_files_are_read_from_the_index_without_requests(index: Index) -> None:
    assert cached_files(index, COMMIT) == ([], False)
    files: dict[str, int | None] = {f"d{number}/f{file}": 1 for number in range(5) for file in range(5)}
    listings = listings_of(MemoryCatalog(files, page=10), index)
    assert cached_files(index, COMMIT) == ([], False)
    listings.directory("d1")
    listings.record_node(7, Entry("d2/f2", "file", 1, "etag-1"))
    some, complete = cached_files(index, COMMIT)
    assert [entry.path for entry in some] == [*(f"d1/f{file}" for file in range(5)), "d2/f2"]
    assert not complete
    listings.everything()
    every, complete = cached_files(index, COMMIT)
    assert (len(every), complete) == (25, True)
    assert [entry.path for entry in cached_files(index, COMMIT, "d3/f1")[0]] == ["d3/f1"]
    assert cached_files(index, COMMIT, "d") == ([], True)
    assert cached_files(index, replace(COMMIT, sha="d" * 40)) == ([], False)


def test_cached_files_of_a_folder_listed_alone_are_that_folder_s(index: Index) -> None:
    listings_of(MemoryCatalog({"a.txt": 1, "sub/b.txt": None}), index, root="sub")
    listings = Listings(MemoryCatalog({"sub/b.txt": None}), index, COMMIT, root="sub")
    listings.load()
    listings.sized(listings.entry("sub/b.txt"))
    inside, complete = cached_files(index, COMMIT, "sub/b.txt")
    assert ([(entry.path, entry.size) for entry in inside], complete) == ([("sub/b.txt", 7)], True)
    assert cached_files(index, COMMIT) == (inside, False)
