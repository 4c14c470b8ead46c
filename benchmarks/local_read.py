"""A file that is wholly local, read through the mount: what the file system itself costs.

    python -m benchmarks.local_read

Beside the same file in an ordinary folder, and rclone with the file in its cache; all lie on the same disk. As root the
default binding hands a file that is whole and verified to the kernel; the libfuse binding answers each read itself.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from . import content, sides
from .rig import MIB, Column, Rig, RunFailed, Sample, Way, run

SPEED = [Column("speed", "MiB/s", "{:.0f}")]
READS = [Column("iops", "reads/s", "{:.0f}")]
NAME = "big.bin"
VERIFY_SECONDS = 60.0  # sha256 takes half a second for a GiB when nothing else runs


def measure(rig: Rig) -> None:
    folder = content.big(rig.served / f"repo/{NAME}", rig.options.size * MIB).parent
    native = rig.fresh("native") / NAME
    shutil.copyfile(folder / NAME, native)
    with (
        sides.Hub(sides.LOOPBACK, rig.work, {"st/big": folder}) as hub,
        sides.web_index({NAME: hub.signed("st/big", NAME)}) as index,
        sides.HffsMount(rig.fresh(), hub.endpoint, "st/big") as hffs,
        sides.HffsMount(rig.fresh(), hub.endpoint, "st/big", "--binding", "libfuse") as libfuse,
        sides.RcloneMount(rig.fresh(), index) as rclone,
    ):
        places = {
            "native": native,
            "hffs": hffs.path / NAME,
            "hffs --binding libfuse": libfuse.path / NAME,
            "rclone mount": rclone.path / NAME,
        }
        for path in places.values():
            sides.read("sequential", path)
        if not sides.eventually(lambda: hffs.status()["verification"]["verified"] == 1, VERIFY_SECONDS):
            raise RunFailed("the file was not verified in time")
        hub.clear()
        for way in ("sequential", "mapped"):
            for warm in (False, True):
                state = "warm" if warm else "dropped"
                title = f"{'read(2)' if way == 'sequential' else 'mmap'} of {rig.options.size} MiB, page cache {state}"
                ways = {name: _whole(way, path, warm) for name, path in places.items()}
                rig.compare(title, ways, SPEED, against="native")
        ways = {name: _scattered(path, rig.options.reads) for name, path in places.items()}
        rig.compare(f"{rig.options.reads} random preads of 4 KiB, page cache dropped", ways, READS, against="native")
        rig.say("Bytes fetched meanwhile", {"bytes": hub.traffic().bytes_sent})


def _whole(way: str, path: Path, warm: bool) -> Way:
    def timed(_: Path) -> Sample:
        if warm:
            sides.read(way, path)
        found = sides.read(way, path)
        return {"speed": found["bytes"] / MIB / found["seconds"]}

    return timed


def _scattered(path: Path, reads: int) -> Callable[[Path], Sample]:
    return lambda _: {"iops": reads / sides.read("scattered", path, reads, 1)["seconds"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Read a wholly local file through the mount.")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the file (default 1024)")
    parser.add_argument("--reads", type=int, default=2000, help="of 4 KiB (default 2000)")
    sys.exit(run("local_read", measure, parser, seconds=1200))
