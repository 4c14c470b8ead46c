"""Local folders of other programs: their kind, repo and commit, and the files that may be the repo's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hffs.cache.hf_cache import local_folder
from hffs.cache.hf_cache.local_folder import LocalFolder
from hffs.model import RepoType

SHA, OTHER = "a" * 40, "b" * 40
ETAG = "c" * 64


def one(path: Path, hub: str = "") -> LocalFolder:
    (found,) = local_folder.detect(str(path), hub)
    return found


def paths(folder: LocalFolder) -> list[str]:
    return [each.path for each in local_folder.files(folder)]


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_a_snapshot_is_detected_by_its_path_and_its_files_by_their_blobs(tmp_path: Path) -> None:
    blob = f"hub/models--acme--tiny/blobs/{ETAG}"
    write(tmp_path, blob)
    snapshot = tmp_path / "hub/models--acme--tiny/snapshots" / SHA
    (snapshot / "sub").mkdir(parents=True)
    (snapshot / "sub/a.bin").symlink_to(f"../../../blobs/{ETAG}")
    (snapshot / "missing").symlink_to("../../blobs/missing")
    whole = LocalFolder("snapshot", str(snapshot), "", (RepoType.MODEL, "acme/tiny"), SHA, str(tmp_path / "hub"))
    assert one(snapshot) == whole
    assert one(snapshot / "sub/a.bin").subpath == "sub/a.bin"
    assert local_folder.detect(str(tmp_path / "hub")) == [whole]
    assert local_folder.detect(str(tmp_path / "hub/models--acme--tiny")) == [whole]
    missing, there = local_folder.files(whole)
    assert (missing.path, missing.size, missing.etag) == ("missing", None, None)
    assert (there.path, there.size, there.etag, there.link) == (
        "sub/a.bin",
        len(f"hub/models--acme--tiny/blobs/{ETAG}"),
        ETAG,
        True,
    )
    assert paths(one(snapshot / "sub/a.bin")) == ["sub/a.bin"]


def test_a_local_dir_records_etag_and_time_of_each_file(tmp_path: Path) -> None:
    write(tmp_path, "a.bin", "sub/b.bin", "mine.txt")
    noted = tmp_path / ".cache/huggingface/download"
    (noted / "sub").mkdir(parents=True)
    now = os.stat(tmp_path / "a.bin").st_mtime
    (noted / "a.bin.metadata").write_text(f"{SHA}\n{ETAG}\n{now + 1}\n")
    (noted / "sub/b.bin.metadata").write_text(f"{OTHER}\n{ETAG}\n{now + 2}\n")
    (noted / "mine.txt.metadata").write_text("torn")
    os.utime(tmp_path / "sub/b.bin", (now + 60, now + 60))
    found = one(tmp_path)
    assert (found.kind, found.commit, found.repo) == ("local-dir", OTHER, None)
    assert [(each.path, each.etag, each.modified) for each in local_folder.files(found)] == [
        ("a.bin", ETAG, False),
        ("mine.txt", None, False),
        ("sub/b.bin", ETAG, True),
    ]
    assert (one(tmp_path / "sub").root, one(tmp_path / "sub").subpath) == (str(tmp_path), "sub")


@pytest.mark.parametrize(
    ("url", "repo"),
    [
        ("https://huggingface.co/acme/tiny", (RepoType.MODEL, "acme/tiny")),
        ("https://user:secret@huggingface.co/datasets/acme/tiny.git", (RepoType.DATASET, "acme/tiny")),
        ("git@hf.co:spaces/acme/tiny", (RepoType.SPACE, "acme/tiny")),
        ("ssh://git@hf.co/acme/tiny", (RepoType.MODEL, "acme/tiny")),
        ("http://hub.example:8080/acme/tiny", (RepoType.MODEL, "acme/tiny")),
        ("https://huggingface.co/gpt2", (RepoType.MODEL, "gpt2")),
        ("https://github.com/acme/tiny", None),
        ("https://huggingface.co/acme/../tiny", None),
        ("https://[huggingface.co/acme/tiny", None),
        ("/srv/acme/tiny", None),
    ],
)
def test_a_clone_is_detected_with_its_repo(tmp_path: Path, url: str, repo: tuple[RepoType, str] | None) -> None:
    write(tmp_path, "a.bin", ".git/objects/x")
    (tmp_path / ".git/HEAD").write_text(f"{SHA}\n")
    (tmp_path / ".git/config").write_text(f'[core]\n\tbare = false\n[remote "origin"]\n\turl = {url}\n\tfetch = +x\n')
    found = one(tmp_path, "hub.example:8080")
    assert (found.kind, found.repo, found.commit) == ("clone", repo, SHA)
    assert paths(found) == ["a.bin"]


def test_a_clone_has_the_commit_of_its_head(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    git.mkdir()
    assert one(tmp_path).commit is None
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{SHA} refs/heads/main\n")
    assert one(tmp_path).commit == SHA
    write(git, "refs/heads/main")
    (git / "refs/heads/main").write_text(f"{OTHER}\n")
    assert one(tmp_path).commit == OTHER
    (git / "HEAD").write_text("ref: refs/../../etc/passwd\n")
    assert one(tmp_path).commit is None
    (git / "config").write_text("no configuration at all")
    assert one(tmp_path).repo is None


def test_the_git_directory_of_a_worktree_is_found(tmp_path: Path) -> None:
    write(tmp_path / "tree", "a.bin")
    (tmp_path / "git").mkdir()
    (tmp_path / "git/HEAD").write_text(SHA)
    (tmp_path / "tree/.git").write_text("gitdir: ../git\n")
    assert one(tmp_path / "tree").commit == SHA
    assert paths(one(tmp_path / "tree")) == ["a.bin"]


def test_other_folders_are_plain_and_only_regular_files_are_listed(tmp_path: Path) -> None:
    write(tmp_path, "b.bin", "sub/a.bin")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = one(tmp_path)
    assert (found.kind, found.root, found.subpath, found.repo) == ("plain", str(tmp_path), "", None)
    assert paths(found) == ["b.bin", "sub/a.bin"]
    single = one(tmp_path / "b.bin")
    assert (single.root, single.subpath, paths(single)) == (str(tmp_path), "b.bin", ["b.bin"])


def test_malformed_git_directories_neither_raise_nor_block(tmp_path: Path) -> None:
    (tmp_path / ".git").write_bytes(b"gitdir: a\0b\n")
    assert one(tmp_path) == LocalFolder("clone", str(tmp_path))
    (tmp_path / ".git").unlink()
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git/config")
    os.mkfifo(tmp_path / ".git/HEAD")
    (tmp_path / ".git/packed-refs").mkdir()
    assert one(tmp_path) == LocalFolder("clone", str(tmp_path))
    for name in ("config", "HEAD"):
        (tmp_path / ".git" / name).unlink()
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main")
    (tmp_path / ".git/refs/heads/main").mkdir(parents=True)
    (tmp_path / ".git/config").write_text(f'[remote "origin"]\na{" " * (1 << 19)}b\nurl = https://hf.co/a/b')
    assert one(tmp_path).repo == (RepoType.MODEL, "a/b"), "and a line of half a million blanks takes no hours"


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf"])
def test_metadata_without_a_finite_time_is_ignored(tmp_path: Path, seconds: str) -> None:
    write(tmp_path, "a.bin")
    (tmp_path / ".cache/huggingface/download").mkdir(parents=True)
    (tmp_path / ".cache/huggingface/download/a.bin.metadata").write_text(f"{SHA}\n{ETAG}\n{seconds}\n")
    (listed,) = local_folder.files(one(tmp_path))
    assert (listed.etag, one(tmp_path).commit) == (None, None)
