"""What a name and its options show: revisions, folders, patterns, kinds of repos, each mounted for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub import Hub, Repo

from .conftest import Mount
from .mounted import Commands, Mounted, mountinfo

FILES = {
    "config.json": b"old",
    "model.safetensors": b"old weights",
    "onnx/model.onnx": b"onnx",
    "onnx/deep/config.json": b"{}",
    "notes/a.txt": b"a",
}


@pytest.fixture
def repo(hub: Hub) -> Repo:
    """Four commits that differ in config.json: v1 (a tag), main, dev/next (a branch), a pull request."""
    repo = hub.add_repo("acme/tiny", files=FILES)
    first = repo.commit_of("main")
    repo.tag("v1", first)
    main = repo.commit({"config.json": b"main"})
    repo.branch("dev/next", repo.commit({"config.json": b"dev"}))
    repo.pr(1, repo.commit({"config.json": b"pr"}))
    repo.branch("main", main)
    return repo


def shown(mounted: Mounted) -> dict[str, bytes]:
    return {
        path.relative_to(mounted.path).as_posix(): path.read_bytes()
        for path in mounted.path.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("revision", "config"), [(None, b"main"), ("v1", b"old"), ("dev/next", b"dev"), ("refs/pr/1", b"pr")]
)
@pytest.mark.parametrize("way", ["option", "name"])
def test_a_revision_is_a_branch_a_tag_or_a_pull_request(
    mount: Mount, repo: Repo, revision: str | None, config: bytes, way: str
) -> None:
    if way == "option":
        mounted = mount("acme/tiny", revision=revision)
    else:
        mounted = mount(f"acme/tiny@{revision.replace('/', '%2F')}" if revision else "hf://acme/tiny")
    assert shown(mounted) == {**FILES, "config.json": config}
    assert mounted.status()["commit"] == repo.commit_of(revision or "main")


def test_a_pull_request_may_be_written_with_its_slashes(mount: Mount, repo: Repo) -> None:
    assert shown(mount("acme/tiny@refs/pr/1/notes")) == {"a.txt": b"a"}


def test_a_revision_may_be_a_commit(mount: Mount, repo: Repo) -> None:
    commit = repo.commit_of("v1")
    mounted = mount("acme/tiny", revision=commit)
    assert (mounted / "config.json").read_bytes() == b"old"
    assert mounted.status()["commit"] == commit


def test_a_mount_shows_one_commit_for_ever(mount: Mount, repo: Repo) -> None:
    mounted = mount("acme/tiny", "--prefetch", "none")
    repo.commit({"config.json": b"newer, and longer", "added.txt": b"new"}, delete=["notes/a.txt"])
    assert shown(mounted) == {**FILES, "config.json": b"main"}
    assert mounted.status()["commit"] != repo.commit_of("main")
    mounted.unmount()
    assert shown(mount("acme/tiny"))["config.json"] == b"newer, and longer"


@pytest.mark.parametrize("arguments", [["acme/tiny@v1/onnx"], ["acme/tiny", "--subfolder", "onnx", "--revision", "v1"]])
def test_a_folder_of_a_repo_is_mounted_as_the_root(mount: Mount, repo: Repo, arguments: list[str]) -> None:
    mounted = mount(*arguments)
    assert shown(mounted) == {"model.onnx": b"onnx", "deep/config.json": b"{}"}
    assert not (mounted / "config.json").exists()


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--include", "*.json"], {"config.json", "onnx/deep/config.json"}),
        (["--include", "onnx/", "--include", "*.txt"], {"onnx/model.onnx", "onnx/deep/config.json", "notes/a.txt"}),
        (["--exclude", "*.safetensors", "--exclude", "onnx/*"], {"config.json", "notes/a.txt"}),
        (["--include", "onnx/*", "--exclude", "*.json"], {"onnx/model.onnx"}),
    ],
)
def test_patterns_choose_files_and_hide_folders_they_leave_empty(
    mount: Mount, repo: Repo, options: list[str], left: set[str]
) -> None:
    mounted = mount("acme/tiny", *options)
    assert set(shown(mounted)) == left
    folders = {path.relative_to(mounted.path).as_posix() for path in mounted.path.rglob("*") if path.is_dir()}
    assert folders == {parent.as_posix() for path in left for parent in Path(path).parents} - {"."}
    assert not any((mounted / path).exists() for path in set(FILES) - left)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("dataset", ["datasets/acme/thing"]),
        ("dataset", ["acme/thing", "--type", "dataset"]),
        ("space", ["spaces/acme/thing"]),
        ("space", ["hf://spaces/acme/thing@main"]),
    ],
)
def test_datasets_and_spaces_have_names_of_their_own(hub: Hub, mount: Mount, kind: str, arguments: list[str]) -> None:
    for each in ("model", "dataset", "space"):
        hub.add_repo("acme/thing", type=each, files={"README.md": each.encode(), "data/train.parquet": b"PAR1" * 99})
    mounted = mount(*arguments)
    assert shown(mounted) == {"README.md": kind.encode(), "data/train.parquet": b"PAR1" * 99}
    assert mounted.status()["type"] == kind


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["acme/nope"], 3),
        (["acme/tiny", "--revision", "nope"], 3),
        (["acme/tiny/nope"], 3),
        (["acme/tiny/x/..", "--type", "space"], 2),
    ],
)
def test_a_name_that_means_nothing_is_one_line_and_leaves_nothing_mounted(
    commands: Commands, repo: Repo, tmp_path: Path, arguments: list[str], code: int
) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    done = commands.run("mount", arguments[0], str(where), *arguments[1:])
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("hffs: ")
    assert done.stderr.count("\n") == 1
    assert not any(str(where) in line for line in mountinfo())
