"""Places that cannot be mounted at, and odd ones that can: each told truly, none changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.hub import Hub, Repo
from tests.mount.conftest import Mount
from tests.mount.mounted import CHECKOUT, Commands, Mounted, eventually

from .conftest import MountAt
from .refusing import Refusals, at

FILES = {"config.json": b"{}", "sub/a.txt": b"a"}


@pytest.fixture(autouse=True)
def tiny(hub: Hub) -> Repo:
    hub.add_repo("acme/other", files={"other.txt": b"other"})
    return hub.add_repo("acme/tiny", files=FILES)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system that is not hffs."""
    where = tmp_path / "theirs"
    where.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"NO TMPFS, NOT TESTED: {made.stderr.strip()}")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def killed(mounted: Mounted) -> None:
    """Its daemon is gone, its mount is not."""
    mounted.kill()
    assert eventually(lambda: not mounted.is_alive(), 10)
    assert mounted.is_mounted()


# Places that will not do.


@pytest.mark.usefixtures("nothing_left")
def test_a_mountpoint_that_is_missing_is_made_by_the_command_in_the_line(refusals: Refusals, tmp_path: Path) -> None:
    where = tmp_path / "not" / "there"
    assert refusals.of(3, "mount", "acme/tiny", where) == f"{where} does not exist: mkdir -p {where}"
    assert not where.parent.exists()


@pytest.mark.usefixtures("nothing_left")
def test_a_file_is_no_mountpoint(refusals: Refusals, tmp_path: Path) -> None:
    where = tmp_path / "file"
    where.write_bytes(b"mine")
    line = refusals.of(1, "mount", "acme/tiny", where)
    assert line == f"{where} is not a directory: name an empty directory"
    assert where.read_bytes() == b"mine"


@pytest.mark.usefixtures("nothing_left")
def test_a_place_below_a_file_is_no_mountpoint(refusals: Refusals, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    assert str(tmp_path / "file" / "sub") in refusals.of(1, "mount", "acme/tiny", tmp_path / "file" / "sub")


@pytest.mark.usefixtures("nothing_left")
def test_a_directory_that_holds_something_is_left_as_it_is(hub: Hub, refusals: Refusals, place: Path) -> None:
    (place / "mine").write_bytes(b"mine")
    line = refusals.of(1, "mount", "acme/tiny", place)
    assert line == f"{place} is not empty: name an empty directory"
    assert (place / "mine").read_bytes() == b"mine"
    assert hub.journal.requests() == [], "the place is looked at before anybody is asked"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("where", ["", " ", "/"])
def test_no_place_at_all_is_a_mistake_of_use(refusals: Refusals, where: str) -> None:
    assert "mountpoint" in refusals.of(2, "mount", "acme/tiny", where)


def test_where_a_repo_is_mounted_already_the_line_names_it_and_the_mount_stays(
    mount: Mount, refusals: Refusals
) -> None:
    mounted = mount("acme/tiny")
    for wanted in ("acme/tiny", "acme/other"):
        line = refusals.of(1, "mount", wanted, mounted.path)
        assert line == f"{mounted.path} is already the mount of acme/tiny: hffs unmount {mounted.path}"
    assert (mounted / "config.json").read_bytes() == b"{}"
    assert len(at(mounted.path)) == 1


def test_a_place_inside_a_mount_of_ours_is_refused(mount: Mount, refusals: Refusals) -> None:
    mounted = mount("acme/tiny")
    for inside in (mounted / "sub", mounted / "nope", mounted / "sub" / ".." / "sub"):
        line = refusals.of(1, "mount", "acme/other", inside)
        assert line.endswith(f"is inside the mount of acme/tiny at {mounted.path}: name a directory outside of it")


@pytest.mark.usefixtures("nothing_left")
def test_the_mount_of_another_file_system_is_not_covered(refusals: Refusals, tmpfs: Path) -> None:
    line = refusals.of(1, "mount", "acme/tiny", tmpfs)
    assert line == f"{tmpfs} is already a mount (tmpfs): name another directory, or unmount it"
    assert len(at(tmpfs)) == 1


def test_a_directory_of_another_file_system_will_do(mount_at: MountAt, tmpfs: Path) -> None:
    (tmpfs / "place").mkdir()
    assert (mount_at(tmpfs / "place", "acme/tiny") / "config.json").read_bytes() == b"{}"


# A daemon that was killed.


def test_a_dead_mount_is_told_as_such_with_the_way_out(mount: Mount, commands: Commands, refusals: Refusals) -> None:
    mounted = mount("acme/tiny")
    killed(mounted)
    assert mounted.status()["state"] == "dead"
    shown = commands.expect("status")
    assert "dead" in shown
    assert f"hffs unmount {mounted.path}" in shown
    line = refusals.of(1, "du", mounted.path)
    assert line == f"the mount at {mounted.path} is dead: hffs unmount {mounted.path}"
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mounted.path)
    commands.expect("unmount", str(mounted.path))
    assert not at(mounted.path)
    refusals.nothing_left()


def test_a_dead_mount_is_replaced_by_mounting_over_it(mount: Mount, commands: Commands) -> None:
    mounted = mount("acme/tiny")
    killed(mounted)
    mounted.start("acme/other", [])
    assert len(at(mounted.path)) == 1
    assert (mounted / "other.txt").read_bytes() == b"other"
    assert mounted.status()["repo"] == "acme/other"
    assert mounted.status()["state"] == "serving"


def test_a_dead_mount_whose_record_is_lost_too_can_be_taken_off(
    mount: Mount, commands: Commands, refusals: Refusals
) -> None:
    mounted = mount("acme/tiny")
    killed(mounted)
    for left in commands.runtime.glob("*"):
        left.unlink()
    line = refusals.of(1, "mount", "acme/other", mounted.path)
    assert f"{mounted.path} is a dead fuse.hffs mount: hffs unmount {mounted.path}" in line
    commands.expect("unmount", str(mounted.path))
    assert not at(mounted.path)


def test_a_dead_mount_that_is_still_in_use_can_be_unmounted(mount: Mount, commands: Commands) -> None:
    mounted = mount("acme/tiny")
    file = os.open(mounted / "config.json", os.O_RDONLY | os.O_CLOEXEC)
    try:
        killed(mounted)
        commands.expect("unmount", str(mounted.path))
        assert not at(mounted.path)
        mounted.start("acme/tiny", [])
        assert (mounted / "config.json").read_bytes() == b"{}"
    finally:
        with suppress(OSError):  # its file system has gone
            os.close(file)


# Odd places that will do.


def test_a_link_to_a_directory_is_followed(mount_at: MountAt, commands: Commands, place: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("place")
    assert commands.expect("mount", "acme/tiny", str(link)).startswith(f"acme/tiny is mounted at {place}")
    try:
        assert (link / "config.json").read_bytes() == b"{}"
        for name in (link, place, link / "sub"):
            assert "acme/tiny" in commands.expect("status", str(name))
    finally:
        commands.expect("unmount", str(link))
    assert not at(place)
    assert link.is_symlink()


def test_a_place_may_be_named_from_where_one_stands(commands: Commands, place: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**commands.environment, "PYTHONPATH": str(CHECKOUT)}
        return subprocess.run(
            [sys.executable, "-m", "hffs", *words],
            cwd=place.parent, env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    done = run("mount", "acme/tiny", "./place/../place")
    assert done.returncode == 0, done.stderr
    try:
        assert (place / "config.json").read_bytes() == b"{}"
        assert "acme/tiny" in run("status", "place").stdout
        assert "acme/tiny" in run("du", "place/sub").stdout or run("du", "place/sub").returncode == 0
    finally:
        done = run("unmount", "place")
    assert done.returncode == 0, done.stderr
    assert not at(place)


@pytest.mark.parametrize(
    "name",
    [
        "with blank",
        "a,b=c",
        "back\\slash",
        "ä𝄞",
        "new\nline",
        "-dash",
        "quote\"'$(x)",
        "#1 100%",
        "d/" * 60 + "deep" + "x" * 100,
    ],
    ids=["blank", "comma", "backslash", "unicode", "newline", "dash", "quotes", "signs", "long"],
)
def test_a_place_may_have_any_name(mount_at: MountAt, commands: Commands, tmp_path: Path, name: str) -> None:
    where = tmp_path / name
    mounted = mount_at(where, "acme/tiny")
    assert (where / "config.json").read_bytes() == b"{}"
    assert mounted.status()["mountpoint"] == str(where)
    assert commands.expect("du", str(where)).count("\n") > 1
    commands.expect("unmount", str(where))
    assert not at(where)
