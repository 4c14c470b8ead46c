"""Where blocks go that have come: to the cache, when there is room and the disk takes them, else to a small memory.

A fetch task opens a ``WriteReservation`` for each GET before it is sent. Without room only what a reader waits for is
fetched, or soon will wait for. A disk that refused is left alone until
``policy.Outage`` lets one block try. It fetches nothing. Any thread; a Space belongs to one.
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
from ..policy.eviction import step
from .blob_handle import BlobHandle

log = logging.getLogger(__name__)

_PAGE: Final = 4096  # what file systems give


class BlockSink:
    """``budget`` is None where nothing is limited. ``refused`` is told of the first block that is not stored."""

    def __init__(
        self,
        budget: CacheBudget | None,
        refused: Callable[[BlobHandle, HffsError], None],
        *,
        breaker: DiskBreaker | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self._refused = refused
        self._now = now
        self._lock = threading.Lock()
        # guarded by _lock
        self._breaker = breaker or DiskBreaker()
        self._refusal: HffsError | None = None
        self._told = False  # the log says that the disk refuses

    @property
    def refusal(self) -> HffsError | None:
        """Why the cache takes no blocks, when it does not."""
        return self._refusal

    def forget(self) -> None:
        """Somebody wants it to be tried again: what comes next is."""
        with self._lock:
            self._breaker.worked()

    def probe(self) -> None:
        """See whether what could not be stored last could be stored now, if it is time for that: a mount that nobody
        reads at the moment does not stay degraded."""
        budget, refusal = self.budget, self._refusal
        if budget is None or refusal is None:
            return
        if self._breaker.lasts:
            free = budget.free()
            with self._lock:
                if not self._breaker.may_try(self._now(), free):
                    return
        try:
            reservation = budget.reserve(ranges.BLOCK_SIZE)
            if reservation is None:
                return
            reservation.settle(0)
            if self._breaker.lasts:
                budget.probe()
        except (NoSpace, CacheUnusable) as error:
            log.debug("event=still-degraded error=%s", error)
            return
        with self._lock:
            self._breaker.worked()
            if self._refusal is refusal:
                self._refusal = None
        self._tell(self._refusal)

    def open(self, handle: BlobHandle, size: int) -> WriteReservation:
        """Room for ``size`` bytes of a handle that are about to be fetched; the caller closes it."""
        free = self.budget.free() if self.budget is not None and self._breaker.lasts else None
        with self._lock:
            trying = self._breaker.may_try(self._now(), free)
        space = WriteReservation(self, handle, size, trying=trying)
        space.prepare(ranges.BLOCK_SIZE)
        return space

    def stored(self, handle: BlobHandle) -> None:
        with self._lock:
            self._breaker.worked()
            self._refusal = None
        handle.refusal = None
        self._tell(None)

    def not_stored(self, handle: BlobHandle, error: HffsError, *, disk: bool) -> None:
        """``disk``: the disk refused, and not the budget."""
        free = self.budget.free() if disk and self.budget is not None and isinstance(error, NoSpace) else None
        with self._lock:
            if disk:
                self._breaker.failed(self._now(), free)
            first = self._refusal is None
            self._refusal = error
        handle.refusal = error
        if disk:
            self._tell(error)
        if first:
            self._refused(handle, error)

    def _tell(self, refusal: HffsError | None) -> None:
        """Log that the disk refuses, or no longer does; where only the budget does that changes with every file."""
        with self._lock:
            told, self._told = self._told, refusal is not None
            if told is self._told:
                return
        if refusal is None:
            log.info("event=recovered")
        else:  # a full disk is a thing to live with, a broken one is not
            level = logging.INFO if isinstance(refusal, NoSpace) else logging.WARNING
            log.log(level, "event=degraded why=%s", refusal)


class WriteReservation:
    """Room for one GET's blocks, reserved a few at a time. ``full`` says why what comes now cannot be stored."""

    def __init__(self, shelf: BlockSink, handle: BlobHandle, size: int, *, trying: bool) -> None:
        self.full: HffsError | None = None
        self._shelf = shelf
        self._target = handle
        self._size = size  # what is still to come
        self._reservation: Reservation | None = None
        self._left = self._used = 0  # of the reservation
        if not trying:
            self._refuse(shelf.refusal or NoSpace("the disk takes nothing at this moment"), disk=False)
        elif handle.stored.no_space is not None:  # of this one blob; it begins anew when it is opened next
            self._refuse(handle.stored.no_space, disk=False)
        self._probing = trying and shelf.refusal is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()

    def keep(self, claim: BlockLease, first: int, data: memoryview, *, spare: bool) -> None:
        """Store blocks that have come, from ``first`` on; in memory, where that cannot be. ``spare``: nobody waits for
        them, so they must not push out there what somebody does."""
        if self._probing and len(data) > ranges.BLOCK_SIZE:  # one block is enough to see whether it works
            self._keep(claim, first, data[: ranges.BLOCK_SIZE], spare=spare)
            first, data = first + 1, data[ranges.BLOCK_SIZE :]
        self._keep(claim, first, data, spare=spare)

    def _keep(self, claim: BlockLease, first: int, data: memoryview, *, spare: bool) -> None:
        self.prepare(len(data))
        self._size -= len(data)
        if self.full is None:
            try:
                self._target.stored.publish(claim, first, data)
            except (NoSpace, CacheUnusable) as error:
                self._refuse(error, disk=True)
            else:
                size = _on_disk(len(data))
                self._left -= size
                self._used += size
                self._probing = False
                if self._shelf.refusal is not None or self._target.refusal is not None:
                    self._shelf.stored(self._target)
        for number, block in enumerate(range(first, first + ranges.block_count(len(data)))):
            if self.full is not None or self._target.holds(block):
                part = data[number * ranges.BLOCK_SIZE : (number + 1) * ranges.BLOCK_SIZE]
                self._target.memory.put(self._target.key, block, bytes(part), spare=spare)

    def prepare(self, size: int) -> None:
        """Have ``size`` bytes reserved, if that can be; ``full`` tells."""
        budget = self._shelf.budget
        if budget is None or self.full is not None or self._left >= _on_disk(size):
            return
        self._settle()
        asked = _on_disk(max(min(size, self._size), min(self._size, step(budget.cached_capacity, ranges.BLOCK_SIZE))))
        try:
            self._reservation = budget.reserve(asked)
        except (NoSpace, CacheUnusable) as error:
            self._refuse(error, disk=True)
            return
        if self._reservation is None:
            self._refuse(budget.no_space_error(), disk=False)
        else:
            self._left = asked

    def _refuse(self, error: HffsError, *, disk: bool) -> None:
        self.full = error
        self._shelf.not_stored(self._target, error, disk=disk)

    def _settle(self) -> None:
        reservation, self._reservation = self._reservation, None
        used, self._left, self._used = self._used, 0, 0
        if reservation is not None:
            reservation.settle(used)


def _on_disk(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
