"""The workers: whatever is wanted of any blob is fetched here, once, most urgent first, and stored.

Here is what others ask of it: readers, hydrations, ``status``. How it is done is ``workshop``'s: what to fetch next is
decided under one lock, everything else happens outside it. There is no second way bytes come in. A waiter's callback
runs on a worker or on the timer thread and must only hand over.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from .. import ranges
from ..errors import Cancelled, DeadlineExceeded, HffsError, NoSpace
from ..model import Blob, RemoteFile
from ..policy import Priority, eviction
from .blob_handle import MEMORY_LIMIT, BlobHandle
from .waiters import Callback, Waiter, WaitingRead, tell
from .workshop import FetchFailure, Watcher, Workshop

# While nothing can be stored, what is read ahead lives in a small memory: eight readers at a time share it.
MEMORY_READAHEAD = MEMORY_LIMIT // 8


@dataclass(frozen=True, slots=True)
class ActiveWorker:
    """A worker at work: on which bytes of which file, how fast (bytes per second), since when (monotonic seconds)."""

    worker: int
    path: str
    priority: Priority
    asked: ranges.ByteRange
    bytes_per_s: float
    began: float


class Fetcher(Workshop):
    """``attach`` a file, then ``want`` blocks of it and ``wait`` for them; ``detach`` when done."""

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.hash_worker.start()
        self._crew.open()

    def stop(self, patience: float = 15.0) -> None:
        """Ends the workers; every waiter is told ``Cancelled``. A fetch in flight ends with its next block; one whose
        source is silent for ``patience`` seconds is left to its socket's timeout."""
        ends = time.monotonic() + patience
        self._carrier.stopping = True
        with self._ready:
            self._stopping = True
            waiters = self._waiters.clear()
        self._crew.close()
        tell(waiters.values(), Cancelled("hffs is shutting down"))
        self._crew.join(ends)
        self.hash_worker.stop(max(1.0, ends - time.monotonic()))
        with self._ready:
            handles = list(self._handles.values())
        for handle in handles:  # one that is still in somebody's hands is closed by the last of them
            self._release(handle)

    def cancel_waiters(self) -> None:
        """Everybody who waits now is told ``Cancelled``: the mount they wait on is gone, nobody hears the answers."""
        with self._ready:
            waiters = self._waiters.clear()
            for ticket in waiters:
                self._queue.abandon(ticket)
        tell(waiters.values(), Cancelled("the mount is gone"))

    # --- what readers call ------------------------------------------------------------------------------------------

    def attach(self, file: RemoteFile) -> BlobHandle:
        """The handle of this file's blob, to be given back with ``detach``. Raises CacheUnusable, Cancelled."""
        stored = self._store.open(file.blob)
        key = blob_key(file.blob)
        fresh = BlobHandle(key, file, stored, self._memory)
        self.quarantine.admit(fresh)
        with self._ready:
            stopped = self._stopping
            known = self._handles.get(key)
            handle = known or fresh
            if not stopped:
                self._handles[key] = handle
                handle.readers += 1
        if known is not None or stopped:
            stored.close()
        if stopped:
            raise Cancelled("hffs is shutting down")
        if known is None:
            try:
                if stored.complete and not stored.verified:
                    self.hash_worker.submit(handle)
            except BaseException:
                self.detach(handle)
                raise
        return handle

    def detach(self, handle: BlobHandle) -> None:
        """What was wanted in the background is still fetched; what was wanted for the reader is not."""
        with self._ready:
            handle.readers -= 1
        self._release(handle)

    def want(self, handle: BlobHandle, blocks: range, priority: Priority) -> None:
        """Have these blocks fetched, unless they are there already. Returns at once."""
        absent = handle.missing(blocks)
        if not absent:
            return
        with self._ready:
            if self._knows(handle) and handle.refused is None:
                self._want(handle, absent, priority, time.monotonic())

    def relinquish(self, handle: BlobHandle) -> None:
        """What of the handle is only wanted in the background is not fetched any more."""
        with self._ready:
            self._queue.relinquish(handle.key, Priority.BACKGROUND)

    def watch(self, handle: BlobHandle, told: Watcher) -> None:
        """``told(None)`` when a fetch of the handle has ended or it was found right, ``told(error)`` when one failed
        for good or its content is wrong; on threads of ours, so hand over. Ends with ``unwatch``."""
        with self._ready:
            self._watchers.setdefault(handle.key, []).append(told)

    def unwatch(self, handle: BlobHandle, told: Watcher) -> None:
        with self._ready:
            watchers = self._watchers.get(handle.key, [])
            if told in watchers:
                watchers.remove(told)
            if not watchers:
                self._watchers.pop(handle.key, None)

    def busy(self, handle: BlobHandle) -> bool:
        """Whether anything of the handle is queued or under way."""
        with self._ready:
            return self._queue.busy(handle.key)

    def wait(self, handle: BlobHandle, asked: ranges.ByteRange, deadline: float, callback: Callback) -> int:
        """Want the blocks of ``asked`` for a waiting reader; ``callback(None)`` comes once when they can be read,
        ``callback(error)`` when they cannot be had or ``deadline`` (monotonic) passed. It may come before this returns.
        """
        span = ranges.span_of(asked)
        absent = handle.missing(span)
        with self._ready:
            now = time.monotonic()  # not before: another read may be too late in between, and that is not this one's
            ticket = next(self._tickets)
            if self._stopping:
                failed: Exception | None = Cancelled("hffs is shutting down")
            elif not self._knows(handle):
                failed = Cancelled(f"{handle.file.path} was closed")
            elif handle.refused is not None:
                failed = handle.refused.error()
            elif self._waiters.is_late(handle.key, absent, now):
                failed = DeadlineExceeded(f"{handle.file.path} did not arrive in time just now")
            elif absent:
                self._want(handle, absent, Priority.DEMAND, now)
                failed = self._queue.wait(ticket, handle.key, [block for run in absent for block in run], now)
                if failed is None:
                    timer = self._timers.call_at(deadline, lambda: self._too_late(ticket))
                    self._waiters.enter(ticket, Waiter(callback, timer, handle.key, handle.file.path, asked, now))
            else:
                failed = None
            waits = ticket in self._waiters
        if not waits:
            callback(failed)
        return ticket

    def abandon(self, ticket: int) -> None:
        """The waiter has gone; its callback will not come (unless it is on its way already)."""
        with self._ready:
            waiter = self._waiters.leave(ticket)
            if waiter is None:
                return
            self._queue.abandon(ticket)
        waiter.timer.cancel()

    def retry(self, blob: Blob) -> bool:
        """Forget that a content proved wrong, so that it is fetched and read again at once, from a fresh URL; for
        whoever mends it on purpose. Whether anything was on record."""
        with self._ready:
            handle = self._handles.get(blob_key(blob))
        return self.quarantine.retry(blob, handle)

    def resume(self) -> None:
        """What kept the background waiting is over, as far as its sources know."""
        with self._ready:
            self._allowance.resume()
            self._crew.call()

    # --- what status shows ------------------------------------------------------------------------------------------

    def waiting_reads(self) -> list[WaitingRead]:
        with self._ready:
            return self._waiters.reads()

    def errors(self) -> list[FetchFailure]:
        with self._ready:
            return list(self._errors)

    def speed(self) -> float:
        """Bytes per second now."""
        return self._carrier.speed()

    def active_workers(self) -> list[ActiveWorker]:
        """What each worker is at."""
        with self._ready:
            jobs = self._crew.jobs()
        return [
            ActiveWorker(
                job.worker,
                job.handle.file.path,
                job.fetch.priority,
                ranges.bytes_of(job.fetch.blocks, job.handle.size),
                self._carrier.speed_of(job.fetch),
                job.began,
            )
            for job in jobs
        ]

    def scheduled_runs(self, blob: Blob) -> list[tuple[range, bool]]:
        """What of a blob is queued or (True) under way, in ascending order."""
        with self._ready:
            return self._queue.runs(blob_key(blob))

    def worker_limit(self) -> tuple[int, str]:
        """How many workers there may be just now, and why that many."""
        now = time.monotonic()
        with self._ready:
            until = self._allowance.paused(now)
            if until is not None:
                return self._workers, f"{self._allowance.why}: only waiting readers for {until - now:.0f} s"
            bulk = self._queue.queued()[Priority.BULK] or self._allowance.running(Priority.BULK)
            limiter = self._allowance.limiter
        return (limiter.limit, limiter.why) if bulk else (self._workers, "as many as are needed, up to the limit")

    @property
    def stopped(self) -> bool:
        """Whether it brings nothing any more."""
        return self._stopping

    @property
    def bytes_fetched(self) -> int:
        return self._carrier.fetched

    @property
    def degraded(self) -> str:
        """Why the cache takes no blocks, when it does not; empty: it does."""
        return "" if self.refusal is None else str(self.refusal)

    @property
    def refusal(self) -> HffsError | None:
        """The error with which the cache last refused a block; None: it took the last one."""
        return self._carrier.refusal

    # --- how much can be kept ---------------------------------------------------------------------------------------

    def window(self) -> int | None:
        """How far ahead of a reader may be fetched at most, in bytes; None: as far as its cursor likes."""
        if self.refusal is not None:
            return MEMORY_READAHEAD
        return None if self._budget is None else eviction.window(self._budget.cached_capacity, len(self._handles))

    def fits(self, size: int) -> bool:
        """Whether so many bytes can be kept beside what others read: that is, in half of the cache."""
        budget = None if self._budget is None else self._budget.cached_capacity
        return self.refusal is None and (budget is None or size <= budget // 2)

    def probe(self) -> None:
        """About once a second: see whether a cache that took nothing does now."""
        self._carrier.shelf.probe()

    def ask_for_room(self, missing: int, total: int) -> None:
        """Before ``missing`` of ``total`` bytes are fetched to be kept all together: a disk that refused is tried again
        with the next block. Raises NoSpace when so much can never be kept."""
        self._carrier.shelf.forget()
        capacity = None if self._budget is None else self._budget.capacity()
        if missing and capacity is not None and total > capacity:
            raise NoSpace(
                f"{missing >> 20} MiB are missing of {total >> 20}, and the cache may hold {capacity >> 20} MiB here",
                "raise --cache-size, free some disk space, or leave files out (--include, --exclude)",
            )


def blob_key(blob: Blob) -> str:
    return f"{blob.etag}@{blob.origin}"


__all__ = ["ActiveWorker", "FetchFailure", "Fetcher", "WaitingRead", "blob_key"]
