"""`ls`, `info` and `du` of a repo that is not mounted, against the local Hub."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from hffs.cache import BlobStore, Layout
from hffs.model import Blob, Digest
from tests.hub import Hub, Repo, Synthetic

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(tokens={"hf_good": "alice"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def repo(hub: Hub) -> Repo:
    files = {
        "LICENSE": b"x" * 100,
        "config.json": b"{}",
        "model.safetensors": Synthetic(3 << 20, seed=1),
        "onnx/model.onnx": Synthetic(1 << 20, seed=2),
        "onnx/deep/a\x1b[31m b.txt": b"hi",
    }
    return hub.add_repo("acme/tiny", files=files)


def test_ls_shows_one_folder_with_sizes_and_hashes(hffs: Run, repo: Repo) -> None:
    assert [line.split() for line in hffs("ls", "acme/tiny").stdout.splitlines()] == [
        ["100B", "git", "f6be7cae2045", "LICENSE"],
        ["2B", "git", "9e26dfeeb6e6", "config.json"],
        ["3.0M", "sha256", digest(repo, "model.safetensors")[:12], "model.safetensors"],
        ["-", "onnx/"],
    ]
    assert [line.split()[-1] for line in hffs("ls", "acme/tiny/onnx").stdout.splitlines()] == ["deep/", "model.onnx"]
    assert hffs("ls", "acme/tiny/config.json").stdout.split() == ["2B", "git", "9e26dfeeb6e6", "config.json"]


def test_ls_recursive_escapes_control_characters(hffs: Run, repo: Repo) -> None:
    lines = hffs("ls", "hf://acme/tiny@main", "--recursive").stdout.splitlines()
    assert all(line.isprintable() for line in lines)
    names = ["LICENSE", "config.json", "model.safetensors", "onnx/", "onnx/deep/", "onnx/deep/a\\x1b[31m b.txt"]
    assert [line.split("  ")[-1].strip() for line in lines] == [*names, "onnx/model.onnx"]


def test_ls_as_json_has_full_paths_and_hashes(hffs: Run, repo: Repo) -> None:
    output = json.loads(hffs("ls", "acme/tiny/onnx", "-r", "--exclude", "*.txt", "--json").stdout)
    assert (output["repo"], output["type"], output["revision"], output["path"]) == (
        "acme/tiny",
        "model",
        "main",
        "onnx",
    )
    assert output["commit"] == repo.commit_of("main")
    sha256 = digest(repo, "onnx/model.onnx")
    assert output["entries"] == [
        {"path": "onnx/model.onnx", "kind": "file", "size": 1 << 20, "etag": sha256, "lfs": True, "sha256": sha256}
    ]


def test_a_size_missing_in_the_listing_is_requested(hffs: Run, repo: Repo) -> None:
    repo.omit_sizes.add("config.json")
    assert hffs("ls", "acme/tiny/config.json").stdout.split()[0] == "2B"


def test_info_sums_the_bytes_to_fetch(hffs: Run, repo: Repo) -> None:
    done = hffs("info", "acme/tiny")
    assert done.stdout.splitlines() == [
        "acme/tiny",
        "  type      model",
        "  revision  main",
        f"  commit    {repo.commit_of('main')}",
        "  date      2026-01-01 00:00:00Z",
        "  access    public",
        "  size      4.0M in 5 files, 4.0M to fetch",
        "",
        "TYPE          FILES  SIZE  LOCAL",
        ".safetensors      1  3.0M     0B",
        ".onnx             1  1.0M     0B",
        "(none)            1  100B     0B",
        ".json             1    2B     0B",
        ".txt              1    2B     0B",
    ]
    repo.gated = "manual"
    assert "access    public, gated (manual)" in hffs("info", "acme/tiny").stdout


def test_info_and_du_count_local_bytes_of_included_files(hffs: Run, hub: Hub, repo: Repo) -> None:
    hold(repo, hub, "onnx/model.onnx")
    output = json.loads(hffs("info", "acme/tiny", "--include", "*.onnx", "--json").stdout)
    local = 256 * 1024
    assert (output["files"], output["bytes_total"], output["bytes_local"]) == (1, 1 << 20, local)
    assert output["bytes_to_fetch"] == (1 << 20) - local
    assert hffs("du", "acme/tiny/onnx", "--exclude", "*.txt").stdout.splitlines() == [
        "TYPE   FILES  SIZE   LOCAL",
        ".onnx      1  1.0M  256.0K",
        "256.0K of 1.0M (25 %) local, 1 file, 260.0K on disk",
    ]
    output = json.loads(hffs("du", "acme/tiny/onnx", "--json").stdout)
    assert (output["bytes_local"], output["bytes_disk"]) == (local, local + 4096), "a page of state"


def test_ls_info_and_du_create_no_cache(hffs: Run, repo: Repo) -> None:
    assert hffs("du", "acme/tiny").returncode == 0
    assert not os.path.exists(os.environ["XDG_CACHE_HOME"] + "/hffs")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["ls", "acme/none"], 3),
        (["ls", "acme/tiny@nowhere"], 3),
        (["ls", "acme/tiny/no/such/file"], 3),
        (["info", "acme/tiny", "--type", "dataset"], 3),
        (["du", "datasets/acme/tiny", "--type", "model"], 2),
        (["ls", "a b/c"], 2),
    ],
)
def test_a_missing_target_is_one_line_and_an_exit_code(hffs: Run, repo: Repo, words: list[str], code: int) -> None:
    done = hffs(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr


def test_a_hub_that_is_down_is_exit_5(hffs: Run, hub: Hub, repo: Repo) -> None:
    hub.down()
    done = hffs("info", "acme/tiny")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1), done.stderr
    hub.up()


def test_offline_a_repo_is_shown_as_last_seen(hffs: Run, hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        ["ls", "acme/tiny", "-r", "--json"], ["ls", "acme/tiny/onnx", "-r", "--include", "*.onnx"],
        ["ls", "acme/tiny/config.json"], ["du", "acme/tiny/onnx"],
    )  # fmt: skip
    assert hffs("hydrate", "acme/tiny", "--include", "config.json").returncode == 0
    before = [hffs(*each).stdout for each in words]
    assert all(before)
    hub.journal.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [hffs(*each).stdout for each in words] == before
    output = hffs("info", "acme/tiny").stdout
    assert f"  commit    {repo.commit_of('main')}\n" in output
    assert "  access    unknown, hffs is offline\n" in output
    assert "  size      4.0M in 5 files, 4.0M to fetch\n" in output
    for code, name in ((3, "acme/tiny/none"), (5, "acme/other"), (5, "acme/tiny@v1")):
        done = hffs("ls", name)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert hub.journal.requests() == []


def digest(repo: Repo, path: str) -> str:
    commit = repo.find("main")
    assert commit is not None
    sha256 = commit.tree.files[path].sha256
    assert sha256 is not None
    return sha256


def hold(repo: Repo, hub: Hub, path: str) -> None:
    """Puts the first block of a file into the cache, as a mount would do."""
    layout = Layout(os.environ["XDG_CACHE_HOME"] + "/hffs")
    layout.prepare()
    store = BlobStore(layout)
    sha256 = digest(repo, path)
    with_digest = Blob(sha256, 1 << 20, hub.endpoint, Digest("sha256", sha256))
    stored = store.open(with_digest)
    with stored.lease(range(1)) as claim:
        stored.publish(claim, 0, memoryview(bytes(256 * 1024)))
    stored.close()
    store.close()
