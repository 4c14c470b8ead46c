"""Programs that go on reading a mount while its daemon dies, and notice anything that is not as it should be.

``python -m tests.mount.surviving WAY PLACE SOURCE …`` is a process of its own, compares with the same files in an
ordinary folder, and ends with 0 or a traceback. Those that go round and round end after a whole round begun once the
file STOP exists, which lies outside of the mount. Standard library only.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PIECE = 4096


def rounds(stop: str) -> Iterator[None]:
    last = False
    while not last:
        last = os.path.exists(stop)
        yield


def finds(place: str, source: str, stop: str) -> None:
    """Every name and size."""
    expected = _walk(source)
    for _ in rounds(stop):
        assert _walk(place) == expected


def opens(place: str, source: str, stop: str) -> None:
    """Open, look, read, close, of every file in turn."""
    for _ in rounds(stop):
        for path in _walk(source):
            with open(os.path.join(place, path), "rb") as found, open(os.path.join(source, path), "rb") as expected:
                assert found.read() == expected.read(), path
                assert os.fstat(found.fileno()).st_size == os.fstat(expected.fileno()).st_size, path


def mapped(place: str, source: str) -> None:
    """All pages of a mapping, one after the other."""
    with open(place, "rb") as found, open(source, "rb") as expected:
        pages = mmap.mmap(found.fileno(), 0, prot=mmap.PROT_READ)
        while piece := expected.read(PIECE):
            at = expected.tell() - len(piece)
            assert pages[at : at + len(piece)] == piece, at


def spread(place: str, source: str, count: str) -> None:
    """As many reads at once, each far from the others."""
    with open(place, "rb") as found, open(source, "rb") as expected, ThreadPoolExecutor(int(count)) as pool:
        step = os.fstat(expected.fileno()).st_size // int(count)
        places = [number * step for number in range(int(count))]
        os.posix_fadvise(found.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for at, piece in zip(places, pool.map(lambda at: os.pread(found.fileno(), PIECE, at), places), strict=True):
            assert piece == os.pread(expected.fileno(), PIECE, at), at


def _walk(top: str) -> dict[str, int]:
    found = {}
    for folder, _, names in os.walk(top, onerror=_raise):
        for name in names:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top)] = os.lstat(path).st_size
    return found


def _raise(error: OSError) -> None:
    raise error


WAYS: dict[str, Callable[..., Any]] = {way.__name__: way for way in (finds, opens, mapped, spread)}


if __name__ == "__main__":
    WAYS[sys.argv[1]](*sys.argv[2:])
