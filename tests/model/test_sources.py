"""What every source must do, run against each of them; and a session that reads and hydrates from any of them.

A new source passes this suite by one more ``Case``.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from hffs.config import Settings
from hffs.engine import session
from hffs.errors import ContentChanged, EntryNotFound, HffsError, RepoNotFound, RevisionNotFound
from hffs.model import Commit, Entry, RemoteFile, RepoRef, RepoType
from hffs.names import check_name
from hffs.ranges import ByteRange
from hffs.sources.base import Body, Source, SourceSet
from hffs.sources.hub.source import HubSource
from hffs.transfer import CommitFiles, Hydration
from tests.hub import Hub

from .folder_source import FolderSource

REPO = "acme/tiny"
REF = RepoRef(RepoType.MODEL, REPO)
WEIGHTS = "onnx/model.safetensors"
FILES = {
    "README.md": b"# tiny\n",
    "empty.txt": b"",
    "onnx/config.json": b'{"a": 1}',
    "onnx/deep/x.bin": b"\x00" * 5,
    WEIGHTS: random.Random(1).randbytes(300_000),
}
FOLDERS = {"onnx", "onnx/deep"}


class Case:
    """A source with a repo of FILES; ``write`` makes a new state of the repo, in which one file is another."""

    def __init__(self, source: Source, write: Callable[[str, bytes], object]) -> None:
        self.source = source
        self.write = write

    @property
    def commit(self) -> Commit:
        return self.source.resolve(REF).commit

    def file(self, path: str) -> RemoteFile:
        commit = self.commit
        (entry,) = self.source.stat(commit, [path])
        file = self.source.complete_size(commit, entry).remote(commit)
        assert file is not None
        return file


def hub_case(hub: Hub) -> Case:
    repo = hub.add_repo(REPO, files=FILES)
    return Case(HubSource(hub.endpoint), lambda path, data: repo.commit({path: data}))


def folder_case(root: Path, repo: str = REPO) -> Case:
    def write(path: str, data: bytes) -> None:
        (root / repo / path).parent.mkdir(parents=True, exist_ok=True)
        (root / repo / path).write_bytes(data)

    for path, data in FILES.items():
        write(path, data)
    return Case(FolderSource(root), write)


@pytest.fixture(params=["hub", "folder"])
def case(request: pytest.FixtureRequest, tmp_path: Path, hub: Hub) -> Iterator[Case]:
    case = hub_case(hub) if request.param == "hub" else folder_case(tmp_path / "repos")
    yield case
    case.source.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub
        huggingface_hub.close_session()
        assert not hub.errors


def read(body: Body, length: int) -> bytes:
    buffer = bytearray(length)
    with contextlib.closing(body):
        assert body.readinto(memoryview(buffer)) == length
    return bytes(buffer)


# Resolving.


def test_resolve_names_the_source_the_repo_and_one_commit(case: Case) -> None:
    found = case.source.resolve(REF)
    commit = found.commit
    assert (commit.source, commit.type, commit.id, commit.revision) == (case.source.id, RepoType.MODEL, REPO, "main")
    assert (found.private, found.gated) == (False, False)
    assert case.source.resolve(REF) == found
    assert case.source.resolve(replace(REF, revision=commit.sha)).commit.sha == commit.sha


def test_a_changed_repo_resolves_to_another_commit(case: Case) -> None:
    before = case.commit
    case.write("README.md", b"# another")
    assert case.commit.sha != before.sha


def test_a_missing_repo_is_reported_as_such(case: Case) -> None:
    with pytest.raises(RepoNotFound):
        case.source.resolve(replace(REF, id="acme/none"))


@pytest.mark.parametrize("revision", ["none", "0" * 40])
def test_a_missing_revision_is_reported_as_such(case: Case, revision: str) -> None:
    with pytest.raises(RevisionNotFound):
        case.source.resolve(replace(REF, revision=revision))


# Listing.


def every(case: Case, path: str) -> list[Entry]:
    page = case.source.list_tree(case.commit, path)
    return [*page.entries, *(page.rest or ())]


def test_a_tree_has_each_file_once_with_its_size_and_proper_names(case: Case) -> None:
    entries = every(case, "")
    assert len({entry.path for entry in entries}) == len(entries)
    assert {check_name(entry.path) for entry in entries if entry.kind == "directory"} == FOLDERS
    assert {check_name(entry.path): entry.size for entry in entries if entry.kind == "file"} == {
        path: len(data) for path, data in FILES.items()
    }


def test_a_tree_below_a_folder_has_paths_from_the_root_of_the_repo(case: Case) -> None:
    files = {entry.path for entry in every(case, "onnx") if entry.kind == "file"}
    assert files == {path for path in FILES if path.startswith("onnx/")}


def test_a_directory_has_its_own_entries_alone(case: Case) -> None:
    names = {entry.path for entry in case.source.list_directory(case.commit, "onnx")}
    assert names == {"onnx/config.json", "onnx/deep", WEIGHTS}


@pytest.mark.parametrize("path", ["none", "onnx/none", "README.md"])
def test_a_path_that_is_no_directory_cannot_be_listed(case: Case, path: str) -> None:
    for listing in (case.source.list_tree, case.source.list_directory):
        with pytest.raises(EntryNotFound):
            listing(case.commit, path)


def test_stat_returns_the_entries_that_exist_as_the_tree_has_them(case: Case) -> None:
    found = case.source.stat(case.commit, ["none", WEIGHTS, "onnx", "onnx/none"])
    assert sorted(entry.path for entry in found) == ["onnx", WEIGHTS]
    assert set(found) <= set(every(case, ""))
    assert case.source.stat(case.commit, []) == []


def test_complete_size_reports_size_and_etag_of_a_file_and_no_other(case: Case) -> None:
    full = case.source.complete_size(case.commit, Entry(WEIGHTS, "file"))
    assert (full.path, full.size) == (WEIGHTS, len(FILES[WEIGHTS]))
    assert full.etag
    with pytest.raises(EntryNotFound):
        case.source.complete_size(case.commit, Entry("none", "file"))


# The identity of content.


def test_the_same_content_has_the_same_identity_every_time(case: Case) -> None:
    assert case.file(WEIGHTS).blob == case.file(WEIGHTS).blob
    assert case.file(WEIGHTS).blob.origin == case.source.id
    assert case.file(WEIGHTS).source == case.source.id


def test_other_content_has_another_identity(case: Case) -> None:
    before = case.file(WEIGHTS)
    case.write(WEIGHTS, FILES[WEIGHTS][::-1])
    assert case.file(WEIGHTS).blob != before.blob
    assert case.file("README.md").blob != case.file("onnx/config.json").blob


# Bytes.


@pytest.mark.parametrize("path", [WEIGHTS, "README.md", "empty.txt"])
def test_a_range_is_exactly_its_bytes_at_both_ends_and_between(case: Case, path: str) -> None:
    file, data = case.file(path), FILES[path]
    end = len(data)
    for start, stop in {(0, end), (0, min(1, end)), (max(0, end - 1), end), (end // 3, end // 2), (end, end)}:
        assert read(case.source.open_range(file, ByteRange(start, stop)), stop - start) == data[start:stop]


def test_a_body_gives_no_byte_past_its_range(case: Case) -> None:
    with contextlib.closing(case.source.open_range(case.file(WEIGHTS), ByteRange(0, 10))) as body:
        with pytest.raises(ValueError, match=r"range|left"):
            body.readinto(memoryview(bytearray(11)))
        assert body.readinto(memoryview(bytearray(4))) == 4


def test_an_aborted_body_fails_its_next_read(case: Case) -> None:
    size = 32 << 20  # more than has arrived by then
    case.write("big.bin", bytes(size))
    with contextlib.closing(case.source.open_range(case.file("big.bin"), ByteRange(0, size))) as body:
        body.readinto(memoryview(bytearray(10)))
        body.abort()
        with pytest.raises(HffsError):
            body.readinto(memoryview(bytearray(size - 10)))


@pytest.mark.parametrize("path", [WEIGHTS, "README.md"])
def test_other_content_than_was_listed_is_refused_before_any_byte(case: Case, path: str) -> None:
    file = case.file(path)
    other = replace(file, blob=replace(file.blob, etag="f" * len(file.validator)), etag="")
    with pytest.raises(ContentChanged):
        case.source.open_range(other, ByteRange(0, 5)).readinto(memoryview(bytearray(5)))


def test_a_file_that_is_missing_at_its_commit_cannot_be_opened(case: Case) -> None:
    with pytest.raises(EntryNotFound):
        case.source.open_range(replace(case.file("README.md"), path="none"), ByteRange(0, 5))


def test_forgetting_a_file_changes_none_of_its_bytes(case: Case) -> None:
    file = case.file(WEIGHTS)
    for _ in range(2):
        assert read(case.source.open_range(file, ByteRange(5, 50)), 45) == FILES[WEIGHTS][5:50]
        case.source.forget(file)


def test_access_is_granted_and_nothing_is_put_off(case: Case) -> None:
    access, file = case.source.access, case.file(WEIGHTS)
    read(case.source.open_range(file, ByteRange(0, 5)), 5)
    assert (access.refused, access.slow_reason(), access.recovered()) == (None, "", False)
    assert case.source.background_delay(file) == 0.0
    assert all(quota.left >= 0 for quota in access.quotas().values())


# A session.


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=str(tmp_path / "cache"), hf_cache="", min_free=0, cache_size=None)


def test_a_session_hydrates_and_reads_from_any_source(case: Case, settings: Settings) -> None:
    with contextlib.ExitStack() as stack:
        context = session.open_context(settings, stack, case.source)
        found = session.resolve(context, REF)
        running = session.start(context, found.listings, settings, stack)
        files = [running.content.remote_file(entry) for entry in found.listings.everything()]
        assert Hydration(running.fetcher, lambda: [(file, 0) for file in files]).run()
        for path, data in FILES.items():
            assert content_of(running.content, path) == data
            assert running.content.local_bytes(running.content.entry(path)) == len(data)


def test_a_session_serves_its_cache_when_the_source_is_gone(case: Case, settings: Settings) -> None:
    test_a_session_hydrates_and_reads_from_any_source(case, settings)
    offline = replace(settings, offline=True)
    with contextlib.ExitStack() as stack:
        context = session.open_context(offline, stack, case.source)
        found = session.resolve(context, REF)
        running = session.start(context, found.listings, offline, stack)
        sent = case.source.requests
        assert {path: content_of(running.content, path) for path in FILES} == FILES
        assert case.source.requests == sent


def test_one_session_fetches_each_file_from_the_source_it_names(hub: Hub, tmp_path: Path, settings: Settings) -> None:
    first, second = hub_case(hub), folder_case(tmp_path / "repos", "acme/other")
    second.write(WEIGHTS, b"of the folder")
    with contextlib.ExitStack() as stack:
        context = session.open_context(settings, stack, first.source, second.source)
        found = session.resolve(context, REF)
        running = session.start(context, found.listings, settings, stack)
        other = context.listings(second.source.resolve(replace(REF, id="acme/other")).commit, "")
        other.load()
        beside = CommitFiles(other, running.store, running.fetcher)
        stack.callback(beside.close)
        assert content_of(running.content, WEIGHTS) == FILES[WEIGHTS]
        assert content_of(beside, WEIGHTS) == b"of the folder"


def test_a_commit_of_no_source_in_use_is_refused(case: Case) -> None:
    with pytest.raises(HffsError, match="http://elsewhere is not one of the sources"):
        SourceSet(case.source).open_range(
            replace(case.file(WEIGHTS), commit=replace(case.commit, source="http://elsewhere")), ByteRange(0, 1)
        )


def test_a_file_of_a_folder_that_changes_while_mounted_is_refused(tmp_path: Path) -> None:
    case = folder_case(tmp_path)
    file = case.file(WEIGHTS)
    case.write(WEIGHTS, b"shorter")
    os.utime(tmp_path / REPO / WEIGHTS, ns=(1, 1))
    with pytest.raises(ContentChanged):
        case.source.open_range(file, ByteRange(0, 5))


def content_of(content: CommitFiles, path: str) -> bytes:
    entry = content.entry(path)
    reader = content.open(entry)
    try:
        got = reader.read(0, entry.size or 0)
        return got if isinstance(got, bytes) else got.result(20)
    finally:
        reader.close()
