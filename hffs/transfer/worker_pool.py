"""The workers' threads: started when there is work for one more, woken one at a time, and what each of them is at.

The fetcher's, which holds its lock around ``call``, ``jobs`` and the questions it answers (``take``, ``due`` ...);
the work itself is done without it. Decides nothing. No error ends a worker: there is nobody to start another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..policy import Fetch
from .blob_handle import BlobHandle
from .fetch_task import GATHER_BYTES

log = logging.getLogger(__name__)

# Nobody sleeps without an end, not even for nothing.
SLEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class PoolTask:
    """A fetch in a worker's hands since ``began`` (monotonic seconds)."""

    worker: int
    fetch: Fetch
    handle: BlobHandle
    began: float


class WorkerPool:
    """At most ``most`` workers. ``take`` gives the next fetch to carry out or None, ``due`` when to ask again, ``more``
    tells whether anything is left to take, now or later; ``do`` carries a job out."""

    def __init__(
        self,
        ready: threading.Condition,
        most: int,
        *,
        take: Callable[[float], tuple[Fetch, BlobHandle] | None],
        due: Callable[[float], float | None],
        more: Callable[[], bool],
        do: Callable[[PoolTask, memoryview], None],
    ) -> None:
        self._ready = ready
        self._most = most
        self._take = take
        self._due = due
        self._more = more
        self._do = do
        # guarded by _ready
        self._threads: list[threading.Thread] = []
        self._jobs: dict[int, PoolTask] = {}
        self._idle = 0
        self._open = False

    def open(self) -> None:
        """From now on there may be work."""
        with self._ready:
            self._open = True
            if self._more():
                self.call()

    def call(self) -> None:
        """There is something to do: wake a worker, or start one where all are at work. The caller holds the lock.

        One is enough, whatever there is: who takes work and leaves some calls the next. Waking all of them for each
        block that is wanted had them fight for the lock."""
        if self._idle:
            self._ready.notify()
        elif self._open and len(self._threads) < self._most:
            number = len(self._threads)
            thread = threading.Thread(target=self._work, args=(number,), name=f"hffs-fetch-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system gives no more threads
                if not self._threads:
                    raise
                log.warning("event=no-thread workers=%d why=%s", number, "the system's limit of threads is reached")
                self._most = number
            else:
                self._threads.append(thread)

    def close(self) -> None:
        """Workers end with what they are at; ``join`` waits for them."""
        with self._ready:
            self._open = False
            self._ready.notify_all()

    def join(self, ends: float) -> None:
        """Until ``ends`` (monotonic seconds) at the latest."""
        with self._ready:
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=max(0.0, ends - time.monotonic()))

    def jobs(self) -> list[PoolTask]:
        """What is being done now, the oldest first."""
        return list(self._jobs.values())

    def _work(self, number: int) -> None:
        buffer = memoryview(bytearray(GATHER_BYTES))
        while (job := self._next(number)) is not None:
            try:
                self._do(job, buffer)
            except Exception as error:  # a bug of ours; whoever waits for this fetch still has a deadline
                log.error("event=worker-bug path=%s", job.handle.file.path, exc_info=error)
            finally:
                with self._ready:
                    del self._jobs[job.fetch.id]

    def _next(self, number: int) -> PoolTask | None:
        """What to do next, however long that takes to come; None when the crew is closed."""
        with self._ready:
            while self._open:
                now = time.monotonic()
                taken = self._taken(now)
                if taken is not None:
                    job = PoolTask(number, *taken, now)
                    self._jobs[job.fetch.id] = job
                    if self._more():
                        self.call()
                    return job
                due = self._due(now)
                self._idle += 1
                self._ready.wait(SLEEP_SECONDS if due is None else max(0.001, min(SLEEP_SECONDS, due - now)))
                self._idle -= 1
            return None

    def _taken(self, now: float) -> tuple[Fetch, BlobHandle] | None:
        try:
            return self._take(now)
        except Exception as error:  # a bug of ours; asked again when somebody calls
            log.error("event=take-bug", exc_info=error)
            return None
