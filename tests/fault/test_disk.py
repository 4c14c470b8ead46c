"""A disk that is full, damaged, read-only or no disk: the reader gets its bytes, the user a line, the mount lives."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, Synthetic
from tests.mount.conftest import Mount
from tests.mount.mounted import Commands, Mounted, eventually, on_both_bindings, program

from .refusing import Refusals

NAME = "model.safetensors"
MADE = Synthetic(6 * (1 << 20) + 5, seed=41)
FILES: dict[str, bytes | Path | Synthetic] = {NAME: MADE, "config.json": b"{}"}
BLOCK = 256 * 1024


@pytest.fixture(autouse=True)
def tiny(hub: Hub) -> None:
    hub.add_repo("acme/tiny", files=FILES)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "none", where], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"NO TMPFS, NOT TESTED: {made.stderr.strip()}")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def digest(made: Synthetic) -> str:
    return hashlib.sha256(made.read(0, made.size)).hexdigest()


def sha256sum(path: Path) -> str:
    """By a program: pages are read ahead, and all of the file goes by."""
    return program("sha256sum", path, timeout=60).stdout.split()[0].removeprefix("\\")


# Places that will not do.


@pytest.mark.usefixtures("nothing_left")
def test_a_cache_directory_that_is_a_file_is_refused(refusals: Refusals, place: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"mine")
    line = refusals.of(1, "mount", "acme/tiny", place, "--cache-dir", tmp_path / "cache")
    assert str(tmp_path / "cache") in line
    assert "--cache-dir" in line
    assert (tmp_path / "cache").read_bytes() == b"mine"


@pytest.mark.usefixtures("nothing_left")
def test_a_cache_directory_that_cannot_be_written_is_refused(refusals: Refusals, place: Path, disk: Path) -> None:
    (disk / "cache").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    line = refusals.of(1, "mount", "acme/tiny", place, "--cache-dir", disk / "cache")
    assert str(disk / "cache") in line
    assert "read-only" in line.lower()
    assert "--cache-dir" in line


@pytest.mark.usefixtures("nothing_left")
def test_a_runtime_directory_that_cannot_be_written_is_refused(refusals: Refusals, place: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    line = refusals.of(1, "mount", "acme/tiny", place, HFFS_RUNTIME_DIR=str(disk / "run"))
    assert str(disk / "run") in line
    assert "HFFS_RUNTIME_DIR" in line


@pytest.mark.usefixtures("nothing_left")
def test_a_log_file_that_cannot_be_written_is_refused(refusals: Refusals, place: Path) -> None:
    line = refusals.of(1, "mount", "acme/tiny", place, "--log-file", "/nope/hffs.log")
    assert "/nope/hffs.log" in line
    assert "--log-file" in line


def test_a_cache_directory_inside_a_mount_is_refused(mount: Mount, refusals: Refusals, place: Path) -> None:
    mounted = mount("acme/tiny")
    line = refusals.of(1, "mount", "acme/tiny", place, "--cache-dir", mounted.path)
    assert "fuse" in line
    assert "choose a --cache-dir on a local disk" in line


@pytest.mark.usefixtures("nothing_left")
def test_a_cache_of_a_newer_hffs_is_left_alone(
    mount: Mount, commands: Commands, refusals: Refusals, place: Path
) -> None:
    mounted = mount("acme/tiny")
    assert (mounted / "config.json").read_bytes() == b"{}"
    mounted.unmount()
    (commands.cache / "version").write_text("99\n")
    line = refusals.of(1, "mount", "acme/tiny", place)
    assert "newer hffs (format 99)" in line
    assert "upgrade hffs" in line
    assert (commands.cache / "version").read_text() == "99\n"


# A disk that is full.


@pytest.mark.allow_warnings
@on_both_bindings
def test_a_full_disk_is_no_error_for_a_reader(hub: Hub, mount: Mount, commands: Commands, disk: Path) -> None:
    big = Synthetic(64 << 20, seed=42)
    hub.add_repo("acme/big", files={NAME: big, "config.json": b"{}"})
    commands.environment["HFFS_CACHE_DIR"] = str(disk / "cache")
    mounted = mount("acme/big", "--prefetch", "none")
    fill(disk / "filler")
    assert sha256sum(mounted / NAME) == digest(big)
    status = mounted.status()
    assert status["state"] == "degraded"
    assert "free some disk space" in str(status["last_errors"])
    assert (mounted / "config.json").read_bytes() == b"{}", "a file that was never opened before"
    # Again with no page in the kernel: local blocks come from disk, the others from the Hub, unstored.
    drop = ["dd", f"if={mounted / NAME}", "iflag=nocache", "count=0", "status=none"]
    program(*drop)
    assert sha256sum(mounted / NAME) == digest(big)
    assert eventually(lambda: mounted.status()["state"] == "degraded", 5)
    shown = commands.expect("status", str(mounted.path))
    assert "degraded" in shown


def fill(path: Path) -> None:
    filled = subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=4k"], capture_output=True, text=True, timeout=60)
    assert "No space" in filled.stderr


@pytest.mark.allow_warnings
def test_a_disk_that_has_room_again_is_used_again(hub: Hub, mount: Mount, commands: Commands, disk: Path) -> None:
    filler = disk / "filler"
    commands.environment["HFFS_CACHE_DIR"] = str(disk / "cache")
    mounted = mount("acme/tiny", "--prefetch", "none")
    fill(filler)
    assert (mounted / "config.json").read_bytes() == b"{}"
    assert sha256sum(mounted / NAME) == digest(MADE)
    assert mounted.status()["state"] == "degraded"
    filler.unlink()
    assert eventually(lambda: mounted.status()["state"] == "serving", 10), mounted.status()["last_errors"]
    # O_DIRECT asks the daemon again; fadvise (iflag=nocache) may leave pages of the first read in the kernel's cache.
    program("dd", f"if={mounted / NAME}", "of=/dev/null", "iflag=direct", "bs=1M", "status=none")
    assert sha256sum(mounted / NAME) == digest(MADE)
    assert mounted.status()["bytes_local"] > 0


# A disk that is damaged.


def the(commands: Commands, kind: str, size: int) -> Path:
    """The state or data file of the blob that has this size."""
    (found,) = [
        path.with_suffix(f".{kind}") for path in commands.cache.glob("blobs/*/*/*.data") if path.stat().st_size == size
    ]
    return found


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


# What happens to the state file and the data file of a blob, and how many warnings that is worth.
DAMAGES: dict[str, tuple[Callable[[Path, Path], object], int]] = {
    "state cut off": (lambda state, data: os.truncate(state, 100), 1),
    "state empty": (lambda state, data: os.truncate(state, 0), 1),
    "state garbage": (lambda state, data: state.write_bytes(os.urandom(5000)), 1),
    "state gone": (lambda state, data: state.unlink(), 0),  # nothing contradicts anything: there is just nothing
    "header flipped": (lambda state, data: flip(state, 40), 1),
    "data cut off": (lambda state, data: os.truncate(data, 3 * (1 << 20)), 1),
    "data longer": (lambda state, data: os.truncate(data, 9 * (1 << 20)), 1),
    "data gone": (lambda state, data: data.unlink(), 1),
    "data flipped": (lambda state, data: flip(data, 3 * BLOCK + 17), 1),
    "data a hole": (lambda state, data: overwrite(data, 5 * BLOCK, bytes(BLOCK)), 1),
}


@pytest.mark.allow_warnings
def test_a_damaged_cache_costs_a_fetch_and_a_warning_never_a_wrong_byte(
    hub: Hub, mount: Mount, commands: Commands
) -> None:
    """A file for each way to be damaged, told apart by their sizes; and one that is not."""
    made = {
        name: Synthetic(6 * (1 << 20) + number, seed=50 + number) for number, name in enumerate([*DAMAGES, "sound"])
    }
    hub.add_repo("acme/many", files={f"{name}.safetensors": one for name, one in made.items()})
    mounted = mount("acme/many", "--prefetch", "none")
    for name, one in made.items():
        assert sha256sum(mounted / f"{name}.safetensors") == digest(one)
    assert eventually(lambda: mounted.status()["verification"]["verified"] == len(made), 30)
    mounted.unmount()
    assert mounted.warnings_logged() == []
    names = {}
    for name, (damage, _) in DAMAGES.items():
        state, data = the(commands, "state", made[name].size), the(commands, "data", made[name].size)
        names[name] = state.parent.name
        damage(state, data)
    hub.journal.clear()
    mounted.start("acme/many", ["--prefetch", "none"])
    wrong = [name for name, one in made.items() if sha256sum(mounted / f"{name}.safetensors") != digest(one)]
    assert wrong == []
    fetched = {name: hub.journal.bytes_sent("cdn", file=f"{name}.safetensors") for name in made}
    whole = {name: one.size for name, one in made.items()}
    assert fetched == {**whole, "data flipped": BLOCK, "data a hole": BLOCK, "sound": 0}, "what is bad, and no more"
    warnings_logged = mounted.warnings_logged()
    warned = {name: sum(etag in line for line in warnings_logged) for name, etag in names.items()}
    assert warned == {name: times for name, (_, times) in DAMAGES.items()}
    assert len(warnings_logged) == sum(warned.values())
    assert eventually(lambda: mounted.status()["verification"]["verified"] == len(made), 30)


INDEX_DAMAGES: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(os.urandom(20_000)),
    "cut off": lambda path: os.truncate(path, path.stat().st_size // 2 + 7),
    "empty": lambda path: os.truncate(path, 0),
    "a folder": lambda path: program("sh", "-c", 'rm "$0" && mkdir "$0"', path),
}


@pytest.mark.allow_warnings
@pytest.mark.parametrize("damage", INDEX_DAMAGES)
def test_a_damaged_index_costs_a_listing_and_no_block(hub: Hub, mount: Mount, commands: Commands, damage: str) -> None:
    mounted = mount("acme/tiny")
    assert sha256sum(mounted / NAME) == digest(MADE)
    mounted.unmount()
    for left in commands.cache.glob("index/cache.db-*"):
        left.unlink()
    INDEX_DAMAGES[damage](commands.cache / "index" / "cache.db")
    hub.journal.clear()
    mounted.start("acme/tiny", ["--prefetch", "none"])
    assert sorted(os.listdir(mounted.path)) == sorted(FILES)
    assert sha256sum(mounted / NAME) == digest(MADE)
    assert hub.journal.bytes_sent("cdn") == 0, "blocks do not depend on the index"
    assert len(mounted.warnings_logged()) <= 1, mounted.warnings_logged()
    mounted.unmount()
    hub.journal.clear()
    mounted.start("acme/tiny", ["--prefetch", "none"])
    if damage != "a folder":
        assert hub.journal.requests("tree") == [], "the index works again"


@pytest.mark.allow_warnings
def test_a_blob_of_a_newer_format_is_refused_by_its_readers_and_harms_no_other(
    hub: Hub, mount: Mount, commands: Commands
) -> None:
    mounted = mount("acme/tiny")
    assert sha256sum(mounted / NAME) == digest(MADE)
    mounted.unmount()
    state = the(commands, "state", MADE.size)
    header = bytearray(state.read_bytes()[:1024])
    header[8:16] = struct.pack("<II", 99, 0)
    header[12:16] = struct.pack("<I", zlib.crc32(header[16:], zlib.crc32(bytes(header[:16]))))
    overwrite(state, 0, bytes(header))
    mounted.start("acme/tiny", ["--prefetch", "none"])
    assert (mounted / "config.json").read_bytes() == b"{}"
    with pytest.raises(OSError, match="Input/output"):
        (mounted / NAME).read_bytes()
    assert state.read_bytes()[:1024] == header


def test_a_cache_that_is_removed_under_a_mount_fills_again(hub: Hub, mount: Mount, commands: Commands) -> None:
    mounted: Mounted = mount("acme/tiny", "--prefetch", "none")
    assert sha256sum(mounted / NAME) == digest(MADE)
    program("rm", "-rf", commands.cache)
    # O_DIRECT asks the daemon again; fadvise (iflag=nocache) may leave pages of the first read in the kernel's cache.
    program("dd", f"if={mounted / NAME}", "of=/dev/null", "iflag=direct", "bs=1M", "status=none")
    assert sha256sum(mounted / NAME) == digest(MADE)
    assert (mounted / "config.json").read_bytes() == b"{}"
