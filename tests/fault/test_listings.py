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
    (line,) = mounted.warnings_logged()
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
def test_a_folder_and_a_file_of_one_name_do_not_harm_other_files(hub: Hub, mount: Mount) -> None:
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


@pytest.mark.allow_warnings
@pytest.mark.parametrize("where", ["folder", "hf cache"])
def test_what_is_laid_down_stays_where_it_was_asked_for(
    where: str, hub: Hub, commands: Commands, tmp_path: Path
) -> None:
    """Every name that leads out, one that is ugly, and a link in the folder that leads elsewhere."""
    ugly = "sub/a\x1b[31mb.txt"
    hub.add_repo("acme/tiny", files={**FILES, ugly: b"red"})
    hub.faults.add(Match(kind="tree"), faults.listed([name for name in HOSTILE_NAMES if name not in HARMLESS]))
    folder, outside = tmp_path / "deep" / "folder", tmp_path / "outside"
    for each in (folder, outside):
        each.mkdir(parents=True)
    if where == "folder":
        done = commands.run("hydrate", "acme/tiny", "--to", str(folder))
    else:
        done = commands.run("hydrate", "acme/tiny", "--to-hf-cache", "--hf-cache", str(folder))
    assert done.returncode == 0, done.stderr
    laid = {
        os.path.relpath(os.path.join(below, name), folder)
        for below, _, names in os.walk(folder)
        for name in names
        if where == "folder" or "/snapshots/" in f"{below}/"
    }
    assert {"/".join(name.split("/")[-2:] if "sub" in name else name.split("/")[-1:]) for name in laid} == {
        *FILES,
        ugly,
    }
    assert {path.name for path in tmp_path.iterdir()} <= {"deep", "outside", "blocks", "run", "hf", "home", "mnt"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["folder"]
    if where == "folder":
        (folder / "sub" / "a.txt").unlink()
        (folder / "sub" / ugly.rpartition("/")[2]).unlink()
        (folder / "sub").rmdir()
        (folder / "sub").symlink_to(outside)
        again = commands.run("hydrate", "acme/tiny", "--to", str(folder))
        assert again.returncode != 0
        assert "symbolic link" in again.stderr
        assert "\x1b" not in again.stderr
        assert list(outside.iterdir()) == []


@pytest.mark.allow_warnings
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_errors_name_ugly_files_harmlessly(debug: tuple[str, ...], hub: Hub, commands: Commands) -> None:
    hub.add_repo("acme/tiny", files=FILES)
    hub.faults.add(Match(kind="tree"), faults.listed(["gone\x1b]0;owned\x07.bin", "x\x1b[2J\u2028hffs: all is well"]))
    done = commands.run("hydrate", "acme/tiny", *debug)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "gone\\x1b]0;owned\\x07.bin" in output
    assert not set(output) & set("\x1b\x07")
    assert not any(line.startswith("hffs: all is well") for line in output.splitlines())
    named = commands.run("ls", "acme/tiny/gone\x1b[31m", *debug)
    assert named.returncode != 0
    assert "\x1b" not in named.stdout + named.stderr
