"""The workers: whatever is wanted of any blob is fetched here, once, most urgent first, and stored.

What to fetch next is ``policy.BlockQueue``'s decision, taken under the one lock; claiming, fetching, storing and
telling waiters happen outside it (``carrier``). There is no second way bytes come in. A waiter's callback runs on a
worker or on the timer thread and must only hand over. No error ends a worker: there is nobody to start another.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .. import ranges
from ..cache import BlobStore
from ..errors import Cancelled, DeadlineExceeded, HffsError
from ..model import Blob, RemoteFile
from ..policy import BlockQueue, Fetch, Priority, RetryPolicy
from .carrier import Carrier, Transport
from .target import Target, UnstoredBlocks
from .timers import Timers
from .verifier import Verifier
from .waiting import LATE_SECONDS, Callback, Waiter, WaitingRead, WaitingRoom, tell

log = logging.getLogger(__name__)

# Another process holds the blocks: look again after this long. It is a local look at one byte a block.
BUSY_SECONDS = 0.05
# The same where no reader waits: at 0.05 s a whole file that is another's cost 9 % of a core.
BUSY_BACKGROUND_SECONDS = 0.5
# How many of the workers only ever serve waiting readers (design notes, performance 4.2: demand must not queue).
RESERVED = 2


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
        workers: int = 8,
        fetch_size: int = 4 * 1024 * 1024,
        retry: RetryPolicy | None = None,
        late_seconds: float = LATE_SECONDS,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._carrier = Carrier(transport, landed=self._landed, refused=self._note)
        self._timers = timers
        self._retry = retry or RetryPolicy()
        self._dice = dice
        self._reserved = min(RESERVED, workers - 1)
        self._unstored = UnstoredBlocks()
        self.on_local: Callable[[RemoteFile], None] = lambda _: None  # set before start
        self.verifier = Verifier(self._hold, self._let_go)
        self._ready = threading.Condition()
        # guarded by _ready
        self._queue: BlockQueue[Exception] = BlockQueue(
            demand_blocks=max(1, fetch_size // ranges.BLOCK_SIZE), workers=workers
        )
        self._targets: dict[str, Target] = {}
        self._waiters = WaitingRoom(late_seconds)
        self._tickets = itertools.count(1)
        self._stopping = False
        self._errors: deque[Failure] = deque(maxlen=16)
        self._busy = 0
        self._threads = [
            threading.Thread(
                target=self._work, args=(number < self._reserved,), name=f"hffs-fetch-{number}", daemon=True
            )
            for number in range(workers)
        ]

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.verifier.start()
        for thread in self._threads:
            thread.start()

    def stop(self, patience: float = 15.0) -> None:
        """Ends the workers; every waiter is told ``Cancelled``. A fetch in flight ends with its next block; one whose
        source is silent for ``patience`` seconds is left to its socket's timeout."""
        ends = time.monotonic() + patience
        self._carrier.stopping = True
        with self._ready:
            self._stopping = True
            waiters = self._waiters.clear()
            self._ready.notify_all()
        tell(waiters.values(), Cancelled("hffs is shutting down"))
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=max(0.0, ends - time.monotonic()))
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
        with self._ready:
            stopped = self._stopping
            known = self._targets.get(key)
            target = known or Target(key, file, stored, self._unstored)
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
            if self._knows(target):
                self._want(target, absent, priority, time.monotonic())

    def wait(self, target: Target, asked: ranges.ByteRange, deadline: float, callback: Callback) -> int:
        """Want the blocks of ``asked`` for a waiting reader; ``callback(None)`` comes once when they can be read,
        ``callback(error)`` when they cannot be had or ``deadline`` (monotonic) passed. It may come before this returns.
        """
        span = ranges.span_of(asked)
        absent = target.missing(span)
        now = time.monotonic()
        with self._ready:
            ticket = next(self._tickets)
            if self._stopping:
                failed: Exception | None = Cancelled("hffs is shutting down")
            elif not self._knows(target):
                failed = Cancelled(f"{target.file.path} was closed")
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

    # --- what status shows ------------------------------------------------------------------------------------------

    def waiting(self) -> list[WaitingRead]:
        with self._ready:
            return self._waiters.reads()

    def errors(self) -> list[Failure]:
        with self._ready:
            return list(self._errors)

    def active(self) -> int:
        with self._ready:
            return self._busy

    def speed(self) -> float:
        """Bytes per second now."""
        return self._carrier.speed()

    @property
    def bytes_fetched(self) -> int:
        return self._carrier.fetched

    @property
    def degraded(self) -> str:
        """Why the cache takes no blocks, when it does not; empty: it does."""
        return self._carrier.degraded

    @property
    def workers(self) -> int:
        return len(self._threads)

    # --- a worker ---------------------------------------------------------------------------------------------------

    def _work(self, demand_only: bool) -> None:
        buffer = memoryview(bytearray(ranges.BLOCK_SIZE))
        while True:
            with self._ready:
                fetch = None
                while fetch is None:
                    if self._stopping:
                        return
                    now = time.monotonic()
                    fetch = self._queue.next(now, demand_only=demand_only)
                    if fetch is None:
                        due = self._queue.due(now)
                        self._ready.wait(60.0 if due is None else max(0.001, min(60.0, due - now)))
                target = self._targets[fetch.key]
                target.holders += 1
                self._busy += 1
            try:
                try:
                    self._carry_out(fetch, target, buffer)
                finally:
                    with self._ready:
                        self._busy -= 1
                    self._let_go(target)
            except Exception as error:  # a bug of ours; whoever waits for this fetch still has a deadline
                log.error("event=worker-bug path=%s", target.file.path, exc_info=error)

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
                pause = BUSY_BACKGROUND_SECONDS if fetch.priority is Priority.BACKGROUND else BUSY_SECONDS
                self._queue.defer(fetch, time.monotonic() + pause)
                self._ready.notify_all()
            else:
                self._queue.settle(fetch, None, time.monotonic())
            idle = not self._queue.busy(target.key)
        if idle and target.stored.complete:
            self.verifier.submit(target)
            self.on_local(target.file)

    # --- telling ----------------------------------------------------------------------------------------------------

    def _landed(self, fetch: Fetch, blocks: Iterable[int]) -> None:
        with self._ready:
            done = [self._waiters.leave(t) for block in blocks for t in self._queue.landed(fetch, block)]
        tell(done, None)

    def _failed(self, fetch: Fetch, target: Target, error: HffsError) -> None:
        self._note(target, error)
        now = time.monotonic()
        wait = self._retry.decide(
            fetch.attempt,
            transient=error.transient,
            retry_after=getattr(error, "retry_after", None),
            random=self._dice(),
        )
        with self._ready:
            if wait is not None and not self._stopping:
                self._queue.retry(fetch, now + wait)
                self._ready.notify_all()  # who sleeps knows of no retry, and this worker may be busy when it is due
                gone: list[Waiter | None] = []
            else:
                gone = [self._waiters.leave(t) for t in self._queue.settle(fetch, error, now)]
        tell(gone, error)

    def _too_late(self, ticket: int) -> None:
        with self._ready:
            waiter = self._waiters.leave(ticket)
            if waiter is None:
                return
            self._waiters.note_late(waiter, time.monotonic())
            self._queue.abandon(ticket)
        tell([waiter], DeadlineExceeded(f"{waiter.path} did not arrive in time"))

    def _note(self, target: Target, error: HffsError) -> None:
        with self._ready:
            self._errors.append(Failure(time.time(), str(error), target.file.path))

    def _want(self, target: Target, absent: list[range], priority: Priority, now: float) -> None:
        """Queue these blocks and wake whoever sleeps if any was new; the caller holds the lock. What is queued has been
        announced, without exception: who wants it next wakes nobody."""
        more = [self._queue.want(target.key, run, priority, now) for run in absent]
        if any(more):
            self._ready.notify_all()

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


def blob_key(blob: Blob) -> str:
    return f"{blob.etag}@{blob.origin}"


__all__ = ["Failure", "Fetcher", "Transport", "WaitingRead", "blob_key"]
