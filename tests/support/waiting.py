"""Waits with a deadline: for a condition of other threads, and for the bytes of a read."""

from __future__ import annotations

import time
from collections.abc import Callable

from hffs.transfer import BlobReader

# Far below the 60 s that a worker sleeps and the 120 s of a read's deadline: what needs these is a lost wake-up.
SOON = 20.0


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.002)


def read(reader: BlobReader, offset: int, length: int) -> bytes:
    answer = reader.read(offset, length)
    return answer if isinstance(answer, bytes) else answer.result(SOON)
