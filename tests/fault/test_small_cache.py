"""A cache far smaller than what is read: every byte is right, and the directory keeps to its limit while they read."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hub import Hub, Synthetic
from tests.mount.conftest import Mount
from tests.mount.mounted import CHECKOUT, Commands, eventually, on_both_bindings

MIB = 1 << 20
NAME = "model.bin"
MADE = Synthetic(96 * MIB + 4321, seed=91)
LIMIT = 24 * MIB
# What may be on its way when it is looked at: state files and index are counted a little later than they are written.
OVER = 4 * MIB

READER = """
import hashlib, json, random, sys
path, seed, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(path, "rb", buffering=0) as file:
    if not seed:
        whole = hashlib.sha256()
        while piece := file.read(1 << 20):
            whole.update(piece)
        print(whole.hexdigest())
    else:
        dice = random.Random(seed)
        for _ in range(60):
            offset, length = dice.randrange(size), dice.choice((1, 4096, 300_000, 1 << 20))
            file.seek(offset)
            wanted, data = min(length, size - offset), b""
            while len(data) < wanted:
                piece = file.read(wanted - len(data))
                assert piece, (offset, len(data))
                data += piece
            print(offset, wanted, hashlib.sha256(data).hexdigest())
"""


def on_disk(folder: Path) -> int:
    """Bytes of disk, as du(1) tells."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


@contextmanager
def watched(folder: Path) -> Iterator[Callable[[], int]]:
    """The most the folder took, looked at each 20 ms."""
    ended = threading.Event()
    most = [0]

    def look() -> None:
        while not ended.wait(0.02):
            most[0] = max(most[0], on_disk(folder))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: most[0]
    finally:
        ended.set()
        watcher.join()


def reading(path: Path, seed: int) -> subprocess.Popen[str]:
    """In order with a seed of 0, else at random; through the kernel's cache, which is dropped before."""
    return subprocess.Popen(
        [sys.executable, "-c", READER, path, str(seed), str(MADE.size)], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )


def output(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    return out.splitlines()


def drop(path: Path) -> None:
    subprocess.run(["dd", f"if={path}", "iflag=nocache", "count=0", "status=none"], check=True, timeout=20)


def whole() -> str:
    return hashlib.sha256(MADE.read(0, MADE.size)).hexdigest()


@on_both_bindings
def test_a_file_four_times_the_cache_is_read_right_and_the_cache_keeps_to_its_size(
    hub: Hub, mount: Mount, commands: Commands
) -> None:
    hub.add_repo("acme/big", files={NAME: MADE})
    mounted = mount("acme/big", "--cache-size", "24M", "--prefetch", "none")
    path = mounted / NAME
    with watched(commands.cache) as most:
        for _ in range(2):
            assert output(reading(path, 0)) == [whole()]
            drop(path)
        for process in [reading(path, seed) for seed in range(1, 5)]:
            for line in output(process):
                offset, length, digest = line.split()
                assert hashlib.sha256(MADE.read(int(offset), int(length))).hexdigest() == digest
    assert most() <= LIMIT + OVER
    assert most() > LIMIT // 2, "it was used"
    cache = mounted.status()["cache"]
    assert cache["limit"] == LIMIT
    assert 0 < cache["bytes"] <= LIMIT
    assert abs(cache["bytes"] - on_disk(commands.cache)) <= OVER
    assert mounted.status()["state"] == "serving"


def test_the_smallest_limit_of_two_mounts_rules_and_ends_with_its_mount(
    hub: Hub, mount: Mount, commands: Commands
) -> None:
    hub.add_repo("acme/big", files={NAME: MADE})
    hub.add_repo("acme/other", files={"config.json": b"{}"})
    wide = mount("acme/big", "--cache-size", "200M", "--prefetch", "none")
    assert output(reading(wide / NAME, 0)) == [whole()]
    assert on_disk(commands.cache) > MADE.size
    narrow = mount("acme/other", "--cache-size", "24M", "--prefetch", "none")
    assert eventually(lambda: on_disk(commands.cache) <= LIMIT, 10), "also without any fetch"
    assert wide.status()["cache"]["limit"] == LIMIT
    narrow.kill()
    subprocess.run(["umount", "-l", narrow.path], check=True)
    assert eventually(lambda: wide.status()["cache"]["limit"] == 200 * MIB, 10)
    drop(wide / NAME)
    assert output(reading(wide / NAME, 0)) == [whole()]
    assert on_disk(commands.cache) > MADE.size


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 30 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=30m,mode=700", "none", where], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"NO TMPFS, NOT TESTED: {made.stderr.strip()}")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def test_a_disk_smaller_than_the_file_is_a_cache_too_and_keeps_a_tenth_free(
    hub: Hub, mount: Mount, commands: Commands, disk: Path
) -> None:
    hub.add_repo("acme/big", files={NAME: MADE})
    commands.environment["HFFS_CACHE_DIR"] = str(disk / "cache")
    mounted = mount("acme/big", "--prefetch", "none")
    assert output(reading(mounted / NAME, 0)) == [whole()]
    status = mounted.status()
    assert (status["state"], status["last_errors"]) == ("serving", [])
    assert status["cache"]["limit"] is None
    assert free(disk) >= 2 * MIB
    assert on_disk(disk) > 15 * MIB, "it was used"


def test_what_other_programs_fill_the_disk_with_is_made_room_for(
    hub: Hub, mount: Mount, commands: Commands, disk: Path
) -> None:
    hub.add_repo("acme/big", files={NAME: MADE})
    commands.environment["HFFS_CACHE_DIR"] = str(disk / "cache")
    mounted = mount("acme/big", "--prefetch", "none", "--min-free", "4M")
    assert output(reading(mounted / NAME, 0)) == [whole()]
    other = disk / "other"
    other.write_bytes(random.Random(1).randbytes(free(disk)))
    assert free(disk) == 0
    assert eventually(lambda: free(disk) >= 4 * MIB, 10), "also without any read"
    drop(mounted / NAME)
    assert output(reading(mounted / NAME, 0)) == [whole()]
    other.unlink()


@pytest.mark.allow_warnings
def test_hydrating_what_can_never_fit_is_refused_before_a_byte_is_fetched(
    hub: Hub, mount: Mount, commands: Commands
) -> None:
    hub.add_repo("acme/big", files={NAME: MADE})
    done = commands.run("hydrate", "acme/big", "--cache-size", "24M")
    assert done.returncode == 7
    lines = [line for line in done.stderr.splitlines() if "MiB" in line]
    assert len(lines) == 1
    assert "96 MiB are missing of 96, and the cache may hold 24 MiB here" in lines[0]
    assert "--cache-size" in lines[0]
    assert hub.journal.bytes_sent("cdn") == 0
