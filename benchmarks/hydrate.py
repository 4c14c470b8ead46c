"""A file brought wholly to disk: ``hffs hydrate`` beside the programs that download.

    python -m benchmarks.hydrate

Whole processes, from start to end. hffs also verifies what it brought (sha256), which of the others none does here.
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
    Column("requests", "requests", "{:.0f}"),
    Column("moved", "bytes moved / size", "{:.3f}"),
    Column("cpu", "CPU-s per GiB", "{:.2f}"),
]
LINKS = {"loopback": sides.LOOPBACK, "shared": sides.SHARED_CDN, "gigabit": sides.GIGABIT}


def measure(rig: Rig) -> None:
    size = rig.options.size * MIB
    folder = content.big(rig.served / "repo/big.bin", size).parent
    for name in rig.options.link or LINKS:
        link = LINKS[name]
        with sides.Hub(link, rig.work, {"st/big": folder}) as hub:
            title = f"{rig.options.size} MiB brought to disk, {link.name}"
            rig.compare(title, ways(hub, size, rig.options.only), COLUMNS, against="aria2c -x8")


def ways(hub: sides.Hub, size: int, only: list[str] | None) -> dict[str, Way]:
    url = hub.url("st/big", "big.bin")

    def way(program: Callable[[Path], sides.Ran]) -> Way:
        def measured(place: Path) -> Sample:
            hub.clear()
            ran = program(place)
            traffic = hub.quiet()
            return {
                "speed": size / MIB / ran.seconds, "seconds": ran.seconds, "requests": traffic.requests,
                "moved": traffic.bytes_sent / size, "cpu": ran.cpu / size * GIB,
            }  # fmt: skip

        return measured

    found = {
        "hffs hydrate": way(lambda place: sides.hffs_hydrate(hub.endpoint, "st/big", place)),
        "aria2c -x8": way(lambda place: sides.aria2c(url, place)),
        "aria2c -x16": way(lambda place: sides.aria2c(url, place, connections=16)),
        "hf download": way(lambda place: sides.hf_download(hub.endpoint, "st/big", place, "big.bin")),
        "curl": way(lambda place: sides.curl(url, place)),
    }
    return {name: each for name, each in found.items() if only is None or name.split()[0] in only}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A file brought wholly to disk, beside downloads.")
    parser.add_argument("--size", type=int, default=2048, help="MiB of the file (default 2048)")
    parser.add_argument("--link", action="append", choices=LINKS, help="only this network; may be repeated")
    parser.add_argument("--only", action="append", help="only this program, aria2c being always needed; repeatable")
    sys.exit(run("hydrate", measure, parser, seconds=3000))
