"""`hffs cache …` as a process, against a cache that `hffs hydrate` filled from the local Hub."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hffs as api
from hffs.cache import Layout, blob_info
from tests.hub import Hub, Repo, Synthetic

Run = Callable[..., subprocess.CompletedProcess[str]]
WEIGHTS = 3 << 20


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, runtime: str) -> Iterator[Hub]:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def repo(hub: Hub) -> Repo:
    files = {"config.json": b"{}", "model.safetensors": Synthetic(WEIGHTS, seed=1), "onnx/model.onnx": b"onnx" * 100}
    return hub.add_repo("acme/tiny", files=files)


@pytest.fixture
def hydrated(hffs: Run, hub: Hub, repo: Repo) -> Repo:
    good(hffs("hydrate", "acme/tiny"))
    hub.journal.clear()
    return repo


def good(done: subprocess.CompletedProcess[str], code: int = 0) -> list[str]:
    assert (done.returncode, done.stderr) == (code, ""), done.stderr + done.stdout
    return done.stdout.splitlines()


def cache() -> Layout:
    return Layout(os.environ["XDG_CACHE_HOME"] + "/hffs")


def held() -> dict[str, int]:
    """The local bytes of each blob, by its size."""
    return {str(each.size): each.bytes_local for each in blob_info.scan(cache())}


def disk() -> int:
    return sum(path.stat().st_blocks * 512 for path in cache().blobs.rglob("*") if path.is_file())


def test_an_empty_cache_is_reported_and_not_created(hffs: Run, runtime: str) -> None:
    assert good(hffs("cache", "list")) == [f"0B on disk, 0 blobs in {cache().root}"]
    assert good(hffs("cache", "check", "--repair"))[-1] == "no damage"
    assert good(hffs("cache", "prune")) == ["0B freed, 0 blobs evicted"]
    assert not cache().root.exists()
    assert api.list_local() == []
    assert not api.is_available_locally("acme/tiny")


def test_list_shows_repos_revisions_and_disk_usage(hffs: Run, hub: Hub, hydrated: Repo) -> None:
    header, row, total = good(hffs("cache", "list"))
    assert header.split("  ")[0] == "REPO"
    assert row.startswith("acme/tiny  main      3 of 3  3.0M of 3.0M (100 %)")
    assert row.endswith("complete, verified")
    assert total == f"{shown(disk())} on disk, 3 blobs in {cache().root}"
    output = json.loads(hffs("cache", "list", "--json").stdout)
    (found,) = output["repos"]
    (revision,) = found["revisions"]
    assert (found["repo"], found["type"], found["endpoint"]) == ("acme/tiny", "model", hub.endpoint)
    assert (revision["commit"], revision["revisions"]) == (hydrated.commit_of("main"), ["main"])
    assert (revision["files"], revision["files_complete"], revision["complete"]) == (3, 3, True)
    assert output["bytes_disk"] == found["bytes_disk"] == revision["bytes_disk"] == disk()
    assert (output["blobs"], output["others"]) == (3, [])
    assert hub.journal.requests() == [], "list sends no request"


def shown(size: int) -> str:
    from hffs.cli.display import units

    return units.size(size)


def test_list_json_has_every_repo_and_revision(hffs: Run, hub: Hub, repo: Repo) -> None:
    good(hffs("hydrate", "acme/tiny", "--include", "*.json"))
    hub.journal.clear()
    assert [each.repo for each in api.list_local()] == ["acme/tiny"]
    assert not api.is_available_locally("acme/tiny")
    assert api.is_available_locally("acme/tiny", include="*.json")
    assert api.is_available_locally("acme/tiny/config.json")
    assert api.is_available_locally("acme/tiny", revision=repo.commit_of("main"), include=["config.json"])
    assert not api.is_available_locally("acme/tiny", include="*.none"), "nothing fits"
    assert not api.is_available_locally("acme/tiny", revision="v1", include="*.json")
    assert not api.is_available_locally("acme/tiny/onnx")
    assert hub.journal.requests() == []
    good(hffs("hydrate", "acme/tiny"))
    assert api.is_available_locally("acme/tiny")
    assert api.is_available_locally("acme/tiny/onnx")


def test_evict_of_a_file_a_folder_and_a_repo(hffs: Run, hydrated: Repo) -> None:
    before = disk()
    (line,) = good(hffs("cache", "evict", "acme/tiny/model.safetensors"))
    assert line == f"acme/tiny/model.safetensors: {shown(before - disk())} freed, 1 blob evicted"
    assert held() == {"2": 2, "400": 400}
    good(hffs("cache", "evict", "acme/tiny@main/onnx"))
    assert held() == {"2": 2}
    good(hffs("cache", "evict", "acme/tiny"))
    assert (held(), disk()) == ({}, 0)
    good(hffs("hydrate", "acme/tiny"))
    assert api.is_available_locally("acme/tiny")


def test_evict_of_a_revision_keeps_content_shared_with_another(hffs: Run, hydrated: Repo) -> None:
    hydrated.branch("dev", hydrated.commit_of("main"))
    hydrated.commit({"config.json": b"[1]"}, branch="dev")
    good(hffs("hydrate", "acme/tiny@dev"))
    first, second = good(hffs("cache", "evict", "acme/tiny@dev"))
    assert "1 blob evicted" in first
    assert second.strip().startswith("2 blobs also used by other revisions or files")
    assert api.is_available_locally("acme/tiny")
    good(hffs("cache", "evict", "acme/tiny@dev", "--shared"))
    assert held() == {"2": 2}


def test_pinned_data_is_not_evicted(hffs: Run, hydrated: Repo) -> None:
    assert good(hffs("cache", "pin", "acme/tiny/config.json")) == [
        "acme/tiny/config.json: 1 blob pinned, 1 of them newly"
    ]
    assert "complete, verified, pinned" in hffs("cache", "list").stdout
    _, line = good(hffs("cache", "evict", "acme/tiny"))
    assert line == "  1 blob pinned: hffs cache unpin allows to evict them"
    assert held() == {"2": 2}
    _, line = good(hffs("cache", "pin", "acme/tiny"))
    assert line == "  2 files not cached yet: hffs hydrate acme/tiny and pin it again"
    assert good(hffs("cache", "unpin", "acme/tiny"))[0] == "acme/tiny: 1 blob no longer pinned, 1 of them newly"
    good(hffs("cache", "evict", "acme/tiny"))
    assert held() == {}


def test_prune_evicts_blobs_that_no_revision_needs(hffs: Run, hydrated: Repo) -> None:
    hydrated.commit({"config.json": b"[1]"}, delete=["onnx/model.onnx"])
    good(hffs("hydrate", "acme/tiny"))
    assert held() == {"2": 2, "3": 3, "400": 400, str(WEIGHTS): WEIGHTS}
    assert good(hffs("cache", "prune"))[0].endswith("2 blobs evicted")
    assert held() == {"3": 3, str(WEIGHTS): WEIGHTS}
    assert good(hffs("cache", "prune")) == ["0B freed, 0 blobs evicted"]
    assert good(hffs("cache", "prune", "--older", "30")) == ["0B freed, 0 blobs evicted"]
    assert good(hffs("cache", "prune", "--older", "0"))[0].endswith("2 blobs evicted")
    assert held() == {}


def test_prune_without_an_index_uses_the_last_use_only(hffs: Run, hydrated: Repo) -> None:
    for path in cache().index.iterdir():
        path.unlink()
    (line,) = good(hffs("cache", "prune"))
    assert line.startswith("nothing pruned: this cache has no known revisions")
    assert len(held()) == 3
    assert "(of no known revision)" in hffs("cache", "list").stdout
    assert good(hffs("cache", "prune", "--older", "30d")) == ["0B freed, 0 blobs evicted"]
    assert good(hffs("cache", "prune", "--older", "0s"))[0].endswith("3 blobs evicted")


def test_check_locates_damage_and_repairs_it(hffs: Run, hydrated: Repo) -> None:
    assert good(hffs("cache", "check")) == ["3 blobs, 14 blocks, 3.0M checked", "no damage"]
    (big,) = (each for each in blob_info.scan(cache()) if each.size == WEIGHTS)
    data = Path(big.paths.data)
    damaged = data.read_bytes()
    data.write_bytes(b"x" + damaged[1:])
    mark, where, _, last = good(hffs("cache", "check"), 6)
    assert where == f"{data}: CRC mismatch in block 0: not what was written to the disk"
    assert mark.startswith(f"{data}: it was written after it was verified")
    assert last == "damage in 1 place: hffs cache check --repair drops it, to be fetched again"
    verified = hffs("verify", "--all", "--blocks")
    assert verified.stdout.splitlines()[-2:] == [
        f"{where}: run it again with --fix",
        "all repos: 0 files correct, 2 without a hash to compare, 1 found bad; 3.0M read; 1 problem left",
    ]
    output = hffs("cache", "check", "--json")
    assert output.returncode == 6
    assert json.loads(output.stdout)["clean"] is False
    mended = json.loads(hffs("cache", "check", "--repair", "--json").stdout)
    assert [(each["kind"], each["mended"]) for each in mended["findings"]] == [("damage", True)]
    assert good(hffs("cache", "check"))[-1] == "no damage"
    good(hffs("hydrate", "acme/tiny"))
    assert api.is_available_locally("acme/tiny")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["evict", "acme/none"], 3),
        (["evict", "acme/tiny@v1"], 3),
        (["pin", "acme/tiny/none"], 3),
        (["evict", "/no/such/mount"], 3),
        (["evict"], 2),
        (["evict", "a b/c"], 2),
        (["prune", "--older", "soon"], 2),
        ([], 2),
        (["sweep"], 2),
    ],
)
def test_a_missing_target_is_one_line_and_an_exit_code(hffs: Run, hydrated: Repo, words: list[str], code: int) -> None:
    done = hffs("cache", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert done.stderr.startswith("hffs: ")


def test_every_action_refuses_a_cache_of_a_newer_hffs(hffs: Run, hydrated: Repo) -> None:
    (cache().root / "version").write_text("2\n")
    for words in (["list"], ["check", "--repair"], ["prune"], ["evict", "acme/tiny"]):
        done = hffs("cache", *words)
        assert done.returncode == 1
        assert "was written by a newer hffs (format 2): upgrade hffs" in done.stderr
    assert len(held()) == 3
