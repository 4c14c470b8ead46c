"""How long the first answers take: a command, a mount, the first bytes of a file, a listing, one tensor.

python -m benchmarks.first_bytes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import content, sides
from .rig import GIB, MIB, Column, Rig, Sample, Way, run

FILES = 500
TENSORS, TENSOR = 128, 16 * MIB  # a file of 2 GiB
COMMANDS = 20
FIRST = [Column("ms", "ms", "{:.0f}"), Column("requests", "requests before the bytes", "{:.0f}")]
LISTING = [
    Column("cold", "cold s", "{:.2f}"),
    Column("again", "again s", "{:.3f}"),
    Column("requests", "requests (with those of the mount)", "{:.0f}"),
    Column("mount", "mount s", "{:.2f}"),
]
MOUNTING = [Column("seconds", "mount answers after s", "{:.2f}")]
COMMAND = [Column("ms", "ms", "{:.0f}")]


def measure(rig: Rig) -> None:
    big = content.big(rig.served / "big/big.bin", 2 * GIB).parent
    small = content.many(rig.served / "many", FILES)
    commands(rig)
    mounting(rig, small)
    first(rig, big)
    listing(rig, small)
    for file in big.iterdir():
        file.unlink()
    tensor(rig, content.safetensors(big / "model.safetensors", TENSORS, TENSOR))


def commands(rig: Rig) -> None:
    def way(*command: str) -> Way:
        def timed(place: Path) -> Sample:
            environment = sides.hffs_environment(place, "http://127.0.0.1:9")
            return {"ms": sides.program([sys.executable, *command], environment=environment).seconds * 1000}

        return timed

    ways = {
        "hffs --help": way("-m", "hffs", "--help"),
        "hffs status": way("-m", "hffs", "status"),
        "python -c pass": way("-c", "pass"),
    }
    for way_again in ways.values():  # bytecode is compiled once in a program's life
        way_again(rig.fresh())
    rig.compare("Commands", ways, COMMAND, against="python -c pass", trials=COMMANDS, drop=False)


def mounting(rig: Rig, folder: Path) -> None:
    for link in (sides.LOOPBACK, sides.SHARED_CDN):
        with sides.Hub(link, rig.work, {"st/many": folder}) as hub, sides.web_index({}) as index:

            def hffs(place: Path, hub: sides.Hub = hub) -> Sample:
                with sides.HffsMount(place, hub.endpoint, "st/many", "--prefetch", "none") as mount:
                    return {"seconds": mount.seconds}

            def rclone(place: Path, index: str = index) -> Sample:
                with sides.RcloneMount(place, index) as mount:
                    return {"seconds": mount.seconds}

            ways: dict[str, Way] = {"hffs": hffs, "rclone mount": rclone}
            rig.compare(f"Mounting, {link.name}", ways, MOUNTING, against="rclone mount", drop=False)


def first(rig: Rig, folder: Path) -> None:
    with (
        sides.Hub(sides.GIGABIT, rig.work, {"st/big": folder}) as hub,
        sides.web_index({"big.bin": hub.signed("st/big", "big.bin")}) as index,
    ):

        def answered(path: Path, offset: int = 0) -> Sample:
            hub.quiet()
            hub.clear()
            seconds = sides.read("few", path, offset, 8)["seconds"]
            return {"ms": seconds * 1000, "requests": hub.traffic().requests}

        def hffs(place: Path) -> Sample:
            with sides.HffsMount(place, hub.endpoint, "st/big") as mount:
                return answered(mount.path / "big.bin")

        def looked_up(place: Path) -> Sample:
            with sides.HffsMount(place, hub.endpoint, "st/big") as mount:
                answered(mount.path / "big.bin", GIB)
                return answered(mount.path / "big.bin")

        def rclone(place: Path) -> Sample:
            with sides.RcloneMount(place, index) as mount:
                list(mount.path.iterdir())  # else the first open pays for rclone's listing
                return answered(mount.path / "big.bin")

        ways: dict[str, Way] = {"hffs": hffs, "hffs, URL known": looked_up, "rclone mount, URL known": rclone}
        title = f"First 8 bytes of a file of 2 GiB, {sides.GIGABIT.name}"
        rig.compare(title, ways, FIRST, against="rclone mount, URL known")


def listing(rig: Rig, folder: Path) -> None:
    with sides.Hub(sides.SHARED_CDN, rig.work, {"st/many": folder}) as hub:
        names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.txt"))]
        flat = {name.replace("/", "-"): hub.url("st/many", name) for name in names}

        def listed(mount: sides.HffsMount | sides.RcloneMount) -> Sample:
            found = {"mount": mount.seconds}
            for key in ("cold", "again"):
                ran = sides.program(["ls", "-lR", mount.path])
                assert ran.output.count("file0") == FILES, ran.output[-300:]
                found[key] = ran.seconds
            return {**found, "requests": hub.traffic().requests}

        def hffs(place: Path) -> Sample:
            hub.clear()
            with sides.HffsMount(place, hub.endpoint, "st/many", "--prefetch", "none") as mount:
                return listed(mount)

        def rclone(place: Path) -> Sample:
            hub.clear()
            with sides.RcloneMount(place, index) as mount:
                return listed(mount)

        with sides.web_index(flat) as index:
            ways: dict[str, Way] = {"hffs": hffs, "rclone mount (one folder)": rclone}
            title = f"ls -lR of {FILES} files, {sides.SHARED_CDN.name}"
            rig.compare(title, ways, LISTING, against="rclone mount (one folder)")


def tensor(rig: Rig, path: Path) -> None:
    """Bytes count, not time: every trial moves the same, so one is enough to tell."""
    with path.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    with sides.Hub(sides.SHARED_CDN, rig.work, {"st/model": path.parent}) as hub:
        place = rig.fresh()
        with sides.HffsMount(place, hub.endpoint, "st/model", "--prefetch", "none") as mount:
            listed = hub.quiet()
            assert not listed.kinds.get("cdn"), listed
            read = sides.read("tensor", mount.path / path.name, f"t{TENSORS // 2}")
            traffic = hub.quiet()
            figures = {
                "seconds": read["seconds"], "tensor_mib": TENSOR / MIB, "header_kib": header / 1024,
                "moved_mib": traffic.bytes_sent / MIB, "bound_mib": (header + 2 * TENSOR) / MIB + 8,
                "requests": traffic.requests,
            }  # fmt: skip
        rig.say(f"One tensor of a safetensors file of 2 GiB, {sides.SHARED_CDN.name}", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time to the first answers.")
    sys.exit(run("first_bytes", measure, parser, seconds=900))
