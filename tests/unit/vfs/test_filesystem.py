"""Names, numbers, attributes and reads of a mounted commit, without any binding."""

from __future__ import annotations

import time

import pytest

from hffs.cache import Index
from hffs.errors import BadHandle, EntryNotFound, IsDirectory, NoAttribute, NotDirectory
from hffs.model import Entry
from hffs.transfer import CommitFiles, Listings
from hffs.vfs import ROOT_ID, Filesystem
from hffs.vfs.views import RepoView
from tests.unit.memory import COMMIT, MemorySource


def names(filesystem: Filesystem, path: str = "/") -> list[str]:
    return [node.path for node in filesystem.view.children(filesystem.view.find(path))]


def test_children_are_listed_in_name_order(filesystem_of) -> None:
    filesystem = filesystem_of()
    assert names(filesystem) == ["README.md", "empty", "onnx"]
    assert names(filesystem, "/onnx") == ["onnx/deep", "onnx/model.onnx"]


def test_attributes_come_from_the_listing(filesystem_of) -> None:
    filesystem = filesystem_of()
    file = filesystem.view.attributes(filesystem.view.find("/onnx/model.onnx"))
    assert (file.size, file.mode, file.mtime) == (300_000, 0o100444, COMMIT.date)
    folder = filesystem.view.attributes(filesystem.view.find("/onnx"))
    assert (folder.is_directory, folder.mode) == (True, 0o040555)
    assert filesystem.view.attributes(filesystem.view.root).node == ROOT_ID


def test_blocks_count_local_bytes_and_are_never_0_for_a_file_with_content(filesystem_of) -> None:
    filesystem = filesystem_of()
    node = filesystem.view.find("/onnx/model.onnx")
    assert filesystem.view.attributes(node).blocks == 1
    assert filesystem.view.attributes(filesystem.view.find("/empty")).blocks == 0
    handle = filesystem.open(node)
    filesystem.read(handle, 0, 300_000).result(10)
    filesystem.release(handle)
    assert filesystem.view.attributes(node).blocks == -(-300_000 // 512)


def test_node_numbers_are_stable_and_unique(filesystem_of) -> None:
    first, second = filesystem_of(), filesystem_of()
    paths = ["/", "/README.md", "/onnx", "/onnx/deep", "/onnx/deep/x.bin", "/empty"]
    numbers = [first.view.find(path).id for path in paths]
    assert numbers == [second.view.find(path).id for path in paths]
    assert len(set(numbers)) == len(paths)
    assert all(first.view.node(number).id == number for number in numbers)


def test_a_process_that_takes_over_keeps_excluded_files_hidden(filesystem_of) -> None:
    files = {"README.md": 10, "onnx/model.onnx": 3, "onnx/b.txt": 1, "none/c.onnx": 1}
    everything, after = filesystem_of(files), filesystem_of(files, exclude=["*.onnx"])
    given = {path: everything.view.find(path).id for path in ("/README.md", "/onnx", "/onnx/b.txt", "/none")}
    assert {path: after.view.node(number).id for path, number in given.items()} == given, "earlier numbers stay valid"
    with pytest.raises(EntryNotFound):
        after.view.node(everything.view.find("/onnx/model.onnx").id)
    assert names(after) == ["README.md", "onnx"]
    for path in ("/onnx/model.onnx", "/none/c.onnx", "/none"):
        with pytest.raises(EntryNotFound):
            after.view.find(path)
    assert names(after, "/onnx") == ["onnx/b.txt"]


def test_missing_names_and_numbers_raise_errors(filesystem_of) -> None:
    filesystem = filesystem_of()
    for path in ("/none", "/onnx/none", "/none/deeper"):
        with pytest.raises(EntryNotFound):
            filesystem.view.find(path)
    with pytest.raises(NotDirectory):
        filesystem.view.find("/README.md/x")
    with pytest.raises(NotDirectory):
        filesystem.view.children(filesystem.view.find("/README.md"))
    with pytest.raises(EntryNotFound):
        filesystem.view.node(12345)


def test_a_lookup_in_a_listed_directory_sends_no_request(filesystem_of) -> None:
    filesystem = filesystem_of({f"d{number}/f": 1 for number in range(9)}, page=3)
    names(filesystem), names(filesystem, "/d4")
    requests = list(filesystem.catalog.calls)
    filesystem.view.find("/d4/f")
    with pytest.raises(EntryNotFound):
        filesystem.view.find("/d4/none")
    with pytest.raises(EntryNotFound):
        filesystem.view.find("/none")
    assert filesystem.catalog.calls == requests


def test_include_and_exclude_decide_what_is_visible(filesystem_of) -> None:
    assert names(filesystem_of(include=["*.md"])) == ["README.md"]
    assert names(filesystem_of(exclude=["onnx/"])) == ["README.md", "empty"]
    assert names(filesystem_of(include=["onnx/*"], exclude=["*.onnx"]), "/onnx") == ["onnx/deep"]
    with pytest.raises(EntryNotFound):
        filesystem_of(include=["*.md"]).view.find("/empty")


def test_a_folder_without_visible_files_is_hidden_once_that_is_known(filesystem_of) -> None:
    files: dict[str, int | None] = {f"d{number}/f{number}": 1 for number in range(6)}
    filesystem = filesystem_of(files, page=4, include=["d1/*"])
    assert names(filesystem) == [f"d{number}" for number in range(6)]  # none of them is listed yet
    assert names(filesystem, "/d2") == []
    assert "d2" not in names(filesystem)
    assert "d1" in names(filesystem)


def test_a_subfolder_can_be_the_root(filesystem_of) -> None:
    filesystem = filesystem_of(root="onnx")
    assert names(filesystem) == ["deep", "model.onnx"]
    assert filesystem.view.find("/deep/x.bin").content.entry.path == "onnx/deep/x.bin"


def test_stat_requests_a_size_that_the_listing_lacks(filesystem_of) -> None:
    filesystem = filesystem_of({"a": None})
    assert filesystem.view.attributes(filesystem.view.find("/a")).size == 7


def test_reads_go_through_handles(filesystem_of, source: MemorySource) -> None:
    filesystem = filesystem_of()
    node = filesystem.view.find("/README.md")
    handle = filesystem.open(node)
    assert filesystem.read(handle, 2, 100).result(10) == source.contents["README.md"][2:10]
    assert filesystem.read(handle, 10, 5) == b""
    assert [opened.node.path for opened in filesystem.handles()] == ["README.md"]
    filesystem.release(handle)
    with pytest.raises(BadHandle):
        filesystem.read(handle, 0, 1)
    with pytest.raises(IsDirectory):
        filesystem.open(filesystem.view.root)


def test_extended_attributes_are_commit_etag_hash_and_local_bytes(filesystem_of) -> None:
    filesystem = filesystem_of()
    node = filesystem.view.find("/README.md")
    assert filesystem.xattr(node, "user.hffs.commit") == COMMIT.sha.encode()
    assert filesystem.xattr(node, "user.hffs.etag") == b"etag-10"
    assert filesystem.xattr(node, "user.hffs.state") == b"remote"
    handle = filesystem.open(node)
    filesystem.read(handle, 0, 10).result(10)
    assert filesystem.xattr(node, "user.hffs.local_bytes") == b"10"
    assert filesystem.xattr(node, "user.hffs.state") == b"local"
    filesystem.release(handle)
    assert "user.hffs.sha256" not in filesystem.xattr_names(node)
    for name in ("user.hffs.sha256", "security.selinux", "user.other"):
        with pytest.raises(NoAttribute):
            filesystem.xattr(node, name)
    assert filesystem.xattr_names(filesystem.view.root) == ["user.hffs.commit"]


def test_an_lfs_file_has_its_sha256_as_an_attribute(filesystem_of, index: Index) -> None:
    filesystem = filesystem_of({"w.safetensors": 5})
    catalog = filesystem.catalog
    catalog.entries = [Entry("w.safetensors", "file", 5, "ab" * 32, lfs=True)]
    index.delete(f"listing/1/all/{COMMIT.source}/{COMMIT.type}/{COMMIT.id}/{COMMIT.sha}/")
    listings = Listings(catalog, index, COMMIT, timeout=10)
    listings.load()
    content = CommitFiles(listings, filesystem.view.snapshot.files._store, filesystem.view.snapshot.files._fetcher)
    lfs = Filesystem(RepoView(content))
    assert lfs.xattr(lfs.view.find("/w.safetensors"), "user.hffs.sha256") == b"ab" * 32


def test_a_process_that_takes_over_finds_every_number_without_a_request(filesystem_of) -> None:
    files: dict[str, int | None] = {f"d{number}/f{number}": 1 for number in range(9)}
    first = filesystem_of(files, page=3)
    names(first), names(first, "/d2")
    alone = first.view.find("/d7/f7")  # looked up by itself: no listing holds it
    given = [first.view.find(path).id for path in ("/d2", "/d2/f2")] + [alone.id]
    second = filesystem_of(files, page=3)
    requests = len(second.catalog.calls)
    assert [second.view.node(number).path for number in given] == ["d2", "d2/f2", "d7/f7"]
    with pytest.raises(EntryNotFound):
        second.view.node(4711)
    assert len(second.catalog.calls) == requests


def test_a_file_that_becomes_local_is_reported(filesystem_of) -> None:
    filesystem = filesystem_of()
    reported: list[int] = []
    filesystem.view.on_attributes_changed(reported.append)
    node = filesystem.view.find("/onnx/model.onnx")
    assert not filesystem.view.attributes(node).lasting
    handle = filesystem.open(node)
    filesystem.read(handle, 0, 300_000).result(10)
    ends = time.monotonic() + 10
    while reported != [node.id]:
        assert time.monotonic() < ends
        time.sleep(0.005)
    assert filesystem.view.attributes(node).lasting
    filesystem.release(handle)
