"""A file four times the cache: in order twice, then at random by four processes, with and without the limit.

    python -m benchmarks.small_cache

Each reading begins without the kernel's pages. The cache directory is added up each 100 ms: what it took at most is a
column. The bytes are compared with those served, by a hash for the readings in order and piece by piece at random.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from . import content, sides
from .rig import MIB, Column, Rig, RunFailed, Sample, Way, drop_caches, run

COLUMNS = [
    Column("speed", "MiB/s in order", "{:.0f}"),
    Column("again", "MiB/s again", "{:.0f}"),
    Column("random", "random reads of 256 KiB /s", "{:.0f}"),
    Column("most", "most in the cache, MiB", "{:.0f}"),
    Column("moved", "bytes moved / size", "{:.2f}"),
    Column("cpu", "CPU-s", "{:.1f}"),
]
SAMPLE_SECONDS = 0.1
RANDOM_READS = 400  # by each of the four
# Reads 256 KiB at random places of the first file and compares them with the second's.
COMPARE = """
import os, random, sys
mounted, served = (os.open(path, os.O_RDONLY) for path in sys.argv[1:3])
dice, size = random.Random(int(sys.argv[3])), os.fstat(served).st_size
for _ in range(int(sys.argv[4])):
    offset = dice.randrange(size)
    if os.pread(mounted, 1 << 18, offset) != os.pread(served, 1 << 18, offset):
        sys.exit(f"wrong bytes at {offset}")
"""


class Watch(threading.Thread):
    """Adds a folder up ten times a second; ``most`` is the largest sum in bytes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._folder = folder
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            total = 0
            for where, _, names in os.walk(self._folder):
                for name in names:
                    try:
                        total += os.lstat(os.path.join(where, name)).st_blocks * 512
                    except FileNotFoundError:
                        pass
            self.most = max(self.most, total)

    def end(self) -> None:
        self._ended.set()
        self.join()


def measure(rig: Rig) -> None:
    size = rig.options.size * MIB
    served = content.big(rig.served / "repo/big.bin", size)
    digest = digest_of(served)
    with sides.Hub(sides.LOOPBACK, rig.work, {"st/big": served.parent}) as hub:
        ways: dict[str, Way] = {
            f"--cache-size {rig.options.limit}M": lambda place: sample(
                hub, place, served, digest, "--cache-size", f"{rig.options.limit}M"
            ),
            "no limit": lambda place: sample(hub, place, served, digest),
        }
        title = f"A file of {rig.options.size} MiB through a cache of {rig.options.limit} MiB, loopback"
        rig.compare(title, ways, COLUMNS, against="no limit")


def sample(hub: sides.Hub, place: Path, served: Path, digest: str, *options: str) -> Sample:
    size = served.stat().st_size
    hub.clear()
    with sides.HffsMount(place, hub.endpoint, "st/big", *options) as mount:
        path, watch = mount.path / "big.bin", Watch(place / "blocks")
        watch.start()
        try:
            speeds = []
            for _ in range(2):
                drop_caches()
                speeds.append(size / MIB / float(sides.read("sequential", path)["seconds"]))
            drop_caches()
            rate = at_random(path, served)
            drop_caches()
            if digest_of(path) != digest:
                raise RunFailed("wrong bytes")
        finally:
            watch.end()
        moved = hub.quiet().bytes_sent / size
        return {
            "speed": speeds[0], "again": speeds[1], "random": rate, "most": watch.most / MIB, "moved": moved,
            "cpu": mount.cpu(),
        }  # fmt: skip


def at_random(path: Path, served: Path) -> float:
    began = time.perf_counter()
    readers = [
        subprocess.Popen([sys.executable, "-c", COMPARE, path, served, str(seed), str(RANDOM_READS)])
        for seed in range(4)
    ]
    codes = [reader.wait(600) for reader in readers]
    if any(codes):
        raise RunFailed(f"the random readers ended with {codes}")
    return len(readers) * RANDOM_READS / (time.perf_counter() - began)


def digest_of(path: Path) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A file four times the cache.")
    parser.add_argument("--size", type=int, default=2048, help="MiB of the file (default 2048)")
    parser.add_argument("--limit", type=int, default=512, help="MiB of the cache (default 512)")
    sys.exit(run("small_cache", measure, parser, seconds=1800))
