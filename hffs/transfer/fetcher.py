"""The fetcher: every block of every blob comes in here, once, most urgent first, and is stored.

Readers, hydrations and status call it, on any thread. It owns the memory blocks, the quarantine and the hash worker,
and calls back on worker, timer and hash threads; callbacks must only hand over. What is fetched next, and which readers
wait for it, is decided by ``Scheduler`` under its lock; this module acts on the decisions without it. No error ends a
worker: no other thread would start a new one.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .. import ranges
from ..cache import BlobStore, CacheBudget
from ..errors import AccessDenied, AccessLapsed, Cancelled, DeadlineExceeded, HffsError, NoSpace, RateLimited
from ..model import Blob, RemoteFile
from ..policy import ConcurrencyController, DiskBreaker, Fetch, Priority, RetryPolicy, eviction
from ..sources.base import RangeReader
from .blob_handle import MEMORY_LIMIT, BlobHandle, MemoryBlocks
from .downloader import Downloader
from .hash_worker import HASH_NICE, HashWorker
from .quarantine import Quarantine
from .scheduler import SAMPLE_SECONDS, Scheduler, Unused
from .throttle import Throttle
from .timers import Timers
from .waiters import LATE_SECONDS, Callback, call_back
from .worker_pool import PoolTask

log = logging.getLogger(__name__)

# While nothing can be stored, read-ahead is kept in a small memory: eight readers at a time share it.
MEMORY_READAHEAD = MEMORY_LIMIT // 8
# Another process holds the blocks: look again after this long. It is a local look at one byte a block.
BUSY_SECONDS = 0.05
# The same where no reader waits: at 0.05 s a whole file that another process fetches cost 9 % of a core.
BUSY_BACKGROUND_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class FetchFailure:
    """A failure, for ``status``; ``at`` is wall-clock seconds."""

    at: float
    what: str
    path: str


@dataclass(frozen=True, slots=True)
class ActiveWorker:
    """A worker's current fetch: bytes of a file, its speed (bytes per second), its beginning (monotonic seconds)."""

    worker: int
    path: str
    priority: Priority
    asked: ranges.ByteRange
    bytes_per_s: float
    began: float


class Fetcher:
    """``attach`` a file, ``want`` blocks of it or ``wait`` for them, then ``detach``."""

    def __init__(
        self,
        store: BlobStore,
        source: RangeReader,
        timers: Timers,
        *,
        workers: int = 10,
        ahead: int | None = None,
        controller: ConcurrencyController | None = None,
        fetch_size: int = 4 * 1024 * 1024,
        retry: RetryPolicy | None = None,
        throttle: Throttle | None = None,
        budget: CacheBudget | None = None,
        breaker: DiskBreaker | None = None,
        background_delay: Callable[[RemoteFile], float] = lambda _: 0.0,
        late_seconds: float = LATE_SECONDS,
        hash_nice: int = HASH_NICE,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """At most ``workers`` threads, of which ``ahead`` read ahead; ``controller`` limits how many hydrate big files.
        Stored blocks keep to ``budget``; ``breaker`` decides when a failed disk is tried again.
        ``background_delay`` gives the seconds that background work waits before a file is requested. ``hash_nice`` is
        the nice value of the hash worker: the lowest priority, where there may be readers."""
        self._store = store
        self._timers = timers
        self._retry = retry or RetryPolicy()
        self._jitter = jitter
        self._budget = budget
        self._background_delay = background_delay
        self.throttle = throttle or Throttle()
        self.on_local: Callable[[RemoteFile], None] = lambda _: None  # set before start
        self._memory = MemoryBlocks()
        self._scheduler = Scheduler(
            timers,
            self._run,
            self._sample,
            workers=workers,
            fetch_size=fetch_size,
            ahead=ahead,
            controller=controller,
            late_seconds=late_seconds,
        )
        # Answers of the scheduler that leave nothing to do outside its lock.
        self.cancel_background = self._scheduler.cancel_background
        self.watch = self._scheduler.watch
        self.unwatch = self._scheduler.unwatch
        self.is_busy = self._scheduler.is_busy
        self.resume = self._scheduler.resume
        self.waiting_reads = self._scheduler.waiting_reads
        self.worker_limit = self._scheduler.worker_limit
        self._downloader = Downloader(
            source,
            on_landed=self._landed,
            on_store_error=self._record_failure,
            is_awaited=self._scheduler.is_awaited,
            throttle=self.throttle,
            budget=budget,
            breaker=breaker,
        )
        self.quarantine = Quarantine(
            store.layout, drop=self._drop, forget_url=source.forget, refetch=self._refetch, clock=clock
        )
        self.hash_worker = HashWorker(
            self._scheduler.hold, self._release, self.quarantine, self._notify_watchers, nice=hash_nice
        )
        self._failures_lock = threading.Lock()
        self._failures: deque[FetchFailure] = deque(maxlen=16)  # guarded by _failures_lock

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.hash_worker.start()
        self._scheduler.pool.open()

    def stop(self, patience: float = 15.0) -> None:
        """Ends the workers and all waits, these with Cancelled. A running fetch ends with its next block; one whose
        source is silent for ``patience`` seconds is left to its socket's timeout."""
        ends = time.monotonic() + patience
        self._downloader.stopping = True
        call_back(self._scheduler.stop(), Cancelled("hffs is shutting down"))
        self._scheduler.pool.join(ends)
        self.hash_worker.stop(max(1.0, ends - time.monotonic()))
        for handle in self._scheduler.handles():  # one that is still held is closed by its last release
            self._close_unused(handle, self._scheduler.unused(handle))

    def cancel_waiters(self) -> None:
        """Ends all waits with Cancelled, for a mount that has ended: their answers have no receiver."""
        call_back(self._scheduler.cancel_waiters(), Cancelled("the mount has ended"))

    # --- readers and hydrations -------------------------------------------------------------------------------------

    def attach(self, file: RemoteFile) -> BlobHandle:
        """The handle of a file's blob, for the caller to ``detach``. Raises CacheUnusable, Cancelled."""
        stored = self._store.open(file.blob)
        fresh = BlobHandle(blob_key(file.blob), file, stored, self._memory)
        self.quarantine.admit(fresh)
        handle = self._scheduler.attach(fresh)
        if handle is not fresh:
            stored.close()
        if handle is None:
            raise Cancelled("hffs is shutting down")
        if handle is fresh:
            try:
                if stored.complete and not stored.verified:
                    self.hash_worker.submit(handle)
            except BaseException:
                self.detach(handle)
                raise
        return handle

    def detach(self, handle: BlobHandle) -> None:
        """What is wanted in the background is still fetched; demand and read-ahead are not."""
        self._close_unused(handle, self._scheduler.detach(handle))

    def want(self, handle: BlobHandle, blocks: range, priority: Priority) -> None:
        """Has these blocks fetched unless they are local. Returns at once. Raises CacheUnusable."""
        absent = handle.missing(blocks)
        if absent:
            self._scheduler.want(handle, absent, priority)

    def wait(self, handle: BlobHandle, asked: ranges.ByteRange, deadline: float, callback: Callback) -> int:
        """Wants the blocks of ``asked`` for a waiting reader and returns its ticket. ``callback(None)`` comes once when
        they can be read, ``callback(error)`` when they cannot be had or ``deadline`` (monotonic) has passed; either may
        come before this returns. Raises CacheUnusable."""
        absent = handle.missing(ranges.span_of(asked))
        ticket, waits, failed = self._scheduler.wait(handle, asked, absent, deadline, callback, self._expire)
        if not waits:
            callback(failed)
        return ticket

    def abandon(self, ticket: int) -> None:
        """Ends a wait; its callback does not come, unless it is under way."""
        waiter = self._scheduler.abandon(ticket)
        if waiter is not None:
            waiter.timer.cancel()

    def clear_quarantine(self, blob: Blob) -> bool:
        """Has wrong content fetched and read again at once, from a fresh URL; returns whether any was on record."""
        return self.quarantine.clear(blob, self._scheduler.handle(blob_key(blob)))

    # --- status -----------------------------------------------------------------------------------------------------

    def errors(self) -> list[FetchFailure]:
        with self._failures_lock:
            return list(self._failures)

    def speed(self) -> float:
        """Bytes per second now."""
        return self._downloader.speed()

    def active_workers(self) -> list[ActiveWorker]:
        return [
            ActiveWorker(
                task.worker,
                task.handle.file.path,
                task.fetch.priority,
                ranges.bytes_of(task.fetch.blocks, task.handle.size),
                self._downloader.speed_of(task.fetch),
                task.began,
            )
            for task in self._scheduler.tasks()
        ]

    def scheduled_runs(self, blob: Blob) -> list[tuple[range, bool]]:
        """The runs of a blob that are queued (False) or running (True), in ascending order."""
        return self._scheduler.runs(blob_key(blob))

    @property
    def stopped(self) -> bool:
        return self._scheduler.stopped

    @property
    def bytes_fetched(self) -> int:
        return self._downloader.fetched

    @property
    def degraded(self) -> str:
        """Why the cache takes no blocks; empty: it does."""
        return "" if self.store_error is None else str(self.store_error)

    @property
    def store_error(self) -> HffsError | None:
        """Why the last block was not stored; None: it was."""
        return self._downloader.sink.error

    # --- how much can be kept ---------------------------------------------------------------------------------------

    def readahead_limit(self) -> int | None:
        """How many bytes ahead of a reader may be fetched at most; None: as many as its cursor wants."""
        if self.store_error is not None:
            return MEMORY_READAHEAD
        if self._budget is None:
            return None
        return eviction.window(self._budget.cached_capacity, self._scheduler.handle_count)

    def can_keep(self, size: int) -> bool:
        """Whether ``size`` bytes can be kept beside what others read, that is, in half of the cache."""
        capacity = None if self._budget is None else self._budget.cached_capacity
        return self.store_error is None and (capacity is None or size <= capacity // 2)

    def probe(self) -> None:
        """To be called about once a second: finds out whether blocks can be stored again."""
        self._downloader.sink.probe()

    def ensure_capacity(self, missing: int, total: int) -> None:
        """Before ``missing`` of ``total`` bytes are fetched to be kept together: a failed disk is tried again with the
        next block. Raises NoSpace when so much can never be kept."""
        self._downloader.sink.reset()
        capacity = None if self._budget is None else self._budget.capacity()
        if missing and capacity is not None and total > capacity:
            raise NoSpace(
                f"{missing >> 20} MiB are missing of {total >> 20}, and the cache may hold {capacity >> 20} MiB here",
                "raise --cache-size, free some disk space, or leave files out (--include, --exclude)",
            )

    # --- on a worker ------------------------------------------------------------------------------------------------

    def _run(self, task: PoolTask, buffer: memoryview) -> None:
        try:
            self._fetch(task.fetch, task.handle, buffer)
        finally:
            self._close_unused(task.handle, self._scheduler.finish(task))

    def _fetch(self, fetch: Fetch, handle: BlobHandle, buffer: memoryview) -> None:
        """One fetch from lease to settlement; every way out settles, retries or defers it."""
        background = fetch.priority >= Priority.BACKGROUND
        if background and not self._scheduler.is_awaited(fetch) and (delay := self._background_delay(handle.file)):
            self._scheduler.defer(fetch, delay, 0.0)  # at once, where a reader has come meanwhile
            return
        try:
            busy = self._downloader.run(fetch, handle, buffer)
        except HffsError as error:
            self._failed(fetch, handle, error)
            return
        except Exception as error:  # a bug of ours must reach the reader as an error, not as a wait without end
            log.error("event=fetch-bug path=%s", handle.file.path, exc_info=error)
            self._failed(fetch, handle, HffsError(f"fetching {handle.file.path} failed unexpectedly: {error!r}"))
            return
        if busy:
            self._scheduler.defer(fetch, BUSY_BACKGROUND_SECONDS, BUSY_SECONDS)
            return
        whole = self._scheduler.settle(fetch) and handle.stored.complete
        try:
            self.quarantine.discard_if_refused(handle)
            self.hash_worker.grown(handle)
        except HffsError as error:  # it is hashed when it is opened next
            log.debug("event=not-hashed path=%s error=%s", handle.file.path, error)
        if whole:
            self.on_local(handle.file)
        self._notify_watchers(handle, None)

    def _landed(self, fetch: Fetch, blocks: Iterable[int]) -> None:
        call_back(self._scheduler.landed(fetch, blocks), None)

    def _failed(self, fetch: Fetch, handle: BlobHandle, error: HffsError) -> None:
        self._record_failure(handle, error)
        if isinstance(error, AccessDenied):
            self._denied(fetch, handle, error)
            return
        patience = getattr(error, "retry_after", None)
        wait = self._retry.decide(fetch.attempt, transient=error.transient, retry_after=patience, random=self._jitter())
        limited = patience is not None or isinstance(error, RateLimited)
        if limited and self._scheduler.limit_rate(patience):
            log.info("event=rate-limited patience_s=%s error=%s", patience, str(error))
        waiters = self._scheduler.retry_or_fail(fetch, error, wait)
        if waiters is None:
            return
        if not isinstance(error, Cancelled):
            # As text: a log handler that keeps the record would keep the answer's socket by the error's traceback.
            kind, what = type(error).__name__, str(error)
            log.info("event=fetch-failed path=%s kind=%s error=%s", handle.file.path, kind, what)
        call_back(waiters, error)
        self._notify_watchers(handle, error)

    def _denied(self, fetch: Fetch, handle: BlobHandle, error: AccessDenied) -> None:
        """The source's access remembers denials, and learns of a new token first: readers get the error at once.
        If access had worked before, background blocks stay queued, and are retried after a pause or at ``resume``;
        watchers are not notified of that. Blocks that only a reader wanted are dropped; a watcher wants them again."""
        lapsed = isinstance(error, AccessLapsed)
        absent = handle.missing(fetch.blocks) if lapsed and fetch.priority >= Priority.BACKGROUND else None
        call_back(self._scheduler.deny(fetch, error, handle, absent), error)
        if not lapsed:
            self._notify_watchers(handle, error)

    def _notify_watchers(self, handle: BlobHandle, error: HffsError | None) -> None:
        for watcher in self._scheduler.watchers(handle):
            watcher(error)

    def _record_failure(self, handle: BlobHandle, error: HffsError) -> None:
        with self._failures_lock:
            self._failures.append(FetchFailure(time.time(), str(error), handle.file.path))

    # --- on the timer thread ----------------------------------------------------------------------------------------

    def _sample(self) -> None:
        if self._scheduler.sample(self._downloader.fetched_at(Priority.BULK), _load(), os.cpu_count() or 1):
            self._timers.call_at(time.monotonic() + SAMPLE_SECONDS, self._sample)

    def _expire(self, ticket: int) -> None:
        waiter, slow = self._scheduler.expire(ticket)
        if waiter is None:
            return
        # A connection that trickles would keep its blocks from all readers; another one may be faster.
        for fetch in slow:
            self._downloader.abort(fetch)
        call_back([waiter], DeadlineExceeded(f"{waiter.path} did not arrive in time"))

    # --- content that is wrong, handles that are unused ---------------------------------------------------------------

    def _drop(self, handle: BlobHandle) -> None:
        """Ends the waits and wants of a handle whose content was refused; running fetches go on for no reader."""
        refusal = handle.refusal
        assert refusal is not None
        call_back(self._scheduler.drop(handle), refusal.error())

    def _refetch(self, handle: BlobHandle) -> None:
        """Wants all of it anew in the background, if it can be kept; else only what a reader asks for is fetched."""
        if self.can_keep(handle.size):
            self.want(handle, range(ranges.block_count(handle.size)), Priority.BULK)

    def _release(self, handle: BlobHandle) -> None:
        self._close_unused(handle, self._scheduler.release(handle))

    def _close_unused(self, handle: BlobHandle, unused: Unused) -> None:
        call_back(unused.waiters, Cancelled(f"{handle.file.path} was closed"))
        if unused.closes:
            self._memory.forget(handle.key)
            handle.stored.close()


def blob_key(blob: Blob) -> str:
    return f"{blob.etag}@{blob.origin}"


def _load() -> float:
    """The machine's load average; 0 where it is unknown."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0
