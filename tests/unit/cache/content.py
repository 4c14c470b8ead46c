"""Blobs with known bytes, and a second process working on the same cache."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from hffs.cache import BlobStore, StoredBlob
from hffs.model import Blob, Digest
from hffs.ranges import BLOCK_SIZE, block_count, block_length

HUB = "https://hub.example"
MIRROR = "https://mirror.example"
ROOT = Path(__file__).parents[3]


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def blob_of(content: bytes, origin: str = HUB) -> Blob:
    digest = hashlib.sha256(content).hexdigest()
    return Blob(digest, len(content), origin, Digest("sha256", digest))


def piece(content: bytes, block: int) -> memoryview:
    start = block * BLOCK_SIZE
    return memoryview(content)[start : start + block_length(block, len(content))]


def pieces(content: bytes, blocks: range) -> memoryview:
    return memoryview(content)[blocks.start * BLOCK_SIZE : blocks.stop * BLOCK_SIZE]


def publish(stored: StoredBlob, content: bytes, blocks: range) -> None:
    with stored.lease(blocks) as lease:
        assert not lease.busy
        for run in lease.blocks:
            for block in run:
                stored.publish(lease, block, piece(content, block))


def publish_all(stored: StoredBlob, content: bytes) -> None:
    publish(stored, content, range(block_count(len(content))))


def fill(store: BlobStore, content: bytes, origin: str = HUB) -> Blob:
    """Stores a complete blob."""
    blob = blob_of(content, origin)
    stored = store.open(blob)
    publish_all(stored, content)
    stored.close()
    return blob


class OtherProcess:
    """``other_process.py`` on the same cache: one command a line, one answer a line."""

    def __init__(self, cache_dir: Path, blob: Blob, seed: int = 1) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.unit.cache.other_process",
                str(cache_dir),
                json.dumps(asdict(blob)),
                str(seed),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=ROOT,
        )

    def ask(self, command: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            try:
                pipe.close()
            except BrokenPipeError:
                pass
