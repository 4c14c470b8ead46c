"""Revisions and listings from a Hub's responses, good and bad."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import huggingface_hub
import pytest

from hffs.errors import (
    AccessDenied,
    BadResponse,
    EntryNotFound,
    HffsError,
    HubUnreachable,
    RateLimited,
    RepoNotFound,
    RevisionNotFound,
)
from hffs.model import Entry, RepoType
from hffs.sources.base import TreePage
from hffs.sources.hub.access import HubAccess
from hffs.sources.hub.auth import Auth
from hffs.sources.hub.catalog import HubCatalog
from hffs.sources.hub.hub_errors import httpx
from hffs.sources.hub.repo_id import parse_repo
from tests.hub import Hub, Match, faults
from tests.hub.repos import FIRST_COMMIT

from .conftest import Remote


@pytest.fixture
def tiny(hub: Hub) -> Any:
    files = {"config.json": b"{}", "model.safetensors": b"x" * 1000, "onnx/a.txt": b"a", "onnx/deep/b.txt": b"bb"}
    return hub.add_repo("acme/tiny", files=files)


def paths(entries: list[Entry]) -> list[str]:
    return sorted(entry.path for entry in entries)


# Revisions.


def test_a_revision_resolves_to_its_commit(hub: Hub, remote: Remote, tiny: Any) -> None:
    first = tiny.branches["main"]
    second = tiny.commit({"config.json": b"[]"})
    tiny.tag("v1", first)
    tiny.pr(1, first)
    assert remote.commit().sha == second
    assert remote.commit().revision == "main"
    assert remote.commit(revision="v1").sha == first
    assert remote.commit(revision="refs/pr/1").sha == first
    assert remote.commit(revision=first).sha == first
    found = remote.commit(revision="main")
    assert found.date == FIRST_COMMIT.timestamp() + 60
    assert (found.type, found.id, found.source) == (RepoType.MODEL, "acme/tiny", hub.endpoint)


def test_datasets_and_spaces_resolve_by_their_type(hub: Hub, remote: Remote) -> None:
    data = hub.add_repo("acme/data", type="dataset", files={"a.parquet": b"1"})
    space = hub.add_repo("acme/app", type="space", files={"app.py": b"1"})
    assert remote.commit("acme/data", type="dataset").sha == data.branches["main"]
    assert remote.commit("acme/app", type="space").sha == space.branches["main"]
    with pytest.raises(RepoNotFound):
        remote.commit("acme/data")


def test_a_renamed_repo_resolves_to_its_new_name(hub: Hub, remote: Remote, tiny: Any) -> None:
    hub.rename("acme/tiny", "acme/small")
    commit = remote.commit("acme/tiny")
    assert commit.id == "acme/small"
    assert remote.commit("ACME/Small").id == "acme/small"
    hub.journal.clear()
    remote.catalog.list_tree(commit, "")
    assert [record.status for record in hub.journal.requests("tree")] == [200]


def test_resolve_reports_whether_a_repo_is_private_or_gated(hub: Hub, remote: Remote, tiny: Any) -> None:
    tiny.gated, tiny.private = "manual", True
    remote.token = "hf_good"
    found = remote.catalog.resolve(parse_repo("acme/tiny"))
    assert (found.private, found.gated) == (True, "manual")
    hub.add_repo("acme/data", type="dataset")
    data = remote.catalog.resolve(parse_repo("datasets/acme/data"))
    assert (data.private, data.gated) == (False, False)


def test_resolving_requests_no_list_of_files(hub: Hub, remote: Remote, tiny: Any) -> None:
    remote.commit()
    (record,) = hub.journal.requests()
    assert record.kind == "info"
    assert record.bytes_sent < 300


@pytest.mark.parametrize("bare", [True, False])
def test_missing_and_private_repos_give_the_same_error(bare: bool, hub: Hub, remote: Remote, tiny: Any) -> None:
    hub.access.bare_401 = bare
    tiny.private = True
    for repo in ("acme/tiny", "acme/none"):
        with pytest.raises(RepoNotFound, match=r"private.*hf auth login"):
            remote.commit(repo)
    remote.token = "hf_good"
    assert remote.commit().id == "acme/tiny"
    with pytest.raises(RepoNotFound, match="private"):
        remote.commit("acme/none")


def test_a_bad_token_is_reported_also_for_public_repos(remote: Remote, tiny: Any) -> None:
    remote.token = "hf_bad"
    with pytest.raises(AccessDenied, match="token") as caught:
        remote.commit()
    assert "hf_bad" not in str(caught.value)


def test_an_unknown_revision_and_a_disabled_repo(hub: Hub, remote: Remote, tiny: Any) -> None:
    with pytest.raises(RevisionNotFound, match="'nope'"):
        remote.commit(revision="nope")
    hub.disable("acme/tiny")
    with pytest.raises(AccessDenied, match="disabled"):
        remote.commit()


@pytest.mark.parametrize(
    "change",
    [
        {"sha": None}, {"sha": "main"}, {"sha": 7}, {"id": "../../etc"}, {"id": "a/b/c"}, {"id": None}, {"id": "a b"},
        {"lastModified": "yesterday"}, {"lastModified": 5},
    ],
)  # fmt: skip
def test_an_info_that_makes_no_sense_is_a_bad_response(
    change: dict[str, Any], hub: Hub, remote: Remote, tiny: Any
) -> None:
    hub.faults.add(Match(kind="info"), faults.json_changed(lambda info: {**info, **change}))
    with pytest.raises(BadResponse):
        remote.commit()


def test_a_commit_requested_by_hash_must_be_the_one_returned(hub: Hub, remote: Remote, tiny: Any) -> None:
    hub.faults.add(Match(kind="info"), faults.json_changed(lambda info: {**info, "sha": "0" * 40}))
    with pytest.raises(BadResponse, match="another commit"):
        remote.commit(revision=tiny.branches["main"])


# Listings.


def test_one_page_is_a_complete_listing_for_one_request(hub: Hub, remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    hub.journal.clear()
    page = remote.catalog.list_tree(commit, "")
    assert page.rest is None
    assert paths(page.entries) == [
        "config.json",
        "model.safetensors",
        "onnx",
        "onnx/a.txt",
        "onnx/deep",
        "onnx/deep/b.txt",
    ]
    by_path = {entry.path: entry for entry in page.entries}
    tree = tiny.commits[commit.sha].tree.files
    assert by_path["onnx"] == Entry("onnx", "directory")
    assert by_path["config.json"] == Entry("config.json", "file", 2, tree["config.json"].oid)
    assert by_path["model.safetensors"] == Entry(
        "model.safetensors", "file", 1000, tree["model.safetensors"].sha256, True
    )
    assert len(hub.journal.requests()) == 1


def test_below_a_directory_paths_count_from_the_root(remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    assert paths(remote.catalog.list_tree(commit, "onnx").entries) == ["onnx/a.txt", "onnx/deep", "onnx/deep/b.txt"]
    assert paths(remote.catalog.list_directory(commit, "onnx")) == ["onnx/a.txt", "onnx/deep"]
    assert paths(remote.catalog.list_directory(commit, "")) == ["config.json", "model.safetensors", "onnx"]


@pytest.mark.parametrize("path", ["none", "config.json", "onnx/none", "onnx/a.txt"])
def test_a_path_that_is_no_directory_has_no_listing(path: str, remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    with pytest.raises(EntryNotFound):
        remote.catalog.list_tree(commit, path)
    with pytest.raises(EntryNotFound):
        remote.catalog.list_directory(commit, path)


def test_a_file_listed_as_its_own_directory_is_no_directory(hub: Hub, remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    row = [{"type": "file", "oid": "0" * 40, "size": 1, "path": "onnx"}]
    hub.faults.add(Match(kind="tree"), faults.json_changed(lambda rows: row))
    with pytest.raises(EntryNotFound, match="is a file"):
        remote.catalog.list_tree(commit, "onnx")
    hub.faults.add(Match(kind="tree"), faults.json_changed(lambda rows: []))
    with pytest.raises(EntryNotFound):
        remote.catalog.list_directory(commit, "onnx")
    assert remote.catalog.list_directory(commit, "") == []


@pytest.mark.parametrize("count", [999, 1000, 1001])
def test_the_second_page_is_requested_only_when_iterated(count: int, hub: Hub, remote: Remote) -> None:
    hub.add_repo("acme/many", files={f"{number:04}.txt": b"" for number in range(count)})
    commit = remote.commit("acme/many")
    page = remote.catalog.list_tree(commit, "")
    assert len(page.entries) == min(count, 1000)
    assert (page.rest is None) == (count <= 1000)
    assert len(hub.journal.requests("tree")) == 1
    if page.rest is not None:
        assert paths([*page.entries, *page.rest]) == [f"{number:04}.txt" for number in range(count)]
        assert len(hub.journal.requests("tree")) == 2


@pytest.mark.parametrize("page_size", [1, 3, 7, 25])
def test_pages_of_any_size_give_the_whole_tree(page_size: int, hub: Hub, remote: Remote) -> None:
    hub.page_size = page_size
    wanted = [f"{number:02}.txt" for number in range(25)]
    hub.add_repo("acme/many", files=dict.fromkeys(wanted, b""))
    commit = remote.commit("acme/many")
    page = remote.catalog.list_tree(commit, "")
    assert len(page.entries) == page_size
    assert len(hub.journal.requests("tree")) == 1
    entries = [*page.entries, *(page.rest or ())]
    assert paths(entries) == wanted
    assert len(hub.journal.requests("tree")) == -(-25 // page_size)
    assert paths(remote.catalog.list_directory(commit, "")) == wanted


def test_a_page_that_fails_later_fails_the_rest_only(hub: Hub, remote: Remote) -> None:
    hub.page_size = 2
    hub.add_repo("acme/many", files={f"{number}.txt": b"" for number in range(5)})
    hub.faults.add(Match(kind="tree", nth=2), faults.unavailable())
    page = remote.catalog.list_tree(remote.commit("acme/many"), "")
    assert len(page.entries) == 2
    assert page.rest is not None
    with pytest.raises(HubUnreachable):
        list(page.rest)


def test_stat_leaves_out_paths_that_do_not_exist(hub: Hub, remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    wanted = ["config.json", "onnx", "none", "onnx/none", "config.json"]
    assert paths(remote.catalog.stat(commit, wanted)) == ["config.json", "onnx"]
    assert remote.catalog.stat(commit, []) == []
    assert len(hub.journal.requests("paths-info")) == 1


def test_stat_of_many_paths_sends_batches(hub: Hub, remote: Remote) -> None:
    names = [f"{number:03}.txt" for number in range(250)]
    hub.add_repo("acme/many", files=dict.fromkeys(names, b""))
    assert paths(remote.catalog.stat(remote.commit("acme/many"), names)) == names
    assert len(hub.journal.requests("paths-info")) == 3


def test_odd_names_are_requested_unchanged(hub: Hub, remote: Remote) -> None:
    names = ["a b#?%&+.txt", "ünï/cödé", "back\\slash", "%2F", "q?x=1", "~a.b-c_d"]
    hub.add_repo("acme/odd", files={name: name.encode() for name in names})
    commit = remote.commit("acme/odd")
    page = remote.catalog.list_tree(commit, "")
    assert paths(page.entries) == sorted([*names, "ünï"])
    assert paths(remote.catalog.stat(commit, names)) == sorted(names)
    assert paths(remote.catalog.list_directory(commit, "ünï")) == ["ünï/cödé"]
    for name in names:
        assert remote.read(remote.file(name, commit)) == name.encode()


@pytest.mark.allow_warnings
def test_hostile_names_are_dropped_with_one_line(
    hub: Hub, remote: Remote, tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    commit = remote.commit()
    honest = paths(remote.catalog.list_tree(commit, "").entries)
    hub.faults.add(Match(kind="tree"), faults.listed())
    assert paths(remote.catalog.list_tree(commit, "").entries) == sorted([*honest, "back\\slash", "new\nline"])
    assert len(remote.catalog.list_directory(commit, "")) == 5
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 2  # one for each listing
    assert all(record.name == "hffs.sources.hub.catalog" for record in lines)


@pytest.mark.allow_warnings
def test_entries_outside_the_requested_folder_are_dropped(hub: Hub, remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    hub.faults.add(Match(kind="tree"), faults.listed(["elsewhere.txt", "onnxx/a", "onnx/deep/x"]))
    hub.faults.add(Match(kind="paths-info"), faults.listed(["elsewhere.txt"]))
    assert paths(remote.catalog.list_directory(commit, "onnx")) == ["onnx/a.txt", "onnx/deep"]
    assert "onnxx/a" not in paths(remote.catalog.list_tree(commit, "onnx").entries)
    assert paths(remote.catalog.stat(commit, ["config.json"])) == ["config.json"]


def test_entries_of_unknown_kinds_are_skipped(hub: Hub, remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    hub.faults.add(Match(kind="tree"), faults.listed(["link"], type="symlink"))
    hub.faults.add(Match(kind="tree"), faults.listed(["odd"], type=None))
    page = remote.catalog.list_tree(commit, "")
    assert {"link", "odd"}.isdisjoint(paths(page.entries))
    assert page.rest is None


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "null", "7", "{}", '{"error": "x"}', "[7]", "[[]]", '["a"]', '[{"type":"file"}]', "[" * 50_000,
     '[{"type":"file","path":"a"}]', '[{"type":"file","path":"a","oid":"b","lfs":7}]', '[{"type":"directory"}]',
     '[{"type":"file","path":"a","oid":"b","lfs":{}}]', '[{"type":"file","path":"config.j'],
)  # fmt: skip
def test_garbage_instead_of_a_listing_is_a_bad_response(text: str, hub: Hub, remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    hub.faults.add(Match(kind="api"), faults.body(text.encode()))
    with pytest.raises(BadResponse):
        remote.catalog.list_tree(commit, "")
    with pytest.raises(BadResponse):
        remote.catalog.list_directory(commit, "")
    with pytest.raises(BadResponse):
        remote.catalog.stat(commit, ["config.json"])
    with pytest.raises(BadResponse):
        remote.commit()


@pytest.mark.parametrize(
    "kind", [{"path": 7}, {"oid": 7}, {"oid": "../x"}, {"size": -1}, {"size": "1"}, {"size": True}]
)
@pytest.mark.allow_warnings
def test_fields_of_the_wrong_kind_count_as_missing(kind: dict[str, Any], hub: Hub, remote: Remote) -> None:
    hub.add_repo("acme/one", files={"a.txt": b"1"})
    commit = remote.commit("acme/one")
    hub.faults.add(Match(kind="tree"), faults.json_changed(lambda rows: [{**rows[0], **kind}]))
    for entry in remote.catalog.list_tree(commit, "").entries:
        assert entry.path == "a.txt"
        assert None in (entry.size, entry.etag)


# Sizes.


def test_the_size_of_an_lfs_file_is_never_that_of_its_pointer(hub: Hub, remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    hub.faults.add(Match(kind="tree"), faults.json_changed(lambda rows: [{**row, "size": 134} for row in rows]))
    sizes = {entry.path: entry.size for entry in remote.catalog.list_directory(commit, "")}
    assert sizes == {"config.json": 134, "model.safetensors": 1000, "onnx": None}


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_a_size_missing_in_the_listing_is_requested_by_head(path: str, hub: Hub, remote: Remote, tiny: Any) -> None:
    tiny.omit_sizes = {path}
    commit = remote.commit()
    (entry,) = [one for one in remote.catalog.list_tree(commit, "").entries if one.path == path]
    assert entry.size is None
    full = remote.catalog.complete_size(commit, entry)
    blob = tiny.commits[commit.sha].tree.files[path]
    assert full == Entry(path, "file", blob.size, blob.etag, lfs=blob.sha256 is not None, etag_from="server")
    assert full.digest() == replace(full, etag_from="listing").digest() is not None
    assert {record.method for record in hub.journal.requests("resolve")} == {"HEAD"}
    assert not hub.journal.requests("cdn")


@pytest.mark.parametrize("etag", ['"5f3c-abc"', 'W/"v1"', '"%s"' % ("z" * 40), '"%s"' % ("z" * 64)])
def test_an_etag_that_is_no_hash_is_accepted_and_verifies_nothing(
    etag: str, hub: Hub, remote: Remote, tiny: Any
) -> None:
    commit = remote.commit()
    hub.faults.add(Match(kind="resolve"), faults.header("X-Linked-Etag", None))
    hub.faults.add(Match(method="HEAD"), faults.header("ETag", etag))
    full = remote.catalog.complete_size(commit, Entry("config.json", "file", 134))
    assert (full.etag, full.etag_from, full.digest()) == (etag.removeprefix("W/").strip('"'), "server", None)
    blob, other = full.blob(commit), replace(full, path="other.json").blob(commit)
    assert blob is not None
    assert blob != other, "another file may have the same etag"
    hub.faults.clear()
    hub.faults.add(Match(kind="resolve"), faults.header("X-Linked-Etag", None))
    hub.faults.add(Match(method="HEAD"), faults.header("ETag", "x" * 300))
    with pytest.raises(BadResponse):
        remote.catalog.complete_size(commit, Entry("config.json", "file", 134))


def test_a_head_without_size_or_etag_is_a_bad_response(hub: Hub, remote: Remote, tiny: Any) -> None:
    entry = remote.entry("model.safetensors")
    for names in (["X-Linked-Size"], ["X-Linked-Etag", "ETag"]):
        fault = hub.faults.add(Match(kind="resolve"), faults.without(*names))
        with pytest.raises(BadResponse):
            remote.catalog.complete_size(remote.commit(), entry)
        hub.faults.remove(fault)
    hub.faults.add(Match(kind="resolve"), faults.header("X-Repo-Commit", "0" * 40))
    with pytest.raises(BadResponse):
        remote.catalog.complete_size(remote.commit(), entry)


# Requests, retries and tokens.


def test_the_token_goes_to_the_hub_and_is_read_for_each_request(hub: Hub, remote: Remote, tiny: Any) -> None:
    hub.page_size = 2
    hub.tokens["hf_next"] = "alice"
    remote.token = "hf_good"
    commit = remote.commit()
    page = remote.catalog.list_tree(commit, "")
    remote.token = "hf_next"
    list(page.rest or ())
    assert [record.token for record in hub.journal.requests("tree")] == ["hf_good", "hf_next", "hf_next"]
    assert all("hffs/" in record.headers["user-agent"] for record in hub.journal.requests())


def test_a_request_is_repeated_once_with_a_rotated_token(hub: Hub, remote: Remote, tiny: Any) -> None:
    tiny.private = True
    remote.tokens = ["hf_old", "hf_good", "hf_good"]
    assert remote.commit().id == "acme/tiny"
    assert [record.status for record in hub.journal.requests("info")] == [401, 200]


def test_a_next_page_on_another_server_is_not_requested(hub: Hub, remote: Remote, tiny: Any) -> None:
    hub.page_size = 2
    remote.token = "hf_good"
    elsewhere = f'<{hub.cdn_origin}/api/models/acme/tiny/tree/x?cursor=1>; rel="next"'
    hub.faults.add(Match(kind="tree"), faults.header("Link", elsewhere))
    with pytest.raises(BadResponse, match="on another server"):
        remote.catalog.list_tree(remote.commit(), "")
    assert not hub.journal.requests(origin="cdn")


def test_a_passing_failure_is_retried_after_a_wait(hub: Hub, remote: Remote, tiny: Any) -> None:
    hub.faults.add(Match(kind="info", count=2), faults.unavailable())
    assert remote.commit().id == "acme/tiny"
    assert [record.status for record in hub.journal.requests("info")] == [503, 503, 200]
    assert len(remote.slept) == 2
    assert remote.slept[0] <= 0.5
    assert remote.slept[1] <= 1.0


def test_a_later_page_is_retried_too(hub: Hub, remote: Remote) -> None:
    hub.page_size = 2
    hub.add_repo("acme/many", files={f"{number}.txt": b"" for number in range(5)})
    hub.faults.add(Match(kind="tree", nth=2, count=1), faults.reset(10))
    page = remote.catalog.list_tree(remote.commit("acme/many"), "")
    assert paths([*page.entries, *(page.rest or ())]) == [f"{number}.txt" for number in range(5)]
    assert len(remote.slept) == 1


@pytest.mark.parametrize("fault", [faults.unavailable(), faults.status(408), faults.reset(5), faults.raw(b"nonsense")])
def test_a_failing_hub_is_reported_after_three_attempts(fault: Any, hub: Hub, remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    hub.faults.add(Match(kind="tree"), fault)
    with pytest.raises(HubUnreachable, match=r"127\.0\.0\.1"):
        remote.catalog.list_directory(commit, "")
    assert len(hub.journal.requests("tree")) == 3
    assert len(remote.slept) == 2


def test_an_overloaded_hub_gets_no_request_before_its_retry_after(hub: Hub, remote: Remote, tiny: Any) -> None:
    hub.faults.add(Match(kind="info", count=1), faults.unavailable(5))
    remote.commit()
    assert remote.slept == [5.0]
    hub.faults.add(Match(kind="info"), faults.unavailable(100))
    hub.journal.clear()
    with pytest.raises(HubUnreachable, match="try again in 100 s"):
        remote.commit()
    assert remote.slept == [5.0]
    assert len(hub.journal.requests("info")) == 1


def test_a_short_retry_after_is_waited_and_a_long_one_reported_at_once(hub: Hub, remote: Remote, tiny: Any) -> None:
    hub.faults.add(Match(kind="info", count=1), faults.rate_limited(t=7))
    remote.commit()
    assert remote.slept == [7.0]
    hub.faults.add(Match(kind="info"), faults.rate_limited(t=240))
    with pytest.raises(RateLimited) as caught:
        remote.commit()
    assert caught.value.retry_after == 240
    assert remote.slept == [7.0]


def test_a_hub_that_is_down_is_reported_and_used_again_when_up(hub: Hub, remote: Remote, tiny: Any) -> None:
    commit = remote.commit()
    hub.down("api")
    with pytest.raises(HubUnreachable, match=r"127\.0\.0\.1:\d+: connection refused"):
        remote.catalog.list_directory(commit, "")
    hub.up("api")
    assert remote.catalog.list_directory(commit, "")


@pytest.mark.parametrize("fault", [faults.status(403), faults.bad_token(), faults.status(400)])
def test_a_lasting_failure_is_not_retried(fault: Any, hub: Hub, remote: Remote, tiny: Any) -> None:
    hub.faults.add(Match(kind="info"), fault)
    with pytest.raises(HffsError):
        remote.commit()
    assert len(hub.journal.requests("info")) == 1
    assert not remote.slept


def test_a_hub_that_never_answers_times_out(
    hub: Hub, remote: Remote, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hffs.sources.hub.hub_api.READ_SECONDS", 0.1)
    commit = remote.commit()
    hub.faults.add(Match(kind="api"), faults.hold())
    for ask in (remote.commit, lambda: remote.catalog.list_directory(commit, "")):
        with pytest.raises(HubUnreachable, match="in time"):
            ask()
    hub.faults.release()


def test_requests_are_counted_with_their_redirects(hub: Hub, remote: Remote, tiny: Any) -> None:
    hub.rename("acme/tiny", "acme/small")
    remote.commit("acme/tiny")
    assert remote.catalog.requests == 2 == len(hub.journal.requests())


def test_offline_mode_of_huggingface_hub_is_reported_with_its_switch(
    monkeypatch: pytest.MonkeyPatch, remote: Remote
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE"):
        remote.commit()


def test_other_users_of_huggingface_hub_are_not_affected(hub: Hub, remote: Remote, tiny: Any) -> None:
    remote.token = "hf_good"
    remote.commit()
    hub.journal.clear()
    client = huggingface_hub.get_session()
    request = client.build_request("GET", hub.endpoint + "/api/models/acme/tiny", timeout=17)
    assert client.send(request).status_code == 200
    assert request.extensions["timeout"]["read"] == 17
    hub.faults.add(Match(kind="info"), faults.unavailable())
    assert client.get(hub.endpoint + "/api/models/acme/tiny").status_code == 503
    assert not any(record.authorized for record in hub.journal.requests())
    assert remote.catalog.requests == 1


def test_no_list_of_agents_is_requested(hub: Hub, remote: Remote, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    detect = pytest.importorskip("huggingface_hub.utils._detect_agent")
    monkeypatch.setattr(detect, "_registry", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "AGENT_HARNESSES_PATH", "/nowhere/agents.json", raising=False)
    remote.commit()
    assert [record.kind for record in hub.journal.requests()] == ["info"]
    assert not remote.slept


def test_the_users_own_client_is_kept(hub: Hub, wall: Any, tiny: Any) -> None:
    made: list[Any] = []

    def factory() -> Any:
        made.append(httpx.Client(headers={"x-theirs": "1"}, follow_redirects=True))
        return made[-1]

    huggingface_hub.set_client_factory(factory)
    try:
        HubCatalog(hub.endpoint, HubAccess(Auth(find=lambda: None))).resolve(parse_repo("acme/tiny"))
        assert hub.journal.requests("info")[0].headers["x-theirs"] == "1"
        assert len(made) == 1
    finally:
        huggingface_hub.set_client_factory(huggingface_hub.utils._http.default_client_factory)


def test_a_page_is_a_value(remote: Remote, tiny: Any) -> None:
    page = remote.catalog.list_tree(remote.commit(), "")
    assert page == TreePage(page.entries, None)
