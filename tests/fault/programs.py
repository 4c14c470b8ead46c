"""Programs that read from a mount in a process of their own, to be held up and killed: ``python -m … WAY PATH [AT]``.

Each prints "begun" right before the read that may wait. Standard library only.
"""

from __future__ import annotations

import mmap
import os
import sys


def pread(path: str, at: int) -> None:
    """read(2)."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    print("begun", flush=True)
    os.pread(file, 4096, at)


def fault(path: str, at: int, advice: int = mmap.MADV_NORMAL) -> None:
    """A page fault."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with mmap.mmap(file, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as pages:
        pages.madvise(advice)
        print("begun", flush=True)
        pages[at]


def fault_at_random(path: str, at: int) -> None:
    """A page fault around which the kernel reads nothing ahead."""
    fault(path, at, mmap.MADV_RANDOM)


def keep(path: str, at: int) -> None:
    """Reads one page, and keeps the file open until its standard input ends."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.pread(file, 4096, at)
    print("begun", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    ways = {"pread": pread, "fault": fault, "fault_at_random": fault_at_random, "keep": keep}
    ways[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
