"""Listings from a server that means harm, or is just odd: nothing leaves the mount, the rest is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hub import Hub, Match, faults
from tests.hub.faults import HOSTILE_NAMES
from tests.mount.conftest import Mount
from tests.mount.mounted import Commands, program

FILES = {"config.json": b"{}", "sub/a.txt": b"a"}
# What is listed besides and can be shown: names that are only ugly.
HARMLESS = {"new\nline", "back\\slash"}


@pytest.mark.allow_warnings
def test_names_that_would_lead_out_are_left_out_and_the_others_are_shown(
    hub: Hub, mount: Mount, tmp_path: Path
) -> None:
    hub.add_repo("acme/tiny", files=FILES)
    hub.faults.add(Match(kind="tree"), faults.listed(HOSTILE_NAMES))
    mounted = mount("acme/tiny", "--prefetch", "none")
    seen = {
        os.path.relpath(os.path.join(folder, name), mounted.path)
        for folder, _, names in os.walk(mounted.path)
        for name in names
    }
    assert seen == {"config.json", "sub/a.txt"} | HARMLESS
    assert (mounted / "config.json").read_bytes() == b"{}"
    assert os.stat(mounted / "config.json").st_size == 2, "listed twice: the first counts"
    for outside in ("escape", "../escape", "etc/passwd", "a/b", "trailing"):
        assert not (mounted / outside).exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"blocks", "run", "hf", "home", "mnt"}
    (line,) = mounted.complaints()
    assert "event=name-refused" in line
    assert "acme/tiny" in line


@pytest.mark.allow_warnings
def test_ugly_names_are_printed_harmlessly(hub: Hub, commands: Commands) -> None:
    hub.add_repo("acme/tiny", files=FILES)
    hub.faults.add(Match(kind="tree"), faults.listed([*HOSTILE_NAMES, "\x1b[31mred\x1b[0m", "\u202egnp.exe"]))
    done = commands.run("ls", "acme/tiny")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 + len(HARMLESS) + 2
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "new\\nline" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.allow_warnings
def test_a_folder_and_a_file_of_one_name_harm_nobody(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/tiny", files=FILES)
    hub.faults.add(Match(kind="tree"), faults.listed(["config.json/inside", "sub"], oid="1" * 40))
    mounted = mount("acme/tiny", "--prefetch", "none")
    shown = program("find", mounted.path, "-mindepth", "1", "-printf", "%y %P\n").stdout.splitlines()
    assert len(shown) == len(set(shown))
    assert {line.partition(" ")[2] for line in shown} >= {"config.json", "sub"}
    assert mounted.status()["state"] == "serving"


def test_sizes_that_cannot_be_are_asked_for_singly(hub: Hub, mount: Mount) -> None:
    def without_sizes(entries: list[dict[str, object]]) -> list[dict[str, object]]:
        for entry in entries:
            entry["size"] = {"config.json": -1, "sub/a.txt": None}.get(str(entry["path"]), entry["size"])
        return entries

    hub.add_repo("acme/tiny", files=FILES)
    hub.faults.add(Match(kind="tree"), faults.json_changed(without_sizes))
    mounted = mount("acme/tiny", "--prefetch", "none")
    assert os.stat(mounted / "config.json").st_size == 2
    assert (mounted / "sub" / "a.txt").read_bytes() == b"a"
    assert os.stat(mounted / "sub" / "a.txt").st_size == 1
