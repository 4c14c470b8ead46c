"""One of the processes of ``test_storm``: random operations on a cache that others work on, too, against plain bytes.

    python -m tests.model.storm FOLDER SEED OPERATIONS

Says a line after each few operations; ends with 0, or with a traceback at the first byte that is not the source's.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Callable

from hffs.cache import BlobStore, Layout, StoredBlob
from hffs.errors import BlockAbsent
from hffs.model import Blob, Digest
from hffs.ranges import BLOCK_SIZE, block_count, bytes_of
from tests.support.blobs import verify_blob

ORIGIN = "http://hub"
SIZES = (9 * BLOCK_SIZE + 77, 70 * BLOCK_SIZE, 5)  # the second has two segments of 64 blocks
SAY_EVERY = 10


def contents() -> list[tuple[Blob, bytes]]:
    made = []
    for size in SIZES:
        data = random.Random(size).randbytes(size)
        hexed = hashlib.sha256(data).hexdigest()
        made.append((Blob(hexed, size, ORIGIN, Digest("sha256", hexed)), data))
    return made


class Storm:
    def __init__(self, folder: str, seed: int) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.contents = contents()
        self.store = BlobStore(Layout(folder))
        self.lent: list[tuple[int, bytes]] = []  # the descriptor of a passthrough handle, and its expected bytes

    def step(self) -> None:
        blob, data = self.dice.choice(self.contents)
        stored = self.store.open(blob)
        try:
            ways: list[tuple[int, Callable[[StoredBlob, bytes], None]]] = [
                (12, self.read), (4, self.fetch), (3, self.evict), (2, self.discard), (2, self.verify), (2, self.lend),
            ]  # fmt: skip
            self.dice.choices([way for _, way in ways], [weight for weight, _ in ways])[0](stored, data)
        finally:
            stored.close()
        self.look_through_what_is_lent()
        if self.dice.random() < 0.03:
            self.store.close()
            self.store = BlobStore(Layout(self.folder))

    def span(self, size: int) -> range:
        first = self.dice.randrange(block_count(size))
        return range(first, min(block_count(size), first + self.dice.randint(1, 20)))

    def read(self, stored: StoredBlob, data: bytes) -> None:
        offset = self.dice.randrange(len(data))
        length = self.dice.randint(1, 3 * BLOCK_SIZE)
        try:
            got = stored.read(offset, length)
        except BlockAbsent:
            self.fetch(stored, data)
            return
        assert got == data[offset : offset + length], f"wrong bytes in {length} at {offset} of {len(data)}"

    def fetch(self, stored: StoredBlob, data: bytes) -> None:
        with stored.lease(self.span(len(data))) as lease:
            for run in list(lease.blocks):
                whole = bytes_of(run, len(data))
                stored.publish(lease, run.start, data[whole.start : whole.stop])

    def evict(self, stored: StoredBlob, data: bytes) -> None:
        stored.evict(self.span(len(data)), self.dice.randint(1, 8 * BLOCK_SIZE))

    def discard(self, stored: StoredBlob, data: bytes) -> None:
        stored.discard(self.span(len(data)))

    def verify(self, stored: StoredBlob, data: bytes) -> None:
        if self.dice.random() < 0.5:
            for _ in range(4):
                self.fetch(stored, data)
        verify_blob(stored, 1.0)

    def lend(self, stored: StoredBlob, data: bytes) -> None:
        fd = stored.dup_fd()
        if fd is not None:
            self.lent.append((fd, data))
        if len(self.lent) > 2 or (self.lent and fd is None):
            os.close(self.lent.pop(0)[0])

    def look_through_what_is_lent(self) -> None:
        """A file that is open for passthrough is neither punched nor changed."""
        for fd, data in self.lent:
            offset = self.dice.randrange(len(data))
            got = os.pread(fd, BLOCK_SIZE, offset)
            assert got == data[offset : offset + BLOCK_SIZE], f"a file lent to the kernel changed at {offset}"


def main(folder: str, seed: str, operations: str) -> None:
    storm = Storm(folder, int(seed))
    for number in range(int(operations)):
        storm.step()
        if number % SAY_EVERY == 0:
            print(number, flush=True)
    for fd, _ in storm.lent:
        os.close(fd)
    storm.store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
