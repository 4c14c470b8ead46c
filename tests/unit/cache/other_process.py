"""Run as a process of its own: claims, publishes, drops and reads a blob as its parent says, and halts where told."""

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
    """An os.pwrite whose ``number``-th call writes half of it, tells the parent and never returns."""
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


def publish(stored: StoredBlob, claim: BlockLease, content: bytes, *, whole: bool) -> None:
    for run in claim.blocks:
        for part in [run] if whole else [range(block, block + 1) for block in run]:
            stored.publish(claim, part.start, pieces(content, part))


def main(cache_dir: str, blob_json: str, seed: str) -> None:
    fields = json.loads(blob_json)
    fields["digest"] = fields["digest"] and Digest(**fields["digest"])
    blob = Blob(**fields)
    content = some_bytes(blob.size, int(seed))
    store = BlobStore(Layout(cache_dir))
    stored = store.open(blob)
    claims: list[BlockLease] = []
    for line in sys.stdin:
        command, *numbers = line.split()
        run = range(*map(int, numbers[:2])) if len(numbers) > 1 else range(0)
        if command == "claim":
            claims.append(stored.lease(run))
            say(f"{claims[-1].blocks} {claims[-1].busy}")
        elif command == "release":
            while claims:
                claims.pop().release()
            say("released")
        elif command in {"publish", "publish-runs"}:
            for claim in claims:
                publish(stored, claim, content, whole=command == "publish-runs")
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
    while claims:
        claims.pop().release()
    stored.close()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
