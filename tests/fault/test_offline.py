"""Without the Hub: what was seen of a repo is shown, what is here is read, anything else fails at once. A mount that
came up without it is as any other when it is back."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from tests.hub import Hub, Match, Repo, Synthetic, faults
from tests.mount.conftest import Mount
from tests.mount.mounted import Commands, Mounted, eventually, program

from .refusing import Refusals, error_line

BLOCK = 256 * 1024
WEIGHTS = Synthetic(8 * BLOCK, seed=7)
# A read that fails at once takes a millisecond; one that is tried again as usual takes ten seconds.
AT_ONCE = 5.0


@pytest.fixture
def repo(hub: Hub) -> Repo:
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS, "onnx/model.onnx": b"onnx", "onnx/a.txt": b"a"}
    return hub.add_repo("acme/tiny", files=files)


def beginning(mounted: Mounted) -> bytes:
    with (mounted / "model.safetensors").open("rb", buffering=0) as file:
        return file.read(1000)


def end_fails_at_once(mounted: Mounted) -> None:
    begun = time.monotonic()
    with (mounted / "model.safetensors").open("rb", buffering=0) as file:
        file.seek(7 * BLOCK)
        with pytest.raises(OSError) as caught:
            file.read(1000)
    assert caught.value.errno == errno.EIO
    assert time.monotonic() - begun < AT_ONCE


@pytest.fixture
def seen(mount: Mount, repo: Repo, hub: Hub) -> None:
    """It was mounted once, and one block and the small files are here."""
    mounted = mount("acme/tiny", "--fetch-size", "256K")
    assert beginning(mounted) == WEIGHTS.read(0, 1000)
    small = 2 + 4 + 1
    assert eventually(lambda: int(mounted.status()["bytes_local"]) >= BLOCK + small, 20)
    mounted.unmount()
    hub.journal.clear()


@pytest.mark.usefixtures("seen")
@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "HFFS_OFFLINE", "--offline"])
def test_an_offline_mount_sends_no_request_and_serves_cached_data(
    hub: Hub, repo: Repo, mount: Mount, commands: Commands, how: str
) -> None:
    if not how.startswith("-"):
        commands.environment[how] = "1"
    mounted = mount("acme/tiny", *([how] if how.startswith("-") else []))
    assert program("find", ".", "-type", "f", cwd=mounted.path).stdout.count("\n") == 4
    assert (mounted / "config.json").read_bytes() == b"{}"
    assert beginning(mounted) == WEIGHTS.read(0, 1000)
    end_fails_at_once(mounted)
    status = mounted.status()
    assert (status["state"], status["commit"], status["requests"]) == ("offline", repo.commit_of("main"), 0)
    assert hub.journal.requests() == []


@pytest.mark.usefixtures("seen")
def test_an_offline_mount_stays_so_when_its_daemon_is_replaced(hub: Hub, mount: Mount, commands: Commands) -> None:
    mounted = mount("acme/tiny", "--offline")
    commands.expect("restart", str(mounted.path))
    assert mounted.status()["state"] == "offline"
    assert beginning(mounted) == WEIGHTS.read(0, 1000)
    end_fails_at_once(mounted)
    mounted.unmount()
    assert hub.journal.requests() == []


@pytest.mark.usefixtures("seen")
def test_a_commit_and_a_folder_of_what_was_seen_are_mounted_offline(
    hub: Hub, repo: Repo, mount: Mount, commands: Commands, refusals: Refusals, place: Path
) -> None:
    commands.environment["HF_HUB_OFFLINE"] = "1"
    whole = mount(f"acme/tiny@{repo.commit_of('main')}")
    assert (whole / "config.json").read_bytes() == b"{}"
    folder = mount("acme/tiny/onnx")
    assert sorted(path.name for path in folder.path.iterdir()) == ["a.txt", "model.onnx"]
    assert "no folder 'none'" in refusals.of(3, "mount", "acme/tiny/none", place)
    assert "is a file, not a folder" in refusals.of(3, "mount", "acme/tiny/config.json", place)
    assert hub.journal.requests() == []


@pytest.mark.usefixtures("seen", "nothing_left")
def test_what_was_never_seen_is_told_with_what_to_do(
    hub: Hub, commands: Commands, refusals: Refusals, place: Path
) -> None:
    for name in ("acme/other", "acme/tiny@v1", "datasets/acme/tiny"):
        line = refusals.of(5, "mount", name, place, HF_HUB_OFFLINE="1")
        assert line == (
            f"{name} was never seen on this machine, and hffs is offline: "
            "to ask the Hub leave out --offline, or unset HF_HUB_OFFLINE"
        )
    assert "was never seen" in refusals.of(5, "hydrate", "acme/other", HF_HUB_OFFLINE="1")
    assert hub.journal.requests() == []


@pytest.mark.allow_warnings("that it is shown as it was")
@pytest.mark.usefixtures("seen")
def test_a_hub_that_is_down_at_mount_is_told_done_without_and_found_again(
    hub: Hub, repo: Repo, mount: Mount, commands: Commands, place: Path
) -> None:
    hub.down()
    done = commands.run("mount", "acme/tiny", str(place))
    try:
        assert done.returncode == 0, done.stderr
        line = error_line(done.stderr)
        assert line.startswith("cannot reach ")
        assert ": acme/tiny is shown as it was on " in line
        mounted = Mounted(commands, place)
        assert mounted.status()["state"] == "offline"
        assert mounted.status()["commit"] == repo.commit_of("main")
        assert (place / "config.json").read_bytes() == b"{}"
        assert beginning(mounted) == WEIGHTS.read(0, 1000)
        end_fails_at_once(mounted)
        hub.up()

        def readable() -> bool:
            with (place / "model.safetensors").open("rb", buffering=0) as file:
                file.seek(7 * BLOCK)
                try:
                    return file.read(1000) == WEIGHTS.read(7 * BLOCK, 1000)
                except OSError:
                    return False

        assert eventually(readable, 20), "a reader finds out soon after"
        assert mounted.status()["state"] == "serving"
    finally:
        commands.expect("unmount", str(place))


@pytest.mark.allow_warnings("that it is shown as it was")
@pytest.mark.usefixtures("seen")
@pytest.mark.parametrize("fault", [faults.unavailable(), faults.body(b"<html>Welcome to the hotel</html>")])
def test_a_hub_that_says_nothing_of_use_is_done_without(hub: Hub, mount: Mount, fault: faults.Fault) -> None:
    hub.faults.add(Match(kind="info"), fault)
    mounted = mount("acme/tiny", "--prefetch", "none")
    assert mounted.status()["state"] == "offline"
    assert (mounted / "config.json").read_bytes() == b"{}"


@pytest.mark.usefixtures("seen")
def test_hydrating_offline_ends_at_once_with_what_is_missing(hub: Hub, commands: Commands) -> None:
    commands.environment["HF_HUB_OFFLINE"] = "1"
    assert commands.run("hydrate", "acme/tiny", "--include", "*.json").returncode == 0
    begun = time.monotonic()
    assert commands.run("hydrate", "acme/tiny").returncode == 5
    assert time.monotonic() - begun < 4 * AT_ONCE
    assert hub.journal.requests() == []


@pytest.mark.usefixtures("seen")
def test_hydrating_with_the_hub_down_says_so_and_brings_what_is_here(hub: Hub, commands: Commands) -> None:
    hub.down()
    done = commands.run("hydrate", "acme/tiny", "--include", "*.json")
    assert done.returncode == 0
    assert ["acme/tiny is shown as it was on" in line for line in done.stderr.splitlines()].count(True) == 1, (
        done.stderr
    )
    assert commands.run("hydrate", "acme/tiny").returncode == 5
