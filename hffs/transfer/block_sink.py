"""Stores fetched blocks: in the cache when the budget and the disk take them, else in a small memory.

``Downloader`` reserves space for each GET before it is sent. After a failed write the disk is left alone until
``policy.DiskBreaker`` lets one block try. It fetches nothing. Any thread; a WriteReservation belongs to one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Self

from .. import ranges
from ..cache import BlockLease, CacheBudget, Reservation
from ..errors import CacheUnusable, HffsError, NoSpace
from ..policy import DiskBreaker
from ..policy.eviction import granularity
from .blob_handle import BlobHandle

log = logging.getLogger(__name__)

_PAGE: Final = 4096  # allocation unit of file systems


class BlockSink:
    """``budget`` is None where nothing is limited. ``on_error`` gets the first error of a row."""

    def __init__(
        self,
        budget: CacheBudget | None,
        on_error: Callable[[BlobHandle, HffsError], None],
        *,
        breaker: DiskBreaker | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self._on_error = on_error
        self._now = now
        self._lock = threading.Lock()
        # guarded by _lock
        self._breaker = breaker or DiskBreaker()
        self._error: HffsError | None = None
        self._logged = False  # the log says that the disk fails

    @property
    def error(self) -> HffsError | None:
        """Why the last block was not stored; None: it was."""
        return self._error

    def reset(self) -> None:
        """The next block is written, whatever failed before."""
        with self._lock:
            self._breaker.worked()

    def probe(self) -> None:
        """Tries, when a retry is due, whether blocks can be stored again, also while nothing is read."""
        budget, error = self.budget, self._error
        if budget is None or error is None:
            return
        if self._breaker.is_open:
            free = budget.free()
            with self._lock:
                if not self._breaker.may_try(self._now(), free):
                    return
        try:
            reservation = budget.reserve(ranges.BLOCK_SIZE)
            if reservation is None:
                return
            reservation.settle(0)
            if self._breaker.is_open:
                budget.probe()
        except (NoSpace, CacheUnusable) as failure:
            log.debug("event=still-degraded error=%s", failure)
            return
        with self._lock:
            self._breaker.worked()
            if self._error is error:
                self._error = None
        self._log(self._error)

    def reserve(self, handle: BlobHandle, size: int) -> WriteReservation:
        """Space for ``size`` bytes that are about to be fetched; the caller closes it."""
        free = self.budget.free() if self.budget is not None and self._breaker.is_open else None
        with self._lock:
            tries = self._breaker.may_try(self._now(), free)
        reservation = WriteReservation(self, handle, size, tries=tries)
        reservation.extend(ranges.BLOCK_SIZE)
        return reservation

    def stored(self, handle: BlobHandle) -> None:
        """The cache took a block of the handle."""
        with self._lock:
            self._breaker.worked()
            self._error = None
        handle.store_error = None
        self._log(None)

    def not_stored(self, handle: BlobHandle, error: HffsError, *, disk: bool) -> None:
        """The disk (``disk``) or the budget did not take a block of the handle."""
        free = self.budget.free() if disk and self.budget is not None and isinstance(error, NoSpace) else None
        with self._lock:
            if disk:
                self._breaker.failed(self._now(), free)
            first = self._error is None
            self._error = error
        handle.store_error = error
        if disk:
            self._log(error)
        if first:
            self._on_error(handle, error)

    def _log(self, error: HffsError | None) -> None:
        """Logs when the disk fails and works again; whether the budget has space changes with every file."""
        with self._lock:
            logged, self._logged = self._logged, error is not None
            if logged is self._logged:
                return
        if error is None:
            log.info("event=recovered")
        else:  # a full disk is part of normal work, a broken one is not
            level = logging.INFO if isinstance(error, NoSpace) else logging.WARNING
            log.log(level, "event=degraded why=%s", error)


class WriteReservation:
    """Space for one GET's blocks, reserved a few at a time. ``error``: why the next blocks cannot be stored."""

    def __init__(self, sink: BlockSink, handle: BlobHandle, size: int, *, tries: bool) -> None:
        self.error: HffsError | None = None
        self._sink = sink
        self._handle = handle
        self._size = size  # still to come
        self._reservation: Reservation | None = None
        self._left = self._used = 0  # of the reservation
        if not tries:
            self._fail(sink.error or NoSpace("the disk takes nothing at this moment"), disk=False)
        elif handle.stored.no_space is not None:  # of this one blob; it begins anew when it is opened next
            self._fail(handle.stored.no_space, disk=False)
        self._probing = tries and sink.error is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()

    def write(self, lease: BlockLease, first: int, data: memoryview, *, expendable: bool) -> None:
        """Stores blocks from ``first`` on; in memory, where the cache does not take them. ``expendable``: no reader
        waits for them, so they push out of memory nothing that one waits for."""
        if self._probing and len(data) > ranges.BLOCK_SIZE:  # one block is enough to find out whether it works
            self._write(lease, first, data[: ranges.BLOCK_SIZE], expendable=expendable)
            first, data = first + 1, data[ranges.BLOCK_SIZE :]
        self._write(lease, first, data, expendable=expendable)

    def _write(self, lease: BlockLease, first: int, data: memoryview, *, expendable: bool) -> None:
        self.extend(len(data))
        self._size -= len(data)
        handle = self._handle
        if self.error is None:
            try:
                handle.stored.publish(lease, first, data)
            except (NoSpace, CacheUnusable) as error:
                self._fail(error, disk=True)
            else:
                size = _on_disk(len(data))
                self._left -= size
                self._used += size
                self._probing = False
                if self._sink.error is not None or handle.store_error is not None:
                    self._sink.stored(handle)
        for number, block in enumerate(range(first, first + ranges.block_count(len(data)))):
            if self.error is not None or handle.holds(block):
                part = data[number * ranges.BLOCK_SIZE : (number + 1) * ranges.BLOCK_SIZE]
                handle.memory.put(handle.key, block, bytes(part), expendable=expendable)

    def extend(self, size: int) -> None:
        """Reserves ``size`` more bytes, or sets ``error``."""
        budget = self._sink.budget
        if budget is None or self.error is not None or self._left >= _on_disk(size):
            return
        self._settle()
        asked = _on_disk(
            max(min(size, self._size), min(self._size, granularity(budget.cached_capacity, ranges.BLOCK_SIZE)))
        )
        try:
            self._reservation = budget.reserve(asked)
        except (NoSpace, CacheUnusable) as error:
            self._fail(error, disk=True)
            return
        if self._reservation is None:
            self._fail(budget.no_space_error(), disk=False)
        else:
            self._left = asked

    def _fail(self, error: HffsError, *, disk: bool) -> None:
        self.error = error
        self._sink.not_stored(self._handle, error, disk=disk)

    def _settle(self) -> None:
        reservation, self._reservation = self._reservation, None
        used, self._left, self._used = self._used, 0, 0
        if reservation is not None:
            reservation.settle(used)


def _on_disk(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
