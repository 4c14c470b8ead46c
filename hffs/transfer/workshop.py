"""The fetcher's inside: one lock over what is wanted, who waits and what is attached, and the workers who see to it.

What to fetch next is ``policy.BlockQueue``'s decision, taken under the one lock; claiming, fetching, storing and
telling waiters happen outside it (``carrier``). A waiter's callback runs on a worker or on the timer thread and must
only hand over. No error ends a worker: there is nobody to start another. Nobody outside uses it but as a ``Fetcher``.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..cache import BlobStore, CacheBudget
from ..errors import AccessDenied, AccessLapsed, Cancelled, DeadlineExceeded, HffsError, RateLimited
from ..model import RemoteFile
from ..policy import (
    USUAL,
    BlockQueue,
    ConcurrencyController,
    ConcurrencyLimits,
    DiskBreaker,
    Fetch,
    Priority,
    RetryPolicy,
)
from ..ranges import BLOCK_SIZE, block_count
from ..sources.base import RangeReader
from .blob_handle import BlobHandle, MemoryBlocks
from .fetch_task import FetchTask
from .hash_worker import HASH_NICE, HashWorker
from .quarantine import Quarantine, QuarantineActions
from .throttle import Throttle
from .timers import Timers
from .waiters import LATE_SECONDS, Waiter, WaiterTable, tell
from .worker_pool import PoolTask, WorkerPool

log = logging.getLogger(__name__)

# Another process holds the blocks: look again after this long. It is a local look at one byte a block.
BUSY_SECONDS = 0.05
# The same where no reader waits: at 0.05 s a whole file that is another's cost 9 % of a core.
BUSY_BACKGROUND_SECONDS = 0.5
# How often the number of workers for big files is thought over: the limiter counts in quarters of a second.
SAMPLE_SECONDS = 0.25
# Access that was given and is refused now is asked for again so often in the background: as ``sources.hub.access`` lets
# one request through.
DENIED_SECONDS = 30.0

Watcher = Callable[[HffsError | None], None]


@dataclass(frozen=True, slots=True)
class FetchFailure:
    """Something that went wrong, for ``status``; ``at`` is wall-clock seconds."""

    at: float
    what: str
    path: str


class Workshop:
    """Workers and what they work at; the lock ``_ready`` is held where a comment says so."""

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
        """At most ``workers`` threads, of which ``ahead`` read ahead; ``controller`` limits how many hydrate big
        files. Stored blocks keep to ``budget``; ``breaker`` decides when a disk that refused is tried again.
        ``background_delay`` gives the seconds that background work waits before a file is requested. ``hash_nice`` is
        the nice value of the hash worker: the lowest priority, where there may be readers."""
        self._store = store
        self.throttle = throttle or Throttle()
        self._carrier = FetchTask(
            source,
            landed=self._landed,
            refused=self._note,
            awaited=self._awaited,
            throttle=self.throttle,
            budget=budget,
            breaker=breaker,
        )
        self._budget = budget
        self._background_delay = background_delay
        self._timers = timers
        self._retry = retry or RetryPolicy()
        self._jitter = jitter
        self._workers = workers
        self._memory = MemoryBlocks()
        self.on_local: Callable[[RemoteFile], None] = lambda _: None  # set before start
        measures = QuarantineActions(self._refuse, source.forget, self._refetch)
        self.quarantine = Quarantine(store.layout, measures, clock)
        self.hash_worker = HashWorker(self._hold, self._let_go, self.quarantine, self._tell_watchers, nice=hash_nice)
        self._ready = threading.Condition()
        # guarded by _ready
        self._queue: BlockQueue[Exception] = BlockQueue(
            demand_blocks=max(1, fetch_size // BLOCK_SIZE), workers=min(workers, USUAL)
        )
        self._allowance = ConcurrencyLimits(workers=workers, ahead=ahead, limiter=controller)
        self._handles: dict[str, BlobHandle] = {}
        self._waiters = WaiterTable(late_seconds)
        self._watchers: dict[str, list[Watcher]] = {}
        self._tickets = itertools.count(1)
        self._stopping = False
        self._sampling = False
        self._errors: deque[FetchFailure] = deque(maxlen=16)
        self._crew = WorkerPool(
            self._ready,
            workers,
            take=self._take,
            due=self._due,
            more=lambda: any(self._queue.queued().values()),
            do=self._do,
        )

    # --- whoever is at work on a handle keeps it open ----------------------------------------------------------------

    def _hold(self, handle: BlobHandle) -> bool:
        with self._ready:
            held = self._handles.get(handle.key) is handle
            handle.holders += held
            return held

    def _let_go(self, handle: BlobHandle) -> None:
        with self._ready:
            handle.holders -= 1
        self._release(handle)

    # --- a worker ---------------------------------------------------------------------------------------------------

    def _take(self, now: float) -> tuple[Fetch, BlobHandle] | None:
        """The next fetch for a free worker; the crew holds the lock."""
        fetch = self._queue.next(now, self._allowance.among(now))
        if fetch is None:
            return None
        self._allowance.began(fetch.priority)
        handle = self._handles[fetch.key]
        handle.holders += 1
        return fetch, handle

    def _due(self, now: float) -> float | None:
        times = (self._queue.due(now), self._allowance.paused(now))
        return min((each for each in times if each is not None), default=None)

    def _do(self, job: PoolTask, buffer: memoryview) -> None:
        try:
            self._carry_out(job.fetch, job.handle, buffer)
        finally:
            with self._ready:
                self._allowance.ended(job.fetch.priority)
            self._let_go(job.handle)

    def _carry_out(self, fetch: Fetch, handle: BlobHandle, buffer: memoryview) -> None:
        """One fetch from claim to settlement; every way out settles, retries or defers it."""
        if (
            fetch.priority >= Priority.BACKGROUND
            and not self._awaited(fetch)
            and (wait := self._background_delay(handle.file))
        ):
            with self._ready:
                if self._queue.awaited(fetch):  # since then: whoever came takes it back at once
                    wait = 0.0
                self._queue.defer(fetch, time.monotonic() + wait)
                self._crew.call()
            return
        try:
            busy = self._carrier.carry(fetch, handle, buffer)
        except HffsError as error:
            self._failed(fetch, handle, error)
            return
        except Exception as error:  # a bug of ours must reach the reader as an error, not as a wait without end
            log.error("event=fetch-bug path=%s", handle.file.path, exc_info=error)
            self._failed(fetch, handle, HffsError(f"fetching {handle.file.path} failed unexpectedly: {error!r}"))
            return
        with self._ready:
            if busy:
                alone = fetch.priority >= Priority.BACKGROUND and not self._queue.awaited(fetch)
                self._queue.defer(fetch, time.monotonic() + (BUSY_BACKGROUND_SECONDS if alone else BUSY_SECONDS))
                self._crew.call()
            else:
                self._queue.settle(fetch, None, time.monotonic())
            idle = not self._queue.busy(handle.key)
        if busy:
            return
        whole = idle and handle.stored.complete
        try:
            self.quarantine.tidy(handle)
            self.hash_worker.grown(handle)
        except HffsError as error:  # it is hashed when it is opened next
            log.debug("event=not-hashed path=%s error=%s", handle.file.path, error)
        if whole:
            self.on_local(handle.file)
        self._tell_watchers(handle, None)

    # --- content that proved wrong ----------------------------------------------------------------------------------

    def _refuse(self, handle: BlobHandle) -> None:
        """Nothing of it is fetched any more, and whoever waits for it is told; fetches under way go on for nobody."""
        refused = handle.refused
        assert refused is not None
        with self._ready:
            left = [self._waiters.leave(t) for t in self._queue.drop(handle.key)]
        tell(left, refused.error())

    def _refetch(self, handle: BlobHandle) -> None:
        """All of it anew in the background, if it can be kept beside what others read; else what a reader asks for."""
        budget = None if self._budget is None else self._budget.cached_capacity
        if self._carrier.refusal is None and (budget is None or handle.size <= budget // 2):
            absent = handle.missing(range(block_count(handle.size)))
            with self._ready:
                if self._knows(handle) and handle.refused is None:
                    self._want(handle, absent, Priority.BULK, time.monotonic())

    # --- telling ----------------------------------------------------------------------------------------------------

    def _landed(self, fetch: Fetch, blocks: Iterable[int]) -> None:
        with self._ready:
            done = [self._waiters.leave(t) for block in blocks for t in self._queue.landed(fetch, block)]
        tell(done, None)

    def _failed(self, fetch: Fetch, handle: BlobHandle, error: HffsError) -> None:
        self._note(handle, error)
        now = time.monotonic()
        if isinstance(error, AccessDenied):
            self._denied(fetch, handle, error, now)
            return
        patience = getattr(error, "retry_after", None)
        wait = self._retry.decide(fetch.attempt, transient=error.transient, retry_after=patience, random=self._jitter())
        gone: list[Waiter | None] = []
        limited = False
        with self._ready:
            if patience is not None or isinstance(error, RateLimited):
                limited = self._allowance.paused(now) is None
                self._allowance.refused(now, patience)
            again = wait is not None and not self._stopping
            if wait is not None and again:
                self._queue.retry(fetch, now + wait)
                self._crew.call()  # who sleeps knows of no retry, and this worker may be busy when it is due
            else:
                gone = [self._waiters.leave(t) for t in self._queue.settle(fetch, error, now)]
        if limited:
            log.info("event=rate-limited patience_s=%s error=%s", patience, str(error))
        if not again:
            if not isinstance(error, Cancelled):
                # As text: whoever keeps a record would keep the answer's socket by the error's trace.
                kind, what = type(error).__name__, str(error)
                log.info("event=fetch-failed path=%s kind=%s error=%s", handle.file.path, kind, what)
            tell(gone, error)
            self._tell_watchers(handle, error)

    def _denied(self, fetch: Fetch, handle: BlobHandle, error: AccessDenied, now: float) -> None:
        """Who refuses remembers it himself, and knows of a new token first. Readers hear it at once; what nobody waits
        for stays wanted where it had been given before, and is tried again after a while or at ``resume``; who watches
        is not told, but wants what a reader had asked for meanwhile once more, as always."""
        lapsed = isinstance(error, AccessLapsed)
        waits = lapsed and fetch.priority >= Priority.BACKGROUND
        absent = handle.missing(fetch.blocks) if waits else []
        with self._ready:
            gone = [self._waiters.leave(ticket) for ticket in self._queue.settle(fetch, error, now, remember=False)]
            if waits and not self._stopping and handle.refused is None:
                self._allowance.pause(now + DENIED_SECONDS, error.what)
                self._want(handle, absent, fetch.priority, now)
        tell(gone, error)
        if not lapsed:
            self._tell_watchers(handle, error)

    def _tell_watchers(self, handle: BlobHandle, error: HffsError | None) -> None:
        with self._ready:
            watchers = list(self._watchers.get(handle.key, ()))
        for told in watchers:
            told(error)

    def _awaited(self, fetch: Fetch) -> bool:
        with self._ready:
            return fetch.priority is Priority.DEMAND or self._queue.awaited(fetch)

    def _sample(self) -> None:
        """Think over how many workers big files get: every quarter second while there are any to fetch."""
        now, load, fetched = time.monotonic(), _load(), self._carrier.fetched_at(Priority.BULK)
        with self._ready:
            running = self._allowance.running(Priority.BULK)
            limiter = self._allowance.limiter
            if self._stopping or not (running or self._queue.queued()[Priority.BULK]):
                self._sampling = False
                limiter.idle(now)
                return
            before = limiter.limit
            if limiter.sample(now, fetched, running, load, os.cpu_count() or 1) > before:
                self._crew.call()
        self._timers.call_at(now + SAMPLE_SECONDS, self._sample)

    def _too_late(self, ticket: int) -> None:
        with self._ready:
            waiter = self._waiters.leave(ticket)
            if waiter is None:
                return
            self._waiters.note_late(waiter, time.monotonic())
            slow = self._queue.under_way(ticket)
            self._queue.abandon(ticket)
        # A connection that trickles would keep its blocks from everybody; another one may be faster.
        for fetch in slow:
            self._carrier.abort(fetch)
        tell([waiter], DeadlineExceeded(f"{waiter.path} did not arrive in time"))

    def _note(self, handle: BlobHandle, error: HffsError) -> None:
        with self._ready:
            self._errors.append(FetchFailure(time.time(), str(error), handle.file.path))

    def _want(self, handle: BlobHandle, absent: list[range], priority: Priority, now: float) -> None:
        """Queue these blocks and wake whoever sleeps if any was new; the caller holds the lock. What is queued has been
        announced, without exception: who wants it next wakes nobody."""
        more = [self._queue.want(handle.key, run, priority, now) for run in absent]
        if any(more):
            self._crew.call()
        if priority is Priority.BULK and not self._sampling:
            self._sampling = True
            self._timers.call_at(now, self._sample)

    def _knows(self, handle: BlobHandle) -> bool:
        """Whether a handle is still served; the caller holds the lock. What is queued for another has no worker."""
        return self._handles.get(handle.key) is handle

    def _release(self, handle: BlobHandle) -> None:
        """Forget what nobody will read; and the handle, when nobody is at work on it and nothing is left to do."""
        with self._ready:
            if not self._knows(handle) or handle.readers:
                return
            left = [self._waiters.leave(t) for t in self._queue.drop(handle.key, keep=Priority.BACKGROUND)]
            needed = handle.holders or (not self._stopping and self._queue.busy(handle.key))
            if not needed:
                del self._handles[handle.key]
        tell(left, Cancelled(f"{handle.file.path} was closed"))
        if not needed:  # else whoever is at work comes here again
            self._close(handle)

    def _close(self, handle: BlobHandle) -> None:
        self._memory.forget(handle.key)
        handle.stored.close()


def _load() -> float:
    """The machine's load average; 0 where nobody tells."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0
