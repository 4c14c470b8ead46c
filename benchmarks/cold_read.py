"""A cold file read from start to end: a fresh mount beside the programs that download it.

    python -m benchmarks.cold_read

hffs and rclone start with an empty cache and a mount that answers already (its seconds are a column of their own); they
are read 1 MiB at a time. The others write the file to the same disk, and so do both mounts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from . import content, sides
from .rig import GIB, MIB, Column, Rig, Sample, Way, run

COLUMNS = [
    Column("speed", "MiB/s", "{:.0f}"),
    Column("seconds", "s", "{:.2f}"),
    Column("mount", "mount s", "{:.2f}"),
    Column("requests", "requests", "{:.0f}"),
    Column("moved", "bytes moved / size", "{:.3f}"),
    Column("cpu", "CPU-s per GiB", "{:.2f}"),
    Column("memory", "peak MiB", "{:.0f}"),
]
LINKS = {"loopback": sides.LOOPBACK, "shared": sides.SHARED_CDN, "gigabit": sides.GIGABIT}


def measure(rig: Rig) -> None:
    size = rig.options.size * MIB
    folder = content.big(rig.served / "repo/big.bin", size).parent
    for name in rig.options.link or LINKS:
        link = LINKS[name]
        with (
            sides.Hub(link, rig.work, {"st/big": folder}) as hub,
            sides.web_index({"big.bin": hub.signed("st/big", "big.bin")}) as index,
        ):
            title = f"Cold sequential read of {rig.options.size} MiB, {link.name}"
            rig.compare(title, ways(hub, index, size), COLUMNS, against="curl")


def ways(hub: sides.Hub, index: str, size: int) -> dict[str, Way]:
    url = hub.url("st/big", "big.bin")

    def figures(seconds: float, cpu: float, mount: float | None = None, memory: float = 0.0) -> Sample:
        traffic = hub.quiet()
        found = {
            "speed": size / MIB / seconds, "seconds": seconds, "requests": traffic.requests,
            "moved": traffic.bytes_sent / size, "cpu": cpu / size * GIB,
        }  # fmt: skip
        return found if mount is None else {**found, "mount": mount, "memory": memory}

    def hffs(place: Path) -> Sample:
        hub.clear()
        with sides.HffsMount(place, hub.endpoint, "st/big") as mount:
            seconds = read_whole(mount.path / "big.bin", size)
            return figures(seconds, mount.cpu(), mount.seconds, mount.memory())

    def rclone(place: Path) -> Sample:
        hub.clear()
        with sides.RcloneMount(place, index) as mount:
            seconds = read_whole(mount.path / "big.bin", size)
            return figures(seconds, mount.cpu(), mount.seconds, mount.memory())

    def download(program: Callable[[Path], sides.Ran]) -> Way:
        def way(place: Path) -> Sample:
            hub.clear()
            ran = program(place)
            return figures(ran.seconds, ran.cpu)

        return way

    return {
        "hffs": hffs,
        "curl": download(lambda place: sides.curl(url, place)),
        "aria2c -x8": download(lambda place: sides.aria2c(url, place)),
        "hf download": download(lambda place: sides.hf_download(hub.endpoint, "st/big", place, "big.bin")),
        "rclone mount": rclone,
    }


def read_whole(path: Path, size: int) -> float:
    found = sides.read("sequential", path)
    assert found["bytes"] == size, f"{found['bytes']} of {size} bytes"
    return float(found["seconds"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Cold sequential read, beside downloads.")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the file (default 1024)")
    parser.add_argument("--link", action="append", choices=LINKS, help="only this network; may be repeated")
    sys.exit(run("cold_read", measure, parser, seconds=3000))
