"""Identities are those git gives, synthetic content can be computed, refs and history hold together."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hub import Hub, Synthetic
from tests.hub.content import SYNTHETIC_BLOCK, wants_lfs


@pytest.mark.skipif(shutil.which("git") is None, reason="NO GIT, NOT TESTED: compares with the real one")
def test_blob_tree_and_commit_names_are_gits(hub: Hub, tmp_path: Path) -> None:
    files = {"a": b"1", "b/c": b"", "b.txt": b"x", "b0/c/d": b"y" * 5000, "ä b/z": b"z"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    repo = hub.add_repo("acme/git", files=dict(files), message="one")
    commit = repo.commits[repo.commit_of("main")]
    date = f"{int(commit.date.timestamp())} +0000"
    person = {"NAME": "alice", "EMAIL": "alice@example.invalid", "DATE": date}
    settings = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in person.items()}

    def git(*arguments: str) -> str:
        environment = {**os.environ, **settings, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        done = subprocess.run(["git", *arguments], cwd=tmp_path, env=environment, check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    assert git("rev-parse", "HEAD^{tree}") == commit.tree.oid
    assert git("rev-parse", "HEAD") == commit.sha
    entry = commit.tree.entry("b0/c")
    assert entry is not None
    assert git("rev-parse", "HEAD:b0/c") == entry.oid


def test_synthetic_parts_are_parts_of_the_whole(tmp_path: Path) -> None:
    content = Synthetic(3 * SYNTHETIC_BLOCK + 17, seed=5)
    whole = content.write(tmp_path).read_bytes()
    assert len(whole) == content.size
    for offset, length in ((0, 10), (SYNTHETIC_BLOCK - 3, 7), (content.size - 5, 100), (content.size, 1), (5, 2 << 20)):
        assert content.read(offset, length) == whole[offset : offset + length]
    blocks = {whole[at : at + 4096] for at in range(0, len(whole), 4096)}
    assert len(blocks) == -(-len(whole) // 4096)  # no page looks like another
    assert content.read(0, 64) != Synthetic(content.size, seed=6).read(0, 64)


@pytest.mark.parametrize(
    ("path", "size", "lfs"),
    [("a/model.safetensors", 1, True), ("config.json", 1, False), ("x.json", 11_000_000, True), ("bin", 1, False)],
)
def test_what_goes_to_lfs(path: str, size: int, lfs: bool) -> None:
    assert wants_lfs(path, size) is lfs


def test_lfs_rule_can_be_given(hub: Hub) -> None:
    repo = hub.add_repo("acme/lfs", files={"a.txt": b"1", "b.bin": b"2"}, lfs=lambda path, size: path == "a.txt")
    files = repo.commits[repo.commit_of("main")].tree.files
    assert files["a.txt"].sha256 == hashlib.sha256(b"1").hexdigest()
    assert files["b.bin"].sha256 is None


def test_shas_repeat_from_run_to_run() -> None:
    shas = set()
    for _ in range(2):
        with Hub() as hub:
            shas.add(hub.add_repo("acme/same", files={"a": b"1"}).commit_of("main"))
    assert len(shas) == 1


def test_revisions_of_every_spelling(hub: Hub) -> None:
    repo = hub.add_repo("acme/refs", files={"a": b"1"})
    first = repo.commit_of("main")
    second = repo.commit({"b": b"2"}, delete=["a"], message="second")
    repo.tag("v1", first)
    repo.pr(4, first)
    for spelling in ("v1", "refs/tags/v1", "refs/pr/4", first, first[:7], first.upper()):
        assert repo.commit_of(spelling) == first
    assert repo.commit_of("refs/heads/main") == second
    assert list(repo.commits[second].tree.files) == ["b"]
    for wrong in ("none", first[:6], "refs/pr/5", "refs/pr/x", "0" * 40):
        with pytest.raises(KeyError):
            repo.commit_of(wrong)


def test_folder_is_taken_without_git_and_caches(hub: Hub, tmp_path: Path) -> None:
    for name in (".git/config", ".cache/huggingface/x", "a/b.txt", ".gitattributes"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    repo = hub.add_repo("acme/folder", files=tmp_path)
    assert set(repo.commits[repo.commit_of("main")].tree.files) == {"a/b.txt", ".gitattributes"}
