"""Cold reads here and there: single 4 KiB reads, and many processes that fault in pieces of one file at once.

    python -m benchmarks.random_read

The second is what loaders do that map weights and run one process per device. Pieces do not overlap, so bytes moved
over bytes asked says what read-ahead wasted. Downwards, because glibc's memcpy goes that way at times: a copy of 4 MiB
out of a mapped file did, here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from . import content, sides
from .rig import MIB, Column, Rig, Sample, Way, quantile, run

Mount = sides.HffsMount | sides.RcloneMount

READS = [
    Column("p50", "p50 ms"),
    Column("p99", "p99 ms"),
    Column("mean", "mean ms"),
    Column("moved", "MiB moved per read", "{:.2f}"),
    Column("requests", "requests per read", "{:.2f}"),
]
PIECES = [
    Column("speed", "MiB/s", "{:.0f}"),
    Column("factor", "bytes moved / asked", "{:.2f}"),
    Column("longest", "longest wait s", "{:.2f}"),
    Column("p50", "p50 of a piece s", "{:.2f}"),
    Column("requests", "requests", "{:.0f}"),
    Column("cpu", "CPU-s", "{:.2f}"),
]


def measure(rig: Rig) -> None:
    options = rig.options
    folder = content.big(rig.served / "repo/big.bin", options.size * MIB).parent

    def both(link: sides.Link, title: str, columns: list[Column], read: Callable[[Mount, sides.Hub], Sample]) -> None:
        with (
            sides.Hub(link, rig.work, {"st/big": folder}) as hub,
            sides.web_index({"big.bin": hub.signed("st/big", "big.bin")}) as index,
        ):
            ways: dict[str, Way] = {
                "hffs": _way(lambda place: sides.HffsMount(place, hub.endpoint, "st/big"), hub, read),
                "rclone mount": _way(lambda place: sides.RcloneMount(place, index), hub, read),
            }
            rig.compare(f"{title} of {options.size} MiB, {link.name}", ways, columns, against="rclone mount")

    def scattered(mount: Mount, hub: sides.Hub) -> Sample:
        waits = sides.read("scattered", mount.path / "big.bin", options.reads, options.seed)["waits"]
        traffic = hub.quiet()
        return {
            "p50": quantile(waits, 0.5) * 1000, "p99": quantile(waits, 0.99) * 1000,
            "mean": sum(waits) / len(waits) * 1000, "moved": traffic.bytes_sent / MIB / len(waits),
            "requests": traffic.requests / len(waits),
        }  # fmt: skip

    def faulted(order: str, mount: Mount, hub: sides.Hub) -> Sample:
        found = sides.read("faulted", mount.path / "big.bin", 8, 30, options.seed, order)
        cpu, traffic = mount.cpu(), hub.quiet()
        return {
            "speed": found["bytes"] / MIB / found["seconds"], "factor": traffic.bytes_sent / found["bytes"],
            "longest": max(found["waits"]), "p50": quantile(found["waits"], 0.5), "requests": traffic.requests,
            "cpu": cpu,
        }  # fmt: skip

    if options.part in ("all", "reads"):
        both(sides.GIGABIT, f"{options.reads} cold random preads of 4 KiB", READS, scattered)
    for part, order in (("pieces", "upwards"), ("backwards", "downwards")):
        if options.part in ("all", part):
            title = f"8 processes x 30 random 4 MiB by mmap, each {order},"
            both(sides.SHARED_CDN, title, PIECES, partial(faulted, order))


def _way(
    mounting: Callable[[Path], AbstractContextManager[Mount]],
    hub: sides.Hub,
    read: Callable[[Mount, sides.Hub], Sample],
) -> Way:
    def way(place: Path) -> Sample:
        with mounting(place) as mount:
            hub.quiet()
            hub.clear()
            return read(mount, hub)

    return way


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Cold random reads, beside rclone.")
    parser.add_argument("--size", type=int, default=2048, help="MiB of the file (default 2048)")
    parser.add_argument("--reads", type=int, default=100, help="of 4 KiB (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="decides the places")
    parser.add_argument("--part", choices=("all", "reads", "pieces", "backwards"), default="all", help="only this")
    sys.exit(run("random_read", measure, parser, seconds=1800))
