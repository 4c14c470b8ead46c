"""Evicting data of a running mount: its readers still get the right bytes, and disk space is freed."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from tests.hub import Hub, Synthetic
from tests.mount.conftest import Mount
from tests.mount.mounted import Commands, Mounted, eventually, forget_pages

WEIGHTS = Synthetic(8 << 20, seed=3)
WHOLE = WEIGHTS.read(0, 8 << 20)


@pytest.fixture
def mounted(hub: Hub, mount: Mount) -> Mounted:
    hub.add_repo("acme/tiny", files={"model.safetensors": WEIGHTS, "sub/config.json": b"{}"})
    return mount("acme/tiny", "--prefetch", "none")


def disk(commands: Commands) -> int:
    return sum(path.stat().st_blocks * 512 for path in commands.cache.rglob("*.data"))


def test_data_evicted_under_an_open_file_is_fetched_again(mounted: Mounted, commands: Commands, hub: Hub) -> None:
    commands.expect("hydrate", str(mounted.path))
    path = mounted / "model.safetensors"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert file.read(10) == WHOLE[:10]
        output = commands.expect("cache", "evict", str(path))
        assert output.startswith(f"{path}: ")
        forget_pages(path)
        assert mapped[:] == WHOLE
        file.seek(0)
        assert file.read() == WHOLE
    commands.expect("cache", "evict", "acme/tiny")
    assert eventually(lambda: commands.expect("cache", "evict", "acme/tiny") != "" and disk(commands) == 0, 20)
    forget_pages(path)
    assert path.read_bytes() == WHOLE
    assert (mounted / "sub" / "config.json").read_bytes() == b"{}"
    assert disk(commands) >= len(WHOLE)


def test_prune_keeps_the_commit_of_a_mount(mounted: Mounted, commands: Commands, hub: Hub) -> None:
    commands.expect("hydrate", str(mounted.path))
    hub.repo("acme/tiny").commit({"model.safetensors": b"new"})
    commands.expect("hydrate", "acme/tiny")
    assert "0 blobs evicted" in commands.expect("cache", "prune")
    assert (mounted / "model.safetensors").read_bytes() == WHOLE
    mounted.unmount()
    assert "1 blob evicted" in commands.expect("cache", "prune")


def test_du_of_a_mount_reports_its_disk_usage(mounted: Mounted, commands: Commands, tmp_path: Path) -> None:
    assert "on disk" not in commands.expect("du", str(mounted.path))
    with (mounted / "model.safetensors").open("rb", buffering=0) as file:
        file.read(1000)
    commands.expect("hydrate", f"{mounted.path}/sub")
    taken = sum(path.stat().st_blocks * 512 for path in commands.cache.joinpath("blobs").rglob("*") if path.is_file())
    last = commands.expect("du", str(mounted.path)).splitlines()[-1]
    assert last.endswith(" on disk")
    assert f", 2 files, {taken / 1024:.1f}K on disk" in last or f"{taken / 2**20:.1f}M on disk" in last
    assert commands.expect("du", f"{mounted.path}/sub").endswith("1 file, 8.0K on disk\n")


def test_evict_pin_and_du_accept_a_path_in_the_mount_of_a_folder(hub: Hub, mount: Mount, commands: Commands) -> None:
    hub.add_repo("acme/parts", files={"a/x.txt": b"x" * 5000, "a/y.txt": b"y" * 5000, "b/x.txt": b"b" * 5000})
    mounted = mount("acme/parts/a")
    commands.expect("hydrate", str(mounted.path))
    assert commands.expect("du", str(mounted.path)).endswith(", 2 files, 24.0K on disk\n")
    commands.expect("cache", "pin", f"{mounted.path}/y.txt")
    output = commands.expect("cache", "evict", str(mounted.path))
    assert "1 blob evicted" in output
    assert "1 blob pinned" in output
    assert commands.expect("du", str(mounted.path)).endswith(", 2 files, 12.0K on disk\n")
    assert (mounted / "x.txt").read_bytes() == b"x" * 5000
