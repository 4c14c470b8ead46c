"""Run as a separate process: leases, publishes, drops and reads a blob as commanded, and halts at a given step."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from hffs.cache import BlobStore, BlockLease, Layout, StoredBlob
from hffs.errors import BlockAbsent
from hffs.model import Blob, Digest
from tests.support.blobs import verify_blob
from tests.unit.cache.content import pieces, some_bytes


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def halt_at_write(number: int, real: Callable[..., int]) -> Callable[..., int]:
    """An os.pwrite whose ``number``-th call writes half of it, reports to the parent and never returns."""
    calls = 0

    def pwrite(fd: int, data: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == number:
            real(fd, data[: len(data) // 2], offset)
            say("halted")
            sys.stdin.read()
        return real(fd, data, offset)

    return pwrite


def publish(stored: StoredBlob, lease: BlockLease, content: bytes, *, whole: bool) -> None:
    for run in lease.blocks:
        for part in [run] if whole else [range(block, block + 1) for block in run]:
            stored.publish(lease, part.start, pieces(content, part))


def main(cache_dir: str, blob_json: str, seed: str) -> None:
    fields = json.loads(blob_json)
    fields["digest"] = fields["digest"] and Digest(**fields["digest"])
    blob = Blob(**fields)
    content = some_bytes(blob.size, int(seed))
    store = BlobStore(Layout(cache_dir))
    stored = store.open(blob)
    leases: list[BlockLease] = []
    for line in sys.stdin:
        command, *numbers = line.split()
        run = range(*map(int, numbers[:2])) if len(numbers) > 1 else range(0)
        if command == "lease":
            leases.append(stored.lease(run))
            say(f"{leases[-1].blocks} {leases[-1].busy}")
        elif command == "release":
            while leases:
                leases.pop().release()
            say("released")
        elif command in {"publish", "publish-runs"}:
            for lease in leases:
                publish(stored, lease, content, whole=command == "publish-runs")
            say("published")
        elif command == "halt":
            os.pwrite = halt_at_write(int(numbers[0]), os.pwrite)
            say("will halt")
        elif command == "discard":
            say(str(stored.discard(run)))
        elif command == "verify":
            say(str(verify_blob(stored, 1.0)))
        elif command == "read":
            try:
                say(hashlib.sha256(stored.read(run.start, len(run))).hexdigest())
            except BlockAbsent:
                say("absent")
    while leases:
        leases.pop().release()
    stored.close()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
