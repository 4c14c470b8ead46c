"""Folders not made by hffs, and the formats of the files in them: the input of ``hffs verify``."""

from __future__ import annotations

import math
import os
from pathlib import Path

from hypothesis import strategies as st

from hffs.cache.hf_cache import local_folder
from hffs.errors import UsageError
from hffs.formats import format_of, pointer_of
from hffs.policy import problem_of
from hffs.sources.hub.repo_id import parse_repo

from .mutations import broken, fuzzed
from .test_files_of_models import HEADERS, SAMPLES

COMMIT, ETAG = "c" * 40, "e" * 64
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 548105171\n"
FILES = {
    **SAMPLES,
    "config.json": [b'{"a": [1, 2, {"b": null}], "c": "\\u00e9"}', b'{"a": 1}\n{"a": 2}\n'],
    "b.npz": SAMPLES["a.zip"],
    "pointer.safetensors": [POINTER, POINTER.replace(b"\n", b"\r\n")],
}


NAMED = HEADERS.map(lambda data: ("a.safetensors", data))


@fuzzed(broken([POINTER, POINTER.replace(b"\n", b"\r\n")]), st.sampled_from([0, 0, 1, 1 << 20]))
def test_lfs_pointers(data: bytes, more: int) -> None:
    found = pointer_of(data, len(data) + more)
    if found is not None:
        assert len(data) + more < 1024
        assert found.sha256 is None or len(found.sha256) == 64
        assert found.size is None or 0 <= found.size < 10**18


@fuzzed(
    st.sampled_from(sorted(FILES)).flatmap(lambda name: st.tuples(st.just(name), broken(FILES[name]))) | NAMED,
    st.sampled_from([0, 0, 0, 1, 1 << 40]),
    st.booleans(),
)
def test_files_that_are_not_what_their_names_say(file: tuple[str, bytes], more: int, shrinking: bool) -> None:
    """``shrinking``: it is cut off while it is looked at."""
    name, data = file
    size = len(data) + more
    kept = data
    asked = 0

    def read(start: int, stop: int) -> bytes:
        nonlocal asked, kept
        assert 0 <= start <= stop <= size
        asked += 1
        assert asked < 100, "it goes round in circles"
        whole = kept[start:stop]
        if more:  # a hole
            whole += bytes(stop - max(start, min(stop, len(kept))))
        if shrinking:
            kept = kept[: len(kept) // 2]
        return whole

    found = problem_of(name, size, read)
    if found is not None:
        assert found.what.isprintable()
        assert len(found.what) < 500
    assert format_of(name, size) is None or size > 0


METADATA = f"{COMMIT}\n{ETAG}\n1700000000.5\n".encode()
CONFIG = b"""[core]
\trepositoryformatversion = 0
[remote "up"]
\turl = https://user:secret@huggingface.co/datasets/acme/rows.git
[remote "origin"]
\turl = git@hf.co:acme/tiny
\tfetch = +refs/heads/*:refs/remotes/origin/*
[lfs]
"""


def test_folders_of_downloads(tmp_path: Path) -> None:
    noted = tmp_path / ".cache/huggingface/download"
    noted.mkdir(parents=True)
    (tmp_path / "a.bin").write_bytes(b"x")

    @fuzzed(broken([METADATA]))
    def run(raw: bytes) -> None:
        (noted / "a.bin.metadata").write_bytes(raw)
        (found,) = local_folder.detect(str(tmp_path))
        assert found.kind == "local-dir"
        assert found.commit is None or len(found.commit) == 40
        (lying,) = local_folder.files(found)
        assert lying.etag is None or len(lying.etag) in (40, 64)
        seconds = local_folder._metadata(str(noted / "a.bin.metadata"))
        assert seconds is None or math.isfinite(seconds[2])

    run()


def test_clones(tmp_path: Path) -> None:
    git, other = tmp_path / ".git", tmp_path / "elsewhere"
    other.mkdir()
    (other / "refs/heads").mkdir(parents=True)

    @fuzzed(
        broken([CONFIG]),
        broken([b"ref: refs/heads/main\n", COMMIT.encode()]),
        broken([COMMIT.encode() + b"\n"]),
        broken([b"# pack-refs\n" + COMMIT.encode() + b" refs/heads/main\n"]),
        broken([b"gitdir: elsewhere\n", b"gitdir: " + os.fsencode(other)]),
    )
    def run(config: bytes, head: bytes, ref: bytes, packed: bytes, link: bytes) -> None:
        for name, raw in (("config", config), ("HEAD", head), ("refs/heads/main", ref), ("packed-refs", packed)):
            (other / name).write_bytes(raw)
        git.write_bytes(link)
        (found,) = local_folder.detect(str(tmp_path))
        assert found.kind == "clone"
        assert found.commit is None or len(found.commit) == 40
        if found.repo is not None:
            try:
                assert ".." not in parse_repo(found.repo[1], type=found.repo[0].value).id
            except UsageError:
                pass
        assert list(local_folder.files(found))

    run()


def test_names_in_huggingface_hubs_cache(tmp_path: Path) -> None:
    @fuzzed(
        broken([b"models--acme--tiny", b"datasets--acme--rows"]), broken([COMMIT.encode()]), broken([ETAG.encode()])
    )
    def run(repo: bytes, commit: bytes, blob: bytes) -> None:
        names = [name.replace(b"\0", b"").replace(b"/", b"")[:200] for name in (repo, commit, blob)]
        if any(name in (b"", b".", b"..") for name in names):
            return
        below = os.path.join(os.fsencode(tmp_path), b"hub")
        folder = os.path.join(below, names[0], b"snapshots", names[1])
        os.makedirs(folder)
        os.symlink(b"../../blobs/" + names[2], os.path.join(folder, b"a.bin"))
        try:
            for found in local_folder.detect(os.fsdecode(below)):
                assert found.kind == "plain" or found.commit == os.fsdecode(names[1])
                for lying in local_folder.files(found):
                    assert lying.etag is None or len(lying.etag) in (40, 64)
        finally:
            os.unlink(os.path.join(folder, b"a.bin"))
            os.removedirs(folder)
            tmp_path.mkdir(exist_ok=True)

    run()
