"""The workers: whatever is wanted of any blob is fetched here, once, most urgent first, and stored.

What to fetch next is ``policy.BlockQueue``'s decision, taken under the one lock; claiming, fetching, storing and
telling waiters happen outside it (``carrier``). There is no second way bytes come in. A waiter's callback runs on a
worker or on the timer thread and must only hand over. No error ends a worker: there is nobody to start another.
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

from .. import ranges
from ..cache import BlobStore, Room
from ..errors import Cancelled, DeadlineExceeded, HffsError, NoSpace, RateLimited
from ..model import Blob, RemoteFile
from ..policy import USUAL, Allowance, BlockQueue, Fetch, Outage, Priority, RetryPolicy, WorkerLimiter, eviction
from .carrier import Carrier, Transport
from .crew import Crew, Job
from .distrust import Distrust, Measures
from .target import UNSTORED_LIMIT, Target, UnstoredBlocks
from .throttle import Throttle
from .timers import Timers
from .verifier import NICE, Verifier
from .waiting import LATE_SECONDS, Callback, Waiter, WaitingRead, WaitingRoom, tell

log = logging.getLogger(__name__)

# Another process holds the blocks: look again after this long. It is a local look at one byte a block.
BUSY_SECONDS = 0.05
# The same where no reader waits: at 0.05 s a whole file that is another's cost 9 % of a core.
BUSY_BACKGROUND_SECONDS = 0.5
# How often the number of workers for big files is thought over: the limiter counts in quarters of a second.
SAMPLE_SECONDS = 0.25
# While nothing can be stored, what is read ahead lives in a small memory: eight readers at a time share it.
UNSTORED_WINDOW = UNSTORED_LIMIT // 8


Watcher = Callable[[HffsError | None], None]


@dataclass(frozen=True, slots=True)
class Working:
    """A worker at work: on which bytes of which file, how fast (bytes per second), since when (monotonic seconds)."""

    worker: int
    path: str
    priority: Priority
    asked: ranges.ByteRange
    bytes_per_s: float
    began: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that went wrong, for ``status``; ``at`` is wall-clock seconds."""

    at: float
    what: str
    path: str


class Fetcher:
    """``attach`` a file, then ``want`` blocks of it and ``wait`` for them; ``detach`` when done."""

    def __init__(
        self,
        store: BlobStore,
        transport: Transport,
        timers: Timers,
        *,
        workers: int = 10,
        ahead: int | None = None,
        limiter: WorkerLimiter | None = None,
        fetch_size: int = 4 * 1024 * 1024,
        retry: RetryPolicy | None = None,
        throttle: Throttle | None = None,
        room: Room | None = None,
        outage: Outage | None = None,
        late_seconds: float = LATE_SECONDS,
        verify_nice: int = NICE,
        dice: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``workers`` at most; ``ahead`` of them read ahead at once, ``limiter`` says how many hydrate big files.
        What is stored keeps to ``room``; ``outage`` says when a disk that refused is tried again. ``verify_nice`` is
        the nice value of the hashing thread: the lowest priority, where there may be readers."""
        self._store = store
        self.throttle = throttle or Throttle()
        self._carrier = Carrier(
            transport,
            landed=self._landed,
            refused=self._note,
            awaited=self._awaited,
            throttle=self.throttle,
            room=room,
            outage=outage,
        )
        self._room = room
        self._timers = timers
        self._retry = retry or RetryPolicy()
        self._dice = dice
        self._workers = workers
        self._unstored = UnstoredBlocks()
        self.on_local: Callable[[RemoteFile], None] = lambda _: None  # set before start
        measures = Measures(self._refuse, transport.forget, self._refetch)
        self.distrust = Distrust(store.layout, measures, clock)
        self.verifier = Verifier(self._hold, self._let_go, self.distrust, self._tell_watchers, nice=verify_nice)
        self._ready = threading.Condition()
        # guarded by _ready
        self._queue: BlockQueue[Exception] = BlockQueue(
            demand_blocks=max(1, fetch_size // ranges.BLOCK_SIZE), workers=min(workers, USUAL)
        )
        self._allowance = Allowance(workers=workers, ahead=ahead, limiter=limiter)
        self._targets: dict[str, Target] = {}
        self._waiters = WaitingRoom(late_seconds)
        self._watchers: dict[str, list[Watcher]] = {}
        self._tickets = itertools.count(1)
        self._stopping = False
        self._sampling = False
        self._errors: deque[Failure] = deque(maxlen=16)
        self._crew = Crew(
            self._ready,
            workers,
            take=self._take,
            due=self._due,
            more=lambda: any(self._queue.queued().values()),
            do=self._do,
        )

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.verifier.start()
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
        self.verifier.stop(max(1.0, ends - time.monotonic()))
        with self._ready:
            targets = list(self._targets.values())
        for target in targets:  # one that is still in somebody's hands is closed by the last of them
            self._release(target)

    def dismiss(self) -> None:
        """Everybody who waits now is told ``Cancelled``: the mount they wait on is gone, nobody hears the answers."""
        with self._ready:
            waiters = self._waiters.clear()
            for ticket in waiters:
                self._queue.abandon(ticket)
        tell(waiters.values(), Cancelled("the mount is gone"))

    # --- what readers call ------------------------------------------------------------------------------------------

    def attach(self, file: RemoteFile) -> Target:
        """The target of this file's blob, to be given back with ``detach``. Raises CacheUnusable, Cancelled."""
        stored = self._store.open(file.blob)
        key = blob_key(file.blob)
        fresh = Target(key, file, stored, self._unstored)
        self.distrust.admit(fresh)
        with self._ready:
            stopped = self._stopping
            known = self._targets.get(key)
            target = known or fresh
            if not stopped:
                self._targets[key] = target
                target.readers += 1
        if known is not None or stopped:
            stored.close()
        if stopped:
            raise Cancelled("hffs is shutting down")
        if known is None:
            try:
                if stored.complete and not stored.verified:
                    self.verifier.submit(target)
            except BaseException:
                self.detach(target)
                raise
        return target

    def _hold(self, target: Target) -> bool:
        with self._ready:
            held = self._targets.get(target.key) is target
            target.holders += held
            return held

    def _let_go(self, target: Target) -> None:
        with self._ready:
            target.holders -= 1
        self._release(target)

    def detach(self, target: Target) -> None:
        """What was wanted in the background is still fetched; what was wanted for the reader is not."""
        with self._ready:
            target.readers -= 1
        self._release(target)

    def want(self, target: Target, blocks: range, priority: Priority) -> None:
        """Have these blocks fetched, unless they are there already. Returns at once."""
        absent = target.missing(blocks)
        if not absent:
            return
        with self._ready:
            if self._knows(target) and target.refused is None:
                self._want(target, absent, priority, time.monotonic())

    def relinquish(self, target: Target) -> None:
        """What of the target is only wanted in the background is not fetched any more."""
        with self._ready:
            self._queue.relinquish(target.key, Priority.BACKGROUND)

    def watch(self, target: Target, told: Watcher) -> None:
        """``told(None)`` when a fetch of the target has ended or it was found right, ``told(error)`` when one failed
        for good or its content is wrong; on threads of ours, so hand over. Ends with ``unwatch``."""
        with self._ready:
            self._watchers.setdefault(target.key, []).append(told)

    def unwatch(self, target: Target, told: Watcher) -> None:
        with self._ready:
            watchers = self._watchers.get(target.key, [])
            if told in watchers:
                watchers.remove(told)
            if not watchers:
                self._watchers.pop(target.key, None)

    def busy(self, target: Target) -> bool:
        """Whether anything of the target is queued or under way."""
        with self._ready:
            return self._queue.busy(target.key)

    def wait(self, target: Target, asked: ranges.ByteRange, deadline: float, callback: Callback) -> int:
        """Want the blocks of ``asked`` for a waiting reader; ``callback(None)`` comes once when they can be read,
        ``callback(error)`` when they cannot be had or ``deadline`` (monotonic) passed. It may come before this returns.
        """
        span = ranges.span_of(asked)
        absent = target.missing(span)
        with self._ready:
            now = time.monotonic()  # not before: another read may be too late in between, and that is not this one's
            ticket = next(self._tickets)
            if self._stopping:
                failed: Exception | None = Cancelled("hffs is shutting down")
            elif not self._knows(target):
                failed = Cancelled(f"{target.file.path} was closed")
            elif target.refused is not None:
                failed = target.refused.error()
            elif self._waiters.is_late(target.key, absent, now):
                failed = DeadlineExceeded(f"{target.file.path} did not arrive in time just now")
            elif absent:
                self._want(target, absent, Priority.DEMAND, now)
                failed = self._queue.wait(ticket, target.key, [block for run in absent for block in run], now)
                if failed is None:
                    timer = self._timers.call_at(deadline, lambda: self._too_late(ticket))
                    self._waiters.enter(ticket, Waiter(callback, timer, target.key, target.file.path, asked, now))
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
            target = self._targets.get(blob_key(blob))
        return self.distrust.retry(blob, target)

    # --- what status shows ------------------------------------------------------------------------------------------

    def waiting(self) -> list[WaitingRead]:
        with self._ready:
            return self._waiters.reads()

    def errors(self) -> list[Failure]:
        with self._ready:
            return list(self._errors)

    def speed(self) -> float:
        """Bytes per second now."""
        return self._carrier.speed()

    def working(self) -> list[Working]:
        """What each worker is at."""
        with self._ready:
            jobs = self._crew.jobs()
        return [
            Working(
                job.worker,
                job.target.file.path,
                job.fetch.priority,
                ranges.bytes_of(job.fetch.blocks, job.target.size),
                self._carrier.speed_of(job.fetch),
                job.began,
            )
            for job in jobs
        ]

    def runs(self, blob: Blob) -> list[tuple[range, bool]]:
        """What of a blob is queued or (True) under way, in ascending order."""
        with self._ready:
            return self._queue.runs(blob_key(blob))

    def crew(self) -> tuple[int, str]:
        """How many workers there may be just now, and why that many."""
        now = time.monotonic()
        with self._ready:
            until = self._allowance.paused(now)
            if until is not None:
                return self._workers, f"the server asked for patience: only waiting readers for {until - now:.0f} s"
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
            return UNSTORED_WINDOW
        return None if self._room is None else eviction.window(self._room.budget, len(self._targets))

    def fits(self, size: int) -> bool:
        """Whether so many bytes can be kept beside what others read: that is, in half of the cache."""
        budget = None if self._room is None else self._room.budget
        return self.refusal is None and (budget is None or size <= budget // 2)

    def probe(self) -> None:
        """About once a second: see whether a cache that took nothing does now."""
        self._carrier.shelf.probe()

    def ask_for_room(self, missing: int, total: int) -> None:
        """Before ``missing`` of ``total`` bytes are fetched to be kept all together: a disk that refused is tried again
        with the next block. Raises NoSpace when so much can never be kept."""
        self._carrier.shelf.forget()
        capacity = None if self._room is None else self._room.capacity()
        if missing and capacity is not None and total > capacity:
            raise NoSpace(
                f"{missing >> 20} MiB are missing of {total >> 20}, and the cache may hold {capacity >> 20} MiB here",
                "raise --cache-size, free some disk space, or leave files out (--include, --exclude)",
            )

    # --- content that proved wrong ---------------------------------------------------------------------------------

    def _refuse(self, target: Target) -> None:
        """Nothing of it is fetched any more, and whoever waits for it is told; fetches under way go on for nobody."""
        refused = target.refused
        assert refused is not None
        with self._ready:
            left = [self._waiters.leave(t) for t in self._queue.drop(target.key)]
        tell(left, refused.error())

    def _refetch(self, target: Target) -> None:
        """All of it anew in the background, if it can be kept; else what a reader asks for."""
        if self.fits(target.size):
            self.want(target, range(ranges.block_count(target.size)), Priority.BULK)

    # --- a worker ---------------------------------------------------------------------------------------------------

    def _take(self, now: float) -> tuple[Fetch, Target] | None:
        """The next fetch for a free worker; the crew holds the lock."""
        fetch = self._queue.next(now, self._allowance.among(now))
        if fetch is None:
            return None
        self._allowance.began(fetch.priority)
        target = self._targets[fetch.key]
        target.holders += 1
        return fetch, target

    def _due(self, now: float) -> float | None:
        times = (self._queue.due(now), self._allowance.paused(now))
        return min((each for each in times if each is not None), default=None)

    def _do(self, job: Job, buffer: memoryview) -> None:
        try:
            self._carry_out(job.fetch, job.target, buffer)
        finally:
            with self._ready:
                self._allowance.ended(job.fetch.priority)
            self._let_go(job.target)

    def _carry_out(self, fetch: Fetch, target: Target, buffer: memoryview) -> None:
        """One fetch from claim to settlement; every way out settles, retries or defers it."""
        try:
            busy = self._carrier.carry(fetch, target, buffer)
        except HffsError as error:
            self._failed(fetch, target, error)
            return
        except Exception as error:  # a bug of ours must reach the reader as an error, not as a wait without end
            log.error("event=fetch-bug path=%s", target.file.path, exc_info=error)
            self._failed(fetch, target, HffsError(f"fetching {target.file.path} failed unexpectedly: {error!r}"))
            return
        with self._ready:
            if busy:
                pause = BUSY_BACKGROUND_SECONDS if fetch.priority >= Priority.BACKGROUND else BUSY_SECONDS
                self._queue.defer(fetch, time.monotonic() + pause)
                self._crew.call()
            else:
                self._queue.settle(fetch, None, time.monotonic())
            idle = not self._queue.busy(target.key)
        if busy:
            return
        whole = idle and target.stored.complete
        try:
            self.distrust.tidy(target)
            self.verifier.grown(target)
        except HffsError as error:  # it is hashed when it is opened next
            log.debug("event=not-hashed path=%s error=%s", target.file.path, error)
        if whole:
            self.on_local(target.file)
        self._tell_watchers(target, None)

    # --- telling ----------------------------------------------------------------------------------------------------

    def _landed(self, fetch: Fetch, blocks: Iterable[int]) -> None:
        with self._ready:
            done = [self._waiters.leave(t) for block in blocks for t in self._queue.landed(fetch, block)]
        tell(done, None)

    def _failed(self, fetch: Fetch, target: Target, error: HffsError) -> None:
        self._note(target, error)
        now = time.monotonic()
        patience = getattr(error, "retry_after", None)
        wait = self._retry.decide(fetch.attempt, transient=error.transient, retry_after=patience, random=self._dice())
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
            log.info("event=rate-limited patience_s=%s error=%s", patience, error)
        if not again:
            if not isinstance(error, Cancelled):
                log.info("event=fetch-failed path=%s kind=%s error=%s", target.file.path, type(error).__name__, error)
            tell(gone, error)
            self._tell_watchers(target, error)

    def _tell_watchers(self, target: Target, error: HffsError | None) -> None:
        with self._ready:
            watchers = list(self._watchers.get(target.key, ()))
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

    def _note(self, target: Target, error: HffsError) -> None:
        with self._ready:
            self._errors.append(Failure(time.time(), str(error), target.file.path))

    def _want(self, target: Target, absent: list[range], priority: Priority, now: float) -> None:
        """Queue these blocks and wake whoever sleeps if any was new; the caller holds the lock. What is queued has been
        announced, without exception: who wants it next wakes nobody."""
        more = [self._queue.want(target.key, run, priority, now) for run in absent]
        if any(more):
            self._crew.call()
        if priority is Priority.BULK and not self._sampling:
            self._sampling = True
            self._timers.call_at(now, self._sample)

    def _knows(self, target: Target) -> bool:
        """Whether a target is still served; the caller holds the lock. What is queued for another has no worker."""
        return self._targets.get(target.key) is target

    def _release(self, target: Target) -> None:
        """Forget what nobody will read; and the target, when nobody is at work on it and nothing is left to do."""
        with self._ready:
            if not self._knows(target) or target.readers:
                return
            left = [self._waiters.leave(t) for t in self._queue.drop(target.key, keep=Priority.BACKGROUND)]
            needed = target.holders or (not self._stopping and self._queue.busy(target.key))
            if not needed:
                del self._targets[target.key]
        tell(left, Cancelled(f"{target.file.path} was closed"))
        if not needed:  # else whoever is at work comes here again
            self._close(target)

    def _close(self, target: Target) -> None:
        self._unstored.forget(target.key)
        target.stored.close()


def _load() -> float:
    """The machine's load average; 0 where nobody tells."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def blob_key(blob: Blob) -> str:
    return f"{blob.etag}@{blob.origin}"


__all__ = ["Failure", "Fetcher", "Transport", "WaitingRead", "Working", "blob_key"]
