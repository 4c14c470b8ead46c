"""Giving 10 GiB of blocks back: by the budget of the cache, and by truncate(2) of plain files of the same size.

    python -m benchmarks.eviction

On the disk of the working directory, on an XFS in an image and on a tmpfs: what freeing costs is mostly the file
system's affair, and truncating is as fast as it can be. The blobs are stored as the workers store them; then the limit
of the cache falls to nothing, and ``tend`` is timed until all is given back. Neither has pages in memory, but on tmpfs.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hffs.cache import BlobStore, CacheBudget, Layout
from hffs.model import Blob
from hffs.ranges import BLOCK_SIZE, block_count

from .rig import GIB, MIB, Column, Rig, RunFailed, Sample, drop_caches, run

COLUMNS = [
    Column("seconds", "s", "{:.2f}"),
    Column("cpu", "CPU-s", "{:.2f}"),
    Column("freed", "GiB given back", "{:.2f}"),
]
RUN = 16  # blocks of one publication, as a fetch of 4 MiB
BLOB = 2 * GIB


def measure(rig: Rig) -> None:
    xfs(rig)
    size = rig.options.size * MIB
    for name, folder in (("disk of --work", rig.work), ("XFS", rig.work / "xfs"), ("tmpfs", rig.served)):
        if folder.is_dir():
            rig.compare(
                f"{rig.options.size} MiB given back, {name}",
                {"hffs": timed(folder, size, blobs), "truncate": timed(folder, size, plain)},
                COLUMNS,
                against="truncate",
            )


def xfs(rig: Rig) -> None:
    """An image on the disk, mounted as ``xfs``; without mkfs.xfs that table is missing."""
    image, folder = rig.work / "image", rig.work / "xfs"
    try:
        with open(image, "wb") as file:
            file.truncate(rig.options.size * MIB + 2 * GIB)
        subprocess.run(["mkfs.xfs", "-q", str(image)], check=True, timeout=60)
        folder.mkdir()
        subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as wrong:
        if folder.is_dir():
            folder.rmdir()
        print(f"# no XFS: {wrong}", file=sys.stderr, flush=True)


def timed(folder: Path, size: int, way: Callable[[Path, int], Callable[[], int]]) -> Callable[[Path], Sample]:
    def sample(place: Path) -> Sample:
        here = folder / place.name
        here.mkdir(exist_ok=True)
        try:
            give_back = way(here, size)
            drop_caches()
            began, used = time.perf_counter(), cpu()
            freed = give_back()
            taken = {"seconds": time.perf_counter() - began, "cpu": cpu() - used, "freed": freed / GIB}
        finally:
            subprocess.run(["rm", "-rf", str(here)], check=True, timeout=120)
        if freed < 0.99 * size:
            raise RunFailed(f"{freed} bytes of {size} were given back")
        return taken

    return sample


def blobs(place: Path, size: int) -> Callable[[], int]:
    layout = Layout(place / "cache")
    store = BlobStore(layout)
    data = [memoryview(os.urandom(BLOCK_SIZE)) for _ in range(RUN)]
    budget = CacheBudget(store, None, 0)
    budget.start()
    for number in range(-(-size // BLOB)):
        length = min(BLOB, size - number * BLOB)
        stored = store.open(Blob(f"{number:064x}", length, "http://127.0.0.1", None))
        for first in range(0, block_count(length), RUN):
            blocks = range(first, min(first + RUN, block_count(length)))
            reservation = budget.reserve(len(blocks) * BLOCK_SIZE)
            assert reservation is not None
            with stored.lease(blocks) as claim:
                stored.publish(claim, first, b"".join(data[: len(blocks)]))
            reservation.settle(len(blocks) * BLOCK_SIZE)
        stored.close()
    budget.close()

    def give_back() -> int:
        smaller = CacheBudget(store, MIB, 0)
        before = smaller.held
        smaller.start()
        freed = before - smaller.held
        smaller.close()
        store.close()
        return freed

    return give_back


def plain(place: Path, size: int) -> Callable[[], int]:
    data = os.urandom(RUN * BLOCK_SIZE)
    paths = []
    for number in range(-(-size // BLOB)):
        paths.append(place / f"file{number}")
        with open(paths[-1], "wb", buffering=0) as file:
            for _ in range(min(BLOB, size - number * BLOB) // len(data)):
                file.write(data)

    def give_back() -> int:
        before = sum(path.stat().st_blocks * 512 for path in paths)
        for path in paths:
            os.truncate(path, 0)
        return before - sum(path.stat().st_blocks * 512 for path in paths)

    return give_back


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What giving 10 GiB back costs.")
    parser.add_argument("--size", type=int, default=10240, help="MiB given back (default 10240)")
    sys.exit(run("eviction", measure, parser, seconds=3000))
