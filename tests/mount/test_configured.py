"""A mount described by a file: ``hffs mount @NAME``, as the systemd units run it, and the same from Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import hffs
from tests.hub import Hub

from .mounted import Commands


@pytest.fixture
def place(hub: Hub, commands: Commands, tmp_path: Path) -> Iterator[Path]:
    """An empty directory that ``model.toml`` names; unmounted at the end."""
    hub.add_repo("acme/tiny", files={"config.json": b"{}", "model.bin": b"weights"})
    where = tmp_path / "mnt"
    where.mkdir()
    folder = Path(commands.environment["HOME"]) / ".config" / "hffs"
    folder.mkdir(parents=True)
    (folder / "hffs.toml").write_text('prefetch = "none"\ncache-size = "20M"\n')
    text = f'repo = "acme/tiny@main"\nmountpoint = "{where}"\ninclude = ["*.json"]\ncache-size = "30M"\n'
    (folder / "model.toml").write_text(text)
    yield where
    commands.run("unmount", "--lazy", str(where))


def limit(commands: Commands) -> int:
    (status,) = json.loads(commands.expect("status", "--json"))["mounts"]
    return int(status["cache"]["limit"])


def test_a_file_names_repo_mountpoint_and_settings(commands: Commands, place: Path) -> None:
    output = commands.expect("mount", "@model")
    assert output.startswith(f"acme/tiny@main is mounted at {place} (commit ")
    assert [path.name for path in place.iterdir()] == ["config.json"]
    assert limit(commands) == 30 << 20


def test_the_command_line_overrides_the_file(commands: Commands, place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    commands.expect("mount", "@model", str(other), "--cache-size", "40M", "--include", "*.bin")
    try:
        assert [path.name for path in other.iterdir()] == ["model.bin"]
        assert limit(commands) == 40 << 20
        assert list(place.iterdir()) == []
    finally:
        commands.expect("unmount", str(other))


def test_python_accepts_the_same_name(commands: Commands, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    for name in ("HOME", "HF_ENDPOINT", "HFFS_CACHE_DIR", "HFFS_RUNTIME_DIR"):
        monkeypatch.setenv(name, commands.environment[name])
    with hffs.mount("@model") as mount:
        assert mount.path == str(place)
        assert (place / "config.json").read_bytes() == b"{}"
        assert limit(commands) == 30 << 20
