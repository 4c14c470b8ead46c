"""Eight processes use one cache at random, some are killed and replaced: no byte is ever wrong.

Each reads, fetches, evicts, drops, hashes and lends blobs to the kernel at random (``storm``), and compares every byte
with the source. Longer: HFFS_STORM_OPERATIONS=20000 for each process.
"""

from __future__ import annotations

import os
import random
import selectors
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Layout
from hffs.ranges import block_count, bytes_of
from tests.support.blobs import verify_blob

from .storm import contents

CHECKOUT = Path(__file__).parents[2]
PROCESSES = 8
KILLS = 6
OPERATIONS = int(os.environ.get("HFFS_STORM_OPERATIONS", "400"))
SECONDS = 60 + OPERATIONS / 2  # 0.1 s for ten operations of eight processes on two cores


def start(stack: ExitStack, folder: Path, seed: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.model.storm", str(folder), str(seed), str(OPERATIONS)],
        cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return process


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("seed", range(2))
def test_no_byte_is_wrong_while_processes_are_killed(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "cache"
    Layout(folder).prepare()
    dice = random.Random(seed)
    with ExitStack() as stack, selectors.DefaultSelector() as lines:
        running: list[subprocess.Popen[bytes]] = []

        def begin(number: int) -> None:
            process = start(stack, folder, 1000 * seed + number)
            assert process.stdout is not None
            lines.register(process.stdout, selectors.EVENT_READ, process)
            running.append(process)

        for number in range(PROCESSES):
            begin(number)
        killed = 0
        while lines.get_map():
            ready = lines.select(SECONDS)
            assert ready, "all processes stopped printing"
            for key, _ in ready:
                process = key.data
                said = os.read(key.fd, 4096)
                if said and killed < KILLS and dice.random() < 0.2:  # at an arbitrary point
                    process.kill()
                    killed += 1
                    running.remove(process)
                    lines.unregister(key.fileobj)
                    begin(PROCESSES + killed)
                elif not said:
                    lines.unregister(key.fileobj)
        for process in running:
            error = process.stderr.read().decode() if process.stderr else ""
            assert process.wait(SECONDS) == 0, error
            assert error == ""
        assert killed == KILLS
    store = BlobStore(Layout(folder))
    for blob, data in contents():  # nothing stays locked: all of it can be stored, and is right
        stored = store.open(blob)
        with stored.lease(range(block_count(blob.size))) as lease:
            assert not lease.busy
            for run in list(lease.blocks):
                whole = bytes_of(run, blob.size)
                stored.publish(lease, run.start, data[whole.start : whole.stop])
        assert stored.read(0, blob.size) == data
        assert verify_blob(stored, 1.0)
        stored.close()
    store.close()
