"""What the workers fetch next: one lock over wanted blocks, waiting reads and attached handles.

Owns the block queue, the concurrency limits, the waiters, the watchers and the worker pool. Only ``Fetcher`` calls it,
on any thread.

Lock rule: ``_lock`` is taken in this module and in ``worker_pool``, nowhere else. A public method takes it, decides,
and returns what its caller then does without it: call waiters back, close a handle, abort a connection. Nothing reads,
writes, logs or calls back under the lock. What happens under it besides decisions is to wake or start a worker and to
set a timer, both of which run later and take the lock themselves.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .. import ranges
from ..errors import Cancelled, DeadlineExceeded, HffsError
from ..policy import USUAL, BlockQueue, ConcurrencyController, ConcurrencyLimits, Fetch, Priority
from .blob_handle import BlobHandle, Watcher
from .timers import Timers
from .waiters import LATE_SECONDS, Callback, LateBlocks, Waiter, WaitingRead
from .worker_pool import PoolTask, WorkerPool

# How often the number of workers for big files is reconsidered: the controller counts in quarters of a second.
SAMPLE_SECONDS = 0.25
# How long background work waits after access to a file was withdrawn; the Hub's access lets one request through in 30 s
# for a refused token (hub/access.py, TOKEN_REST).
DENIED_SECONDS = 30.0


class Unused(NamedTuple):
    """``waiters`` whose blocks are no longer fetched, and whether the handle has been forgotten and must be closed."""

    waiters: list[Waiter]
    closes: bool


class Scheduler:
    """``run`` carries out one fetch on a worker; the timer thread calls ``sample`` while big files are fetched."""

    def __init__(
        self,
        timers: Timers,
        run: Callable[[PoolTask, memoryview], None],
        sample: Callable[[], None],
        *,
        workers: int,
        fetch_size: int,
        ahead: int | None = None,
        controller: ConcurrencyController | None = None,
        late_seconds: float = LATE_SECONDS,
    ) -> None:
        self._timers = timers
        self._sample = sample
        self._workers = workers
        self._lock = threading.Condition()
        # guarded by _lock
        self._queue: BlockQueue[Exception] = BlockQueue(
            demand_blocks=max(1, fetch_size // ranges.BLOCK_SIZE), workers=min(workers, USUAL)
        )
        self._limits = ConcurrencyLimits(workers=workers, ahead=ahead, controller=controller)
        self._handles: dict[str, BlobHandle] = {}
        self._waiters: dict[int, Waiter] = {}  # by ticket
        self._late = LateBlocks(late_seconds)
        self._tickets = itertools.count(1)
        self._sampling = False
        self.stopped = False
        self.pool = WorkerPool(
            self._lock,
            workers,
            take=self._take,
            due=self._due,
            more=lambda: any(self._queue.queued().values()),
            run=run,
        )

    def stop(self) -> list[Waiter]:
        """Workers end with their current fetches. Returns all waiters."""
        with self._lock:
            self.stopped = True
            waiters = self._take_waiters(list(self._waiters))
        self.pool.close()
        return waiters

    def cancel_waiters(self) -> list[Waiter]:
        """Returns all waiters, which wait no more."""
        with self._lock:
            for ticket in self._waiters:
                self._queue.abandon(ticket)
            return self._take_waiters(list(self._waiters))

    # --- handles ----------------------------------------------------------------------------------------------------

    def attach(self, fresh: BlobHandle) -> BlobHandle | None:
        """Counts one more reader of the blob; returns its handle, ``fresh`` if there was none, or None when stopped."""
        with self._lock:
            if self.stopped:
                return None
            handle = self._handles.setdefault(fresh.key, fresh)
            handle.readers += 1
            return handle

    def detach(self, handle: BlobHandle) -> Unused:
        """One reader less."""
        with self._lock:
            handle.readers -= 1
            return self._unused(handle)

    def hold(self, handle: BlobHandle) -> bool:
        """Keeps a handle open until ``release``; False when it is not attached any more."""
        with self._lock:
            held = self._is_attached(handle)
            handle.holders += held
            return held

    def release(self, handle: BlobHandle) -> Unused:
        with self._lock:
            handle.holders -= 1
            return self._unused(handle)

    def unused(self, handle: BlobHandle) -> Unused:
        """Forgets what no reader needs of the handle; and the handle itself when nothing holds it or is left to do."""
        with self._lock:
            return self._unused(handle)

    def handles(self) -> list[BlobHandle]:
        with self._lock:
            return list(self._handles.values())

    def handle(self, key: str) -> BlobHandle | None:
        with self._lock:
            return self._handles.get(key)

    @property
    def handle_count(self) -> int:
        return len(self._handles)  # without the lock: each read asks, and any recent figure will do

    def _is_attached(self, handle: BlobHandle) -> bool:
        """Blocks wanted of any other handle would never be fetched."""
        return self._handles.get(handle.key) is handle

    def _unused(self, handle: BlobHandle) -> Unused:
        if not self._is_attached(handle) or handle.readers:
            return Unused([], False)
        waiters = self._take_waiters(self._queue.drop(handle.key, keep=Priority.BACKGROUND))
        needed = handle.holders or (not self.stopped and self._queue.busy(handle.key))
        if not needed:  # else the last holder's release comes here again
            del self._handles[handle.key]
        return Unused(waiters, not needed)

    # --- wanting and waiting ----------------------------------------------------------------------------------------

    def want(self, handle: BlobHandle, absent: list[range], priority: Priority) -> None:
        """Queues these blocks, unless the handle is detached or its content refused."""
        with self._lock:
            if self._is_attached(handle) and handle.refusal is None:
                self._want(handle, absent, priority, time.monotonic())

    def wait(
        self,
        handle: BlobHandle,
        asked: ranges.ByteRange,
        absent: list[range],
        deadline: float,
        callback: Callback,
        expire: Callable[[int], None],
    ) -> tuple[int, bool, Exception | None]:
        """Queues the ``absent`` blocks for a read of ``asked``. Returns its ticket and whether it waits; where it does
        not, also the error that ends it (None: all blocks are here). ``expire(ticket)`` is called at ``deadline``."""
        with self._lock:
            now = time.monotonic()  # not earlier: a read that expired while this one took the lock would make it late
            ticket = next(self._tickets)
            failed: Exception | None = None
            if self.stopped:
                failed = Cancelled("hffs is shutting down")
            elif not self._is_attached(handle):
                failed = Cancelled(f"{handle.file.path} was closed")
            elif handle.refusal is not None:
                failed = handle.refusal.error()
            elif self._late.contain(handle.key, absent, now):
                failed = DeadlineExceeded(f"{handle.file.path} did not arrive in time just now")
            elif absent:
                self._want(handle, absent, Priority.DEMAND, now)
                failed = self._queue.wait(ticket, handle.key, [block for run in absent for block in run], now)
                if failed is None:
                    timer = self._timers.call_at(deadline, lambda: expire(ticket))
                    self._waiters[ticket] = Waiter(callback, timer, handle.key, handle.file.path, asked, now)
                    return ticket, True, None
            return ticket, False, failed

    def abandon(self, ticket: int) -> Waiter | None:
        """The waiter, which waits no more; None when it has been called back."""
        with self._lock:
            waiter = self._waiters.pop(ticket, None)
            if waiter is not None:
                self._queue.abandon(ticket)
            return waiter

    def expire(self, ticket: int) -> tuple[Waiter | None, list[Fetch]]:
        """The waiter whose deadline has passed, and the running fetches that it waited for."""
        with self._lock:
            waiter = self._waiters.pop(ticket, None)
            if waiter is None:
                return None, []
            self._late.record(waiter, time.monotonic())
            slow = self._queue.fetches_for(ticket)
            self._queue.abandon(ticket)
            return waiter, slow

    def cancel_background(self, handle: BlobHandle) -> None:
        """What of the handle is queued for no reader is not fetched any more."""
        with self._lock:
            self._queue.withdraw(handle.key, Priority.BACKGROUND)

    def drop(self, handle: BlobHandle) -> list[Waiter]:
        """Nothing of the handle is queued any more; returns its waiters. Running fetches go on."""
        with self._lock:
            return self._take_waiters(self._queue.drop(handle.key))

    def _take_waiters(self, tickets: Iterable[int]) -> list[Waiter]:
        """Takes out those that still wait, for the caller to call back."""
        return [waiter for ticket in tickets if (waiter := self._waiters.pop(ticket, None)) is not None]

    def _want(self, handle: BlobHandle, absent: list[range], priority: Priority, now: float) -> None:
        """Wakes a worker only for blocks that are new to the queue: for all others one has been woken before."""
        new = [self._queue.want(handle.key, run, priority, now) for run in absent]
        if any(new):
            self.pool.wake()
        if priority is Priority.BULK and not self._sampling:
            self._sampling = True
            self._timers.call_at(now, self._sample)

    # --- the course of a fetch --------------------------------------------------------------------------------------

    def _take(self, now: float) -> tuple[Fetch, BlobHandle] | None:
        fetch = self._queue.next(now, self._limits.among(now))
        if fetch is None:
            return None
        self._limits.began(fetch.priority)
        handle = self._handles[fetch.key]
        handle.holders += 1
        return fetch, handle

    def _due(self, now: float) -> float | None:
        times = (self._queue.due(now), self._limits.paused(now))
        return min((each for each in times if each is not None), default=None)

    def landed(self, fetch: Fetch, blocks: Iterable[int]) -> list[Waiter]:
        """Blocks of a running fetch can be read; returns the waiters that waited for nothing else."""
        with self._lock:
            tickets = [ticket for block in blocks for ticket in self._queue.landed(fetch, block)]
            return self._take_waiters(tickets) if tickets else []

    def is_awaited(self, fetch: Fetch) -> bool:
        with self._lock:
            return fetch.priority is Priority.DEMAND or self._queue.awaited(fetch)

    def defer(self, fetch: Fetch, background_seconds: float, seconds: float) -> None:
        """Queues a fetch again for ``seconds`` from now, or ``background_seconds`` when no reader waits for it."""
        with self._lock:
            background = fetch.priority >= Priority.BACKGROUND and not self._queue.awaited(fetch)
            self._queue.defer(fetch, time.monotonic() + (background_seconds if background else seconds))
            self.pool.wake()

    def settle(self, fetch: Fetch) -> bool:
        """A fetch succeeded; returns whether nothing else of its blob is queued or running."""
        with self._lock:
            self._queue.settle(fetch, None, time.monotonic())
            return not self._queue.busy(fetch.key)

    def limit_rate(self, retry_after: float | None) -> bool:
        """A server asked for patience; returns whether a pause of background work begins with that."""
        now = time.monotonic()
        with self._lock:
            begins = self._limits.paused(now) is None
            self._limits.refused(now, retry_after)
            return begins

    def retry_or_fail(self, fetch: Fetch, error: HffsError, wait: float | None) -> list[Waiter] | None:
        """Queues a failed fetch again for ``wait`` seconds from now and returns None. Without ``wait``, or when
        stopped, fails it and returns its waiters."""
        now = time.monotonic()
        with self._lock:
            if wait is None or self.stopped:
                return self._take_waiters(self._queue.settle(fetch, error, now))
            self._queue.retry(fetch, now + wait)
            self.pool.wake()  # sleeping workers do not know of the retry, and this one may be busy when it is due
            return None

    def deny(self, fetch: Fetch, error: HffsError, handle: BlobHandle, absent: list[range] | None) -> list[Waiter]:
        """Fails a fetch whose access was denied and returns its waiters; the failure is not remembered. With ``absent``
        these blocks stay wanted, and background work pauses for DENIED_SECONDS or until ``resume``."""
        now = time.monotonic()
        with self._lock:
            waiters = self._take_waiters(self._queue.settle(fetch, error, now, remember=False))
            if absent is not None and not self.stopped and handle.refusal is None:
                self._limits.pause(now + DENIED_SECONDS, error.what)
                self._want(handle, absent, fetch.priority, now)
            return waiters

    def finish(self, task: PoolTask) -> Unused:
        """The last step of each task that a worker took."""
        with self._lock:
            self._limits.ended(task.fetch.priority)
            task.handle.holders -= 1
            return self._unused(task.handle)

    # --- concurrency ------------------------------------------------------------------------------------------------

    def sample(self, fetched: int, load: float, cores: int) -> bool:
        """Reconsiders how many workers fetch big files, of which ``fetched`` bytes have come; False when none do."""
        now = time.monotonic()
        with self._lock:
            running = self._limits.running(Priority.BULK)
            controller = self._limits.controller
            if self.stopped or not (running or self._queue.queued()[Priority.BULK]):
                self._sampling = False
                controller.idle(now)
                return False
            before = controller.limit
            if controller.sample(now, fetched, running, load, cores) > before:
                self.pool.wake()
            return True

    def resume(self) -> None:
        """Ends the pause of background work, unless a server asked for it."""
        with self._lock:
            self._limits.resume()
            self.pool.wake()

    def worker_limit(self) -> tuple[int, str]:
        """How many workers may run now, and why that many."""
        now = time.monotonic()
        with self._lock:
            until = self._limits.paused(now)
            if until is not None:
                return self._workers, f"{self._limits.why}: only waiting readers for {until - now:.0f} s"
            bulk = self._queue.queued()[Priority.BULK] or self._limits.running(Priority.BULK)
            controller = self._limits.controller
        return (controller.limit, controller.why) if bulk else (self._workers, "as many as are needed, up to the limit")

    # --- watchers and status ----------------------------------------------------------------------------------------

    def watch(self, handle: BlobHandle, watcher: Watcher) -> None:
        """``watcher(None)`` when a fetch of the handle has ended or its content was verified, ``watcher(error)`` when a
        fetch failed for good or the content is wrong; on worker and hash threads, so hand over. Until ``unwatch``."""
        with self._lock:
            handle.watchers.append(watcher)

    def unwatch(self, handle: BlobHandle, watcher: Watcher) -> None:
        with self._lock:
            handle.watchers.remove(watcher)

    def watchers(self, handle: BlobHandle) -> list[Watcher]:
        with self._lock:
            return list(handle.watchers)

    def is_busy(self, handle: BlobHandle) -> bool:
        """Whether anything of the handle is queued or running."""
        with self._lock:
            return self._queue.busy(handle.key)

    def runs(self, key: str) -> list[tuple[range, bool]]:
        with self._lock:
            return self._queue.runs(key)

    def tasks(self) -> list[PoolTask]:
        with self._lock:
            return self.pool.tasks()

    def waiting_reads(self) -> list[WaitingRead]:
        with self._lock:
            waiters = list(self._waiters.values())
        return [WaitingRead(w.path, w.asked.start, w.asked.length, w.since) for w in waiters]
