"""Programs that read one file in the ways a kernel allows, and compare with the same file on an ordinary disk.

``python -m tests.mount.reading WAY PLACE SOURCE …`` is a process of its own: a page fault on a mount holds the
interpreter, and the Hub of the test may live in the same one. Ends with 0 or a traceback. Standard library only.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

PIECE = 64 * 1024


@contextmanager
def opened(path: str) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def mapped(path: str, flags: int = mmap.MAP_PRIVATE, protection: int = mmap.PROT_READ) -> Iterator[mmap.mmap]:
    with opened(path) as file, mmap.mmap(file, 0, flags, protection) as pages:
        yield pages


def private(place: str, source: str) -> None:
    """As safetensors reads a header."""
    with mapped(place) as found, mapped(source) as expected:
        assert found[:] == expected[:]


def writable(place: str, source: str) -> None:
    """As torch maps tensors: private and writable; what is written there is never seen by anybody else."""
    with mapped(place, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as ours:
        with mapped(source) as expected:
            assert ours[:] == expected[:]
        ours[:PIECE] = b"\xff" * PIECE
        assert ours[:PIECE] == b"\xff" * PIECE
        private(place, source)


def shared(place: str, source: str) -> None:
    """As llama.cpp maps a model: shared, and all of it read at once."""
    with mapped(place, mmap.MAP_SHARED | mmap.MAP_POPULATE) as found, mapped(source) as expected:
        assert found[:] == expected[:]


def backwards(place: str, source: str) -> None:
    """Page by page from the end: no read-ahead helps."""
    with mapped(place) as found, mapped(source) as expected:
        found.madvise(mmap.MADV_RANDOM)
        for at in range(len(expected) - 1, -1, -mmap.PAGESIZE):
            assert found[at] == expected[at], at


def faults(place: str, source: str, seed: str, count: str) -> None:
    """Random places of a mapping."""
    with mapped(place) as found, mapped(source) as expected:
        for at in _places(len(expected), int(seed), int(count)):
            assert found[at : at + PIECE] == expected[at : at + PIECE], at


def preads(place: str, source: str, seed: str, count: str) -> None:
    """Random places of a descriptor."""
    with opened(place) as found, opened(source) as expected:
        for at in _places(os.fstat(expected).st_size, int(seed), int(count)):
            assert os.pread(found, PIECE, at) == os.pread(expected, PIECE, at), at


def threads(place: str, source: str, count: str) -> None:
    """One descriptor, many threads, together all of the file, each in pieces of its own."""
    with opened(place) as found, opened(source) as expected:
        size = os.fstat(expected).st_size

        def read(first: int) -> int:
            done = 0
            for at in range(first * PIECE, size, int(count) * PIECE):
                piece = os.pread(found, PIECE, at)
                assert piece == os.pread(expected, PIECE, at), at
                done += len(piece)
            return done

        with ThreadPoolExecutor(int(count)) as pool:
            assert sum(pool.map(read, range(int(count)))) == size


def at_once(place: str, source: str, first: str, count: str, step: str) -> None:
    """As many threads as places to read, ``step`` bytes apart: all wait at the same time."""
    with opened(place) as found, opened(source) as expected:

        def read(number: int) -> bool:
            at = number * int(step)
            return os.pread(found, 4096, at) == os.pread(expected, 4096, at)

        with ThreadPoolExecutor(int(count)) as pool:
            assert all(pool.map(read, range(int(first), int(first) + int(count))))


def one(place: str, source: str, at: str) -> None:
    """One byte of a mapping."""
    with mapped(place) as found, mapped(source) as expected:
        assert found[int(at)] == expected[int(at)]


def _places(size: int, seed: int, count: int) -> Iterator[int]:
    made = random.Random(seed)
    return (made.randrange(max(1, size - PIECE)) for _ in range(count))


WAYS: dict[str, Callable[..., Any]] = {
    way.__name__: way for way in (private, writable, shared, backwards, faults, preads, threads, at_once, one)
}


if __name__ == "__main__":
    # As most programs take it: Python's own handler runs only once a page has come.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    WAYS[sys.argv[1]](*sys.argv[2:])
