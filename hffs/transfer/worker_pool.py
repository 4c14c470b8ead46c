"""The threads of the workers: started when there is work for one more, and woken one at a time.

``Scheduler`` owns the pool and shares its lock with it: the scheduler holds the lock when it calls ``wake`` or
``tasks``, the pool holds it when it calls ``take``, ``due`` or ``more``. A task runs without the lock. Decides nothing.
No error ends a worker: no other thread would start a new one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..policy import Fetch
from .blob_handle import BlobHandle
from .downloader import GATHER_BYTES

log = logging.getLogger(__name__)

# Upper bound of every condition wait.
SLEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class PoolTask:
    """A fetch that a worker carries out since ``began`` (monotonic seconds)."""

    worker: int
    fetch: Fetch
    handle: BlobHandle
    began: float


class WorkerPool:
    """At most ``most`` workers. ``take`` returns the next fetch or None, ``due`` when to take again, ``more`` whether
    anything is left to take, now or later; ``run`` carries a task out, with a buffer of the worker's own."""

    def __init__(
        self,
        lock: threading.Condition,
        most: int,
        *,
        take: Callable[[float], tuple[Fetch, BlobHandle] | None],
        due: Callable[[float], float | None],
        more: Callable[[], bool],
        run: Callable[[PoolTask, memoryview], None],
    ) -> None:
        self._lock = lock
        self._most = most
        self._take = take
        self._due = due
        self._more = more
        self._run = run
        # guarded by _lock
        self._threads: list[threading.Thread] = []
        self._tasks: dict[int, PoolTask] = {}
        self._idle = 0
        self._open = False

    def open(self) -> None:
        """From now on workers are started and take work."""
        with self._lock:
            self._open = True
            if self._more():
                self.wake()

    def wake(self) -> None:
        """Wakes an idle worker, or starts one where all are busy. The caller holds the lock.

        One is enough for any amount of work: a worker that takes some and leaves some wakes the next. To wake all of
        them for each wanted block had them contend for the lock."""
        if self._idle:
            self._lock.notify()
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
        """Workers end after their current task; ``join`` waits for them."""
        with self._lock:
            self._open = False
            self._lock.notify_all()

    def join(self, ends: float) -> None:
        """Waits until ``ends`` (monotonic seconds) at the latest."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=max(0.0, ends - time.monotonic()))

    def tasks(self) -> list[PoolTask]:
        """The running tasks, the oldest first. The caller holds the lock."""
        return list(self._tasks.values())

    def _work(self, number: int) -> None:
        buffer = memoryview(bytearray(GATHER_BYTES))
        while (task := self._next(number)) is not None:
            try:
                self._run(task, buffer)
            except Exception as error:  # a bug of ours; reads that wait for this fetch still have a deadline
                log.error("event=worker-bug path=%s", task.handle.file.path, exc_info=error)
            finally:
                with self._lock:
                    del self._tasks[task.fetch.id]

    def _next(self, number: int) -> PoolTask | None:
        """Waits for the next task; None when the pool is closed."""
        with self._lock:
            while self._open:
                now = time.monotonic()
                taken = self._taken(now)
                if taken is not None:
                    task = PoolTask(number, *taken, now)
                    self._tasks[task.fetch.id] = task
                    if self._more():
                        self.wake()
                    return task
                due = self._due(now)
                self._idle += 1
                self._lock.wait(SLEEP_SECONDS if due is None else max(0.001, min(SLEEP_SECONDS, due - now)))
                self._idle -= 1
            return None

    def _taken(self, now: float) -> tuple[Fetch, BlobHandle] | None:
        try:
            return self._take(now)
        except Exception as error:  # a bug of ours; the next wake-up tries again
            log.error("event=take-bug", exc_info=error)
            return None
