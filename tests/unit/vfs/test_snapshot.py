"""Paths of a mounted snapshot: from the repo's root, and below the mountpoint."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from hffs.vfs import MountedSnapshot, Patterns

FILES = ["vae/config.json", "vae/model.fp16.safetensors", "vae/deep/x.bin"]


def snapshot(subfolder: str = "", **more: Any) -> MountedSnapshot:
    return MountedSnapshot(MagicMock(root=subfolder), **more)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (snapshot(), FILES),
        (snapshot("vae"), ["config.json", "model.fp16.safetensors", "deep/x.bin"]),
        (snapshot(path="a/b"), [f"a/b/{path}" for path in FILES]),
        (
            snapshot("vae", path="c", renamed={"vae/model.fp16.safetensors": "model.safetensors"}),
            ["c/config.json", "c/model.safetensors", "c/deep/x.bin"],
        ),
        (snapshot(renamed={"vae/config.json": "config.json"}), ["config.json", *FILES[1:]]),
    ],
)
def test_a_path_in_the_repo_and_one_in_the_mount_lead_to_each_other(given: MountedSnapshot, shown: list[str]) -> None:
    assert [given.mount_path(path) for path in FILES] == shown
    assert [given.repo_path(path) for path in shown] == FILES


@pytest.mark.parametrize(
    ("path", "patterns", "selected"),
    [
        ("", Patterns(), FILES[:2]),
        ("c", Patterns(), FILES[:2]),
        ("c/model.safetensors", Patterns(), FILES[1:2]),
        ("c/model.fp16.safetensors", Patterns(), []),
        ("c/con", Patterns(), []),
        ("c", Patterns(["*.json"]), FILES[:1]),
    ],
)
def test_a_selection_holds_the_files_at_or_below_a_path_of_the_mount(
    path: str, patterns: Patterns, selected: list[str]
) -> None:
    renamed = {"vae/model.fp16.safetensors": "model.safetensors"}
    given = snapshot("vae", path="c", patterns=Patterns(exclude=["*.bin"]), renamed=renamed)
    chosen = given.select(path, patterns)
    assert chosen is not None
    assert [each for each in FILES if chosen.wanted(each)] == selected


def test_a_path_beside_the_snapshot_selects_nothing() -> None:
    assert snapshot(path="c").select("d") is None
    assert snapshot(path="c").select("cc/x") is None
