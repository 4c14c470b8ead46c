"""Every view against plain files: the same suite for the view of a repo and for one of several kinds of content."""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hffs.errors import BadHandle, EntryNotFound, IsDirectory, NotDirectory, UsageError
from hffs.vfs import ROOT_ID, Directory, Filesystem, Node, SnapshotFile, Symlink, View
from tests.support.waiting import until

from .views import NAMES, Sample, sample

SOON = 10.0


@pytest.fixture(params=NAMES)
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sample]:
    with sample(request.param, tmp_path) as made:
        yield made


def walk(view: View, node: Node | None = None) -> Iterator[Node]:
    node = node or view.root
    yield node
    if node.is_directory:
        for child in view.children(node):
            yield from walk(view, child)


def files(view: View) -> list[Node]:
    return [node for node in walk(view) if not isinstance(node.content, (Directory, Symlink))]


def read(filesystem: Filesystem, handle: int, offset: int, size: int) -> bytes:
    answer = filesystem.read(handle, offset, size)
    return answer if isinstance(answer, bytes) else answer.result(SOON)


def test_a_view_shows_exactly_the_files_and_links(given: Sample) -> None:
    view = given.make()
    assert {node.path for node in files(view)} == set(given.files)
    assert {node.path for node in walk(view) if isinstance(node.content, Symlink)} == set(given.links)


def test_children_lookup_and_find_agree(given: Sample) -> None:
    view = given.make()
    for node in walk(view):
        assert view.find(node.path) == node
        assert view.node(node.id) == node
        if node.is_directory:
            children = view.children(node)
            assert [child.name for child in children] == sorted(child.name for child in children)
            assert [view.lookup(node, child.name) for child in children] == list(children)


def test_files_are_found_by_name_before_any_directory_is_listed(given: Sample) -> None:
    view = given.make()
    for path in [*given.files, *given.links]:
        assert view.find(f"/{path}").path == path


def test_numbers_are_unique_and_found_again_by_another_process_without_a_request(given: Sample) -> None:
    first = given.make()
    numbers = {node.path: node.id for node in walk(first)}
    assert numbers[""] == ROOT_ID
    assert len(set(numbers.values())) == len(numbers)
    assert min(numbers.values()) == ROOT_ID
    second = given.make()
    before = given.requests()
    assert {second.node(number).path: number for number in numbers.values()} == numbers
    with pytest.raises(EntryNotFound):
        second.node(4711)
    assert given.requests() == before


def test_a_name_that_was_looked_up_alone_keeps_its_number_in_another_process(given: Sample) -> None:
    first = given.make()
    numbers = [first.find(path).id for path in sorted(given.files)]
    second = given.make()
    assert [second.node(number).path for number in numbers] == sorted(given.files)


def test_a_missing_name_costs_no_request_once_its_directory_is_listed(given: Sample) -> None:
    view = given.make()
    directories = [node for node in walk(view) if node.is_directory]
    before = given.requests()
    for node in directories:
        assert not view.listing_waits(node)
        assert not view.lookup_waits(node, "no such name")
        with pytest.raises(EntryNotFound):
            view.lookup(node, "no such name")
    assert given.requests() == before


def test_a_file_is_no_directory_and_a_directory_is_no_file(given: Sample) -> None:
    view = given.make()
    for node in walk(view):
        if node.is_directory:
            with pytest.raises(IsDirectory):
                view.open(node)
        else:
            with pytest.raises(NotDirectory):
                view.lookup(node, "x")
            with pytest.raises(NotDirectory):
                view.children(node)


def test_attributes_are_those_of_plain_read_only_files(given: Sample) -> None:
    view, again = given.make(), given.make()
    for node in walk(view):
        found = view.attributes(node)
        assert again.attributes(again.find(node.path)) == found
        assert found.node == node.id
        assert found.is_directory == node.is_directory
        if node.path in given.files:
            assert (stat.S_IFMT(found.mode), found.size) == (stat.S_IFREG, len(given.files[node.path]))
            assert bool(found.blocks) == bool(found.size)
        if not isinstance(node.content, Symlink):
            assert not found.mode & 0o222


def test_links_are_read(given: Sample) -> None:
    view = given.make()
    for path, target in given.links.items():
        node = view.find(path)
        assert view.readlink(node) == target
        assert view.attributes(node).size == len(target)
    for node in (view.root, *files(view)):
        with pytest.raises(UsageError):
            view.readlink(node)


def test_reads_are_equal_to_the_plain_bytes(given: Sample) -> None:
    filesystem = Filesystem(given.make())
    for node in files(filesystem.view):
        data, handle = given.files[node.path], filesystem.open(node)
        places = [(random.randrange(len(data) + 2), random.randrange(1, 200_000)) for _ in range(5)]
        for offset, size in [(0, 10), (0, len(data) + 1), (len(data), 10), *places]:
            assert read(filesystem, handle, offset, size) == data[offset : offset + size]
        filesystem.release(handle)


def test_a_released_handle_is_bad_and_keeps_nothing_open(given: Sample) -> None:
    filesystem = Filesystem(given.make())
    handles = [filesystem.open(node) for node in files(filesystem.view)]
    assert {handle.node.path for handle in filesystem.handles()} == set(given.files)
    filesystem.release(handles[0])
    with pytest.raises(BadHandle):
        filesystem.read(handles[0], 0, 1)
    filesystem.release_all()
    assert filesystem.handles() == []
    until(lambda: not given.fetcher._scheduler._handles)


def test_snapshots_name_the_files_that_are_fetched(given: Sample) -> None:
    view = given.make()
    fetched = {node.path: node.content for node in walk(view) if isinstance(node.content, SnapshotFile)}
    named = {}
    for snapshot in view.snapshots():
        for entry in snapshot.visible_files():
            path = snapshot.mount_path(entry.path)
            assert snapshot.repo_path(path) == entry.path
            assert view.path_of(snapshot.files.remote_file(entry)) == path
            named[path] = SnapshotFile(snapshot, entry)
    assert named == fetched


def test_a_file_that_becomes_local_is_reported_by_its_number(given: Sample) -> None:
    filesystem = Filesystem(given.make())
    reported: list[int] = []
    filesystem.view.on_attributes_changed(reported.append)
    fetched = [node for node in files(filesystem.view) if isinstance(node.content, SnapshotFile)]
    for node in fetched:
        handle = filesystem.open(node)
        read(filesystem, handle, 0, max(1, len(given.files[node.path])))
        filesystem.release(handle)
    with_bytes = {node.id for node in fetched if given.files[node.path]}
    until(lambda: with_bytes <= set(reported))
    assert all(filesystem.view.attributes(node).lasting for node in fetched)
    assert set(reported) <= {node.id for node in fetched}


def test_wrong_content_is_reported_by_the_numbers_of_its_nodes(given: Sample) -> None:
    view = given.make()
    reported: list[int] = []
    view.on_content_wrong(reported.append)
    for snapshot in view.snapshots():
        for entry in snapshot.visible_files():
            reported.clear()
            given.fetcher.quarantine.on_mismatch(snapshot.files.remote_file(entry))
            assert view.find(snapshot.mount_path(entry.path)).id in reported
