"""Complete blobs to export, and processes that are killed while they export."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from hffs.cache import BlobStore, Layout, StoredBlob
from hffs.ranges import BLOCK_SIZE
from tests.support.blobs import verify_blob
from tests.unit.cache.content import ROOT, blob_of, publish_all, some_bytes

CONTENT = some_bytes(3 * BLOCK_SIZE + 1000)
BLOB = blob_of(CONTENT)
ALL = range(4)
LINKED = 1  # copy_below: every blob that is not empty may be linked
COPIED = 1 << 30


def no_reflink(*_: object) -> int:
    """ioctl(2) as on ext4, on any file system."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def whole(store: BlobStore, content: bytes = CONTENT) -> StoredBlob:
    stored = store.open(blob_of(content))
    publish_all(stored, content)
    os.utime(stored._data, ns=(0, 10**18))  # a while ago: a write of now shows, however coarse the clock
    assert verify_blob(stored, 0)
    return stored


def data_file(layout: Layout) -> Path:
    return Path(layout.paths(BLOB.etag, BLOB.origin).data)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def temporaries(folder: Path) -> list[str]:
    return [name for name in names(folder) if ".hffs-" in name]


CHILD = """
import fcntl, os, sys
from hffs.cache import BlobStore, Layout, export_file
from tests.unit.cache.content import blob_of, some_bytes
from tests.unit.cache.exported import no_reflink

cache, destination, copy_below, seed, times, halting = sys.argv[1:]
store = BlobStore(Layout(cache))
stored = store.open(blob_of(some_bytes(3 * 256 * 1024 + 1000, int(seed))))

def halt(*_, **__):
    print("halted", flush=True)
    sys.stdin.read()

if halting == "rename":
    os.rename = halt
elif halting == "write":
    os.write = lambda fd, data, write=os.write: (write(fd, data[:1000]), halt())
fcntl.ioctl = no_reflink
print("ready", flush=True)
sys.stdin.readline()
for time in range(int(times)):
    export_file(stored, destination.format(time), copy_below=int(copy_below))
print("laid", flush=True)
"""


class Child:
    """A process that exports a blob of the cache ``times`` in a row, and halts at ``halting``."""

    def __init__(
        self,
        layout: Layout,
        destination: Path,
        copy_below: int = 1 << 30,
        *,
        seed: int = 1,
        times: int = 1,
        halting: str = "",
    ) -> None:
        arguments = [layout.root, destination, str(copy_below), str(seed), str(times), halting]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        assert self.says() == "ready"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait(30)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()
