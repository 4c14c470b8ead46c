"""Small random reads of a local file, and looking at many files: what programs that are not loaders do.

    python -m benchmarks.local_files

As ``local_read`` measures, with one side more: hffs where passthrough is not to be had, as for every user but root.
Names are looked at a second time, when every side knows them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from . import content, sides
from .rig import MIB, Column, Rig, RunFailed, Sample, Way, run

NAME = "big.bin"
SPEED = [Column("speed", "MiB/s", "{:.0f}")]
IOPS = [Column("iops", "reads/s", "{:.0f}"), Column("p99", "99 % below, µs", "{:.0f}")]
PER_FILE = [Column("per_file", "µs a file", "{:.1f}")]
VERIFY_SECONDS = 60.0  # sha256 takes half a second for a GiB when nothing else runs
FOLDERS = 100


def measure(rig: Rig) -> None:
    one_file(rig)
    many_files(rig)


def one_file(rig: Rig) -> None:
    folder = content.big(rig.served / f"repo/{NAME}", rig.options.size * MIB).parent
    native = rig.fresh("native") / NAME
    shutil.copyfile(folder / NAME, native)
    with (
        sides.Hub(sides.LOOPBACK, rig.work, {"st/big": folder}) as hub,
        sides.web_index({NAME: hub.signed("st/big", NAME)}) as index,
        sides.HffsMount(rig.fresh(), hub.endpoint, "st/big") as hffs,
        sides.HffsMount(rig.fresh(), hub.endpoint, "st/big") as ordinary,
        sides.HffsMount(rig.fresh(), hub.endpoint, "st/big", "--binding", "libfuse") as libfuse,
        sides.RcloneMount(rig.fresh(), index) as rclone,
        (ordinary.path / NAME).open("rb"),  # as long as a handle of before is open, new ones are ordinary too
    ):
        places = {
            "native": native,
            "hffs": hffs.path / NAME,
            "hffs, no passthrough": ordinary.path / NAME,
            "hffs --binding libfuse": libfuse.path / NAME,
            "rclone mount": rclone.path / NAME,
        }
        for path in places.values():
            sides.read("sequential", path)
        verified(hffs)
        for mount, kind in ((hffs, "passthrough"), (ordinary, "kernel-cache")):
            with (mount.path / NAME).open("rb"):
                (opened,) = mount.status()["open_files"]
                if opened["served"] != kind:
                    raise RunFailed(f"served by {opened['served']}, not {kind}: {opened['why']}")
        for way in ("sequential", "mapped"):
            what = "read(2)" if way == "sequential" else "mmap"
            ways = {name: _whole(way, path) for name, path in places.items() if name != "native"}
            title = f"{what} of {rig.options.size} MiB, pages of the mount dropped, those of the disk below kept"
            rig.compare(title, ways, SPEED, against="rclone mount", drop=False)
        for jobs in (1, 4):
            for warm in (False, True):
                state = "warm" if warm else "dropped"
                title = f"fio, random reads of 4 KiB, {jobs} jobs, page cache {state}"
                ways = {name: _random(path, jobs, rig.options.runtime, warm) for name, path in places.items()}
                rig.compare(title, ways, IOPS, against="native", drop=not warm)


def verified(mount: sides.HffsMount) -> None:
    if not sides.eventually(lambda: mount.status()["verification"]["verified"] == 1, VERIFY_SECONDS):
        raise RunFailed("the file was not verified in time")


def _whole(way: str, path: Path) -> Way:
    def timed(_: Path) -> Sample:
        forget(path)
        found = sides.read(way, path)
        return {"speed": found["bytes"] / MIB / found["seconds"]}

    return timed


def forget(path: Path) -> None:
    """The kernel drops its pages of this file; what the file system itself reads from is left alone."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def _random(path: Path, jobs: int, seconds: int, warm: bool) -> Way:
    """Buffered, one read at a time and job, the same places at each trial."""
    command = ["fio", "--name=random", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k"]
    command += ["--ioengine=psync", "--invalidate=0", "--group_reporting", "--output-format=json"]
    command += [f"--numjobs={jobs}", f"--runtime={seconds}", "--time_based"]

    def timed(_: Path) -> Sample:
        if warm:
            sides.read("sequential", path)
        (job,) = json.loads(sides.program(command).output)["jobs"]
        return {"iops": job["read"]["iops"], "p99": job["read"]["clat_ns"]["percentile"]["99.000000"] / 1000}

    return timed


def many_files(rig: Rig) -> None:
    count = rig.options.files
    folder = rig.served / "many"
    for number in range(count):
        path = folder / f"part{number % FOLDERS:02}" / f"file{number:06}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
    native = rig.fresh("native") / "many"
    shutil.copytree(folder, native)
    names = {str(path.relative_to(folder)).replace("/", "-"): "" for path in sorted(folder.rglob("*.txt"))}
    with (
        sides.Hub(sides.LOOPBACK, rig.work, {"st/many": folder}) as hub,
        sides.web_index(names) as index,
        sides.HffsMount(rig.fresh(), hub.endpoint, "st/many", "--prefetch", "none") as hffs,
        sides.HffsMount(rig.fresh(), hub.endpoint, "st/many", "--prefetch", "none", "--binding", "libfuse") as libfuse,
        # Sizes would cost it a request a file; it keeps a listing for five minutes unless told.
        sides.RcloneMount(rig.fresh(), index, "--http-no-head", "--dir-cache-time", "1h") as rclone,
    ):
        places = {
            "native": native,
            "hffs": hffs.path,
            "hffs --binding libfuse": libfuse.path,
            "rclone mount (one folder)": rclone.path,
        }
        for title, command in (("find -ls", ["find", ".", "-ls"]), ("ls -lR", ["ls", "-lR"])):
            ways = {name: _looked(command, path, count) for name, path in places.items()}
            for way in ways.values():
                way(rig.work)
            rig.compare(f"{title} of {count} files, second pass", ways, PER_FILE, against="native", drop=False)
        rig.say("Resident memory of hffs", {"MiB": resident(hffs.pid) / 1024})


def _looked(command: list[str], path: Path, count: int) -> Callable[[Path], Sample]:
    def timed(_: Path) -> Sample:
        ran = sides.program(["env", "-C", path, *command])
        if ran.output.count(".txt") != count:
            raise RunFailed(f"{ran.output.count('.txt')} of {count} files were seen")
        return {"per_file": ran.seconds / count * 1e6}

    return timed


def resident(pid: int) -> int:
    """KiB (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Random reads of a local file, and looking at many files.")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the file (default 1024)")
    parser.add_argument("--runtime", type=int, default=5, help="seconds of each fio run (default 5)")
    parser.add_argument("--files", type=int, default=20_000, help="to be listed (default 20000)")
    sys.exit(run("local_files", measure, parser, seconds=2400))
