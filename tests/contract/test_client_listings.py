"""What HfApi makes of our listings, information and refs."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from huggingface_hub import HfApi, RepoFile, RepoFolder

from tests.contract.sample import CONFIG, ODD_NAME, WEIGHTS
from tests.hub import Hub, Repo


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def test_info_tells_the_commit_and_its_files(api: HfApi, repo: Repo) -> None:
    info = api.model_info("acme/tiny")
    assert info.sha == repo.commit_of("main")
    assert info.last_modified == datetime(2026, 1, 1, tzinfo=UTC)
    assert sorted(s.rfilename for s in info.siblings or []) == sorted(repo.commits[info.sha or ""].tree.files)
    assert all(s.size is None for s in info.siblings or [])
    assert (info.private, info.gated, info.disabled) == (False, False, False)


def test_info_with_blobs_tells_sizes_and_digests(api: HfApi, repo: Repo) -> None:
    siblings = {s.rfilename: s for s in api.model_info("acme/tiny", files_metadata=True).siblings or []}
    assert siblings["config.json"].blob_id == git_sha1(CONFIG)
    assert siblings["config.json"].lfs is None
    weights = siblings["model.safetensors"]
    assert weights.size == WEIGHTS.size
    assert weights.lfs is not None
    assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS.read(0, WEIGHTS.size)).hexdigest()


def test_info_with_expand_tells_only_that(api: HfApi, repo: Repo) -> None:
    info = api.model_info("acme/tiny", expand=["sha"])
    assert info.sha == repo.commit_of("main")
    assert info.siblings is None


@pytest.mark.parametrize("revision", ["v1", "refs/pr/3", "a branch/with slash", "refs/convert/parquet"])
def test_info_of_every_kind_of_revision(api: HfApi, repo: Repo, revision: str) -> None:
    first = repo.commit_of("main")
    repo.commit({"new": b"1"})
    repo.tag("v1", first)
    repo.pr(3, first)
    repo.branch("a branch/with slash", first)
    repo.convert("parquet", first)
    assert api.model_info("acme/tiny", revision=revision).sha == first
    assert api.model_info("acme/tiny", revision=first).sha == first
    assert api.model_info("acme/tiny", revision=first[:7]).sha == first
    assert api.model_info("acme/tiny").sha != first


def test_datasets_and_spaces_are_worlds_of_their_own(hub: Hub, api: HfApi) -> None:
    shas = {
        kind: hub.add_repo("acme/same", type=kind, files={"f": kind.encode()}).commit_of("main")
        for kind in ("model", "dataset", "space")
    }
    assert api.model_info("acme/same").sha == shas["model"]
    assert api.dataset_info("acme/same").sha == shas["dataset"]
    assert api.space_info("acme/same").sha == shas["space"]
    assert len(set(shas.values())) == 3


def test_tree_lists_one_level_directories_included(api: HfApi, repo: Repo) -> None:
    entries = {entry.path: entry for entry in api.list_repo_tree("acme/tiny")}
    assert set(entries) == {"sub", "sub dir", "config.json", "empty.txt", "model.safetensors"}
    assert isinstance(entries["sub"], RepoFolder)
    config, weights = entries["config.json"], entries["model.safetensors"]
    assert isinstance(config, RepoFile)
    assert isinstance(weights, RepoFile)
    assert (config.size, config.blob_id, config.lfs) == (len(CONFIG), git_sha1(CONFIG), None)
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.size, weights.xet_hash) == (WEIGHTS.size, WEIGHTS.size, None)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{weights.lfs.sha256}\nsize {WEIGHTS.size}\n"
    assert weights.blob_id == git_sha1(pointer.encode())
    assert weights.lfs.pointer_size == len(pointer)


def test_tree_of_a_folder_and_of_all_below(api: HfApi, repo: Repo) -> None:
    assert [entry.path for entry in api.list_repo_tree("acme/tiny", "sub dir")] == [ODD_NAME]
    every = [entry.path for entry in api.list_repo_tree("acme/tiny", recursive=True)]
    assert {"sub", "sub dir", "sub/a.bin", ODD_NAME} <= set(every)
    assert len(every) == 7


def test_tree_with_expand_tells_the_last_commit_of_each(api: HfApi, repo: Repo) -> None:
    second = repo.commit({"sub/b.txt": b"later"}, message="a second\n\nwith a body")
    entries = {e.path: e for e in api.list_repo_tree("acme/tiny", recursive=True, expand=True)}
    last = {path: entry.last_commit.oid for path, entry in entries.items() if entry.last_commit is not None}
    assert last["sub/b.txt"] == last["sub"] == second
    assert last["config.json"] != second
    assert entries["sub"].last_commit is not None
    assert entries["sub"].last_commit.title == "a second"


@pytest.mark.parametrize(("expand", "pages"), [(False, 3), (True, 5)])
def test_long_listings_come_in_pages(hub: Hub, api: HfApi, expand: bool, pages: int) -> None:
    hub.page_size = 100
    hub.add_repo("acme/many", files={f"f{n:04}.txt": b"%d" % n for n in range(230)})
    listed = [entry.path for entry in api.list_repo_tree("acme/many", expand=expand)]
    assert listed == [f"f{n:04}.txt" for n in range(230)]
    assert len(hub.journal.requests("tree")) == pages


def test_a_full_last_page_has_no_next(hub: Hub, api: HfApi) -> None:
    hub.page_size = 100
    hub.add_repo("acme/many", files={f"f{n:04}.txt": b"" for n in range(200)})
    assert len(list(api.list_repo_tree("acme/many"))) == 200
    assert len(hub.journal.requests("tree")) == 2


def test_paths_info_leaves_out_what_is_missing(hub: Hub, api: HfApi, repo: Repo) -> None:
    found = api.get_paths_info("acme/tiny", [ODD_NAME, "sub", "no such", "model.safetensors"], revision="main")
    assert [entry.path for entry in found] == [ODD_NAME, "sub", "model.safetensors"]
    assert isinstance(found[1], RepoFolder)
    assert api.file_exists("acme/tiny", ODD_NAME)
    assert not api.file_exists("acme/tiny", "no such")
    assert hub.journal.requests("paths-info", method="POST")


def test_refs_of_all_kinds(api: HfApi, repo: Repo) -> None:
    first = repo.commit_of("main")
    repo.tag("v1", first)
    repo.pr(7, first)
    second = repo.commit({"new": b"1"})
    refs = api.list_repo_refs("acme/tiny", include_pull_requests=True)
    assert [(r.name, r.ref, r.target_commit) for r in refs.branches] == [("main", "refs/heads/main", second)]
    assert [(r.name, r.ref, r.target_commit) for r in refs.tags] == [("v1", "refs/tags/v1", first)]
    assert [(r.ref, r.target_commit) for r in refs.pull_requests or []] == [("refs/pr/7", first)]
    assert api.list_repo_refs("acme/tiny").pull_requests is None


def test_commits_come_newest_first_and_in_pages(hub: Hub, api: HfApi, repo: Repo) -> None:
    for n in range(60):
        repo.commit({"n": b"%d" % n}, message=f"number {n}")
    commits = api.list_repo_commits("acme/tiny")
    assert [c.title for c in commits] == [f"number {n}" for n in reversed(range(60))] + ["initial commit"]
    assert commits[0].commit_id == repo.commit_of("main")
    assert commits[0].authors == ["alice"]
    assert len(hub.journal.requests("commits")) == 2


def test_whoami_names_the_account_of_the_token(alice: HfApi) -> None:
    assert alice.whoami()["name"] == "alice"


def test_repos_are_found_by_author(hub: Hub, api: HfApi, repo: Repo) -> None:
    hub.add_repo("other/thing")
    assert [model.id for model in api.list_models(author="acme")] == ["acme/tiny"]
