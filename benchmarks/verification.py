"""What it costs to know that a file is right: hashing a local file, and a cold read with its hashing or without.

    python -m benchmarks.verification

Beside ``sha256sum`` of the same file. hffs always hashes; the cold read that does not is of a daemon whose verifier was
told to do nothing, by a module that only this benchmark puts in its way.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from . import content, sides
from .cold_read import read_whole
from .rig import CHECKOUT, GIB, MIB, Column, Rig, Sample, Way, run

NAME = "big.bin"
HASHING = [
    Column("core", "MiB/s of a core", "{:.0f}"),
    Column("speed", "MiB/s", "{:.0f}"),
    Column("cpu", "CPU-s per GiB", "{:.2f}"),
]
READING = [
    Column("speed", "MiB/s", "{:.0f}"),
    Column("cpu", "CPU-s per GiB", "{:.2f}"),
    Column("all", "CPU-s per GiB until verified", "{:.2f}"),
]
VERIFY_SECONDS = 60.0
# A process that puts a file into a cache as a fetch would, and times what verifies it.
OURS = """
import json, os, sys, time
from hffs.cache import BlobStore, Layout
from hffs.model import Blob, Digest
from hffs.ranges import BLOCK_SIZE, block_count
folder, path, sha256 = sys.argv[1:]
layout = Layout(folder); layout.prepare(); store = BlobStore(layout)
size = os.path.getsize(path)
stored = store.open(Blob(sha256, size, "http://hub", Digest("sha256", sha256)))
with open(path, "rb") as file, stored.claim(range(block_count(size))) as claim:
    for first in range(0, block_count(size), 16):
        stored.publish(claim, first, file.read(16 * BLOCK_SIZE))
wall, cpu = time.perf_counter(), time.process_time()
assert stored.verify(time.time())
print(json.dumps({"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
"""
NO_HASHING = """
import sys
if any("hffs.daemon" in word for word in sys.orig_argv):
    from hffs.transfer.hash_worker import HashWorker
    HashWorker.submit = HashWorker.grown = lambda self, target: None
"""


def measure(rig: Rig) -> None:
    size = rig.options.size * MIB
    path = content.big(rig.served / f"repo/{NAME}", size)
    title = f"Hashing a local file of {rig.options.size} MiB, in the page cache"
    rig.compare(title, {"hffs": _ours(path, size), "sha256sum": _sha256sum(path, size)}, HASHING, against="sha256sum")
    links = {"loopback": sides.LOOPBACK, "gigabit": sides.GIGABIT}
    for name in rig.options.link or links:
        with sides.Hub(links[name], rig.work, {"st/big": path.parent}) as hub:
            title = f"Cold sequential read of {rig.options.size} MiB, {links[name].name}"
            ways = {"hashed": _cold(hub, size), "not hashed": _cold(hub, size, hashed=False)}
            rig.compare(title, ways, READING, against="not hashed")
            title = f"The same with a cache of {rig.options.size // 4} MiB"
            small = ("--cache-size", str(size // 4))
            ways = {"hashed": _cold(hub, size, *small), "not hashed": _cold(hub, size, *small, hashed=False)}
            rig.compare(title, ways, READING[:2], against="not hashed")


def _figures(seconds: float, cpu: float, size: int) -> Sample:
    return {"core": size / MIB / cpu, "speed": size / MIB / seconds, "cpu": cpu / size * GIB}


def _sha256sum(path: Path, size: int) -> Way:
    def way(_: Path) -> Sample:
        path.read_bytes()
        ran = sides.program(["sha256sum", path])
        return _figures(ran.seconds, ran.cpu, size)

    return way


def _ours(path: Path, size: int) -> Way:
    sha256 = sides.program(["sha256sum", path]).output.split()[0]

    def way(place: Path) -> Sample:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, "-c", OURS, place / "cache", path, sha256]
        found = json.loads(sides.program(command, environment=environment).output)
        return _figures(found["seconds"], found["cpu"], size)

    return way


def _cold(hub: sides.Hub, size: int, *options: str, hashed: bool = True) -> Way:
    def way(place: Path) -> Sample:
        hub.clear()
        with _environment(place, hashed), sides.HffsMount(place, hub.endpoint, "st/big", *options) as mount:
            seconds = read_whole(mount.path / NAME, size)
            cpu = mount.cpu()
            found = {"speed": size / MIB / seconds, "cpu": cpu / size * GIB}
            if hashed and not options:
                waited = sides.eventually(lambda: _verified(mount.status()) == 1, VERIFY_SECONDS)
                assert waited, "the file was not verified in time"
            if not hashed:
                assert _verified(mount.status()) == 0, "it was hashed all the same"
            return found | {"all": mount.cpu() / size * GIB}

    return way


def _verified(status: Mapping[str, dict[str, int]]) -> int:
    return status["verification"]["verified"]


@contextmanager
def _environment(place: Path, hashed: bool) -> Iterator[None]:
    """PYTHONPATH is the one variable that goes through to the daemon, for profilers: here it leads to what hinders the
    verifier."""
    folder = place / "hindering"
    before = os.environ.get("PYTHONPATH")
    try:
        if not hashed:
            folder.mkdir()
            (folder / "sitecustomize.py").write_text(NO_HASHING)
            os.environ["PYTHONPATH"] = str(folder)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Verification: hashing, and cold reads with it and without.")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the file (default 1024)")
    parser.add_argument("--link", action="append", choices=["loopback", "gigabit"], help="only this network")
    sys.exit(run("verification", measure, parser, seconds=1500))
