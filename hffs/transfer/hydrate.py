"""Bringing files wholly here: wanted in the background, small ones first, each verified as it completes.

One thread a hydration, which decides what to want next and hears from the fetcher what became of it; the bytes come
through the same queue and the same workers as a reader's, behind all readers. What is on disk already is not fetched
again, so interrupting one and starting another continues. Progress is what the store says, never counted on the side.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..cache import StoredBlob
from ..errors import AccessDenied, CacheUnusable, Cancelled, HffsError, HubUnreachable, IntegrityError, NoSpace
from ..model import RemoteFile
from ..policy import Priority
from ..ranges import block_count
from .fetcher import Fetcher
from .meter import Meter
from .target import Target

log = logging.getLogger(__name__)

# Files under way at once: enough that sixteen workers find small files to fetch while others are hashed, and a third of
# that many thousand descriptors.
MOST_OPEN = 64
# Big ones among them: the next one's first blocks are wanted when the last of this one's are taken.
MOST_BIG = 2
# So many files in a row that the same source does not give, after six attempts each, and it gives none.
MOST_FAILURES = 8
# A want may be lost to somebody else's (another hydration that was cancelled): look again this often.
LOOK_SECONDS = 1.0
# The rate, and with it what is left of the time, is of the last while: bursts of 16 MiB would make it jump.
RATE_SECONDS = 5.0


State = Literal["waiting", "fetching", "verifying", "done", "failed"]


@dataclass(slots=True, eq=False)
class Part:
    """One file of a hydration. ``local`` counts bytes that were here when it was last looked at."""

    file: RemoteFile
    local: int
    state: State = "waiting"
    target: Target | None = None
    mended: bool = False  # its content was wrong and is being fetched once more
    error: HffsError | None = None
    told: Callable[[HffsError | None], None] | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        return self.file.blob.size


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far a hydration is. Bytes and rates count what became local; ``ended`` are the parts that ended, in order."""

    state: Literal["running", "done", "failed", "cancelled"]
    bytes_done: int
    bytes_total: int
    bytes_per_s: float
    eta_s: float | None
    files_done: int
    files_total: int
    active: list[Part]
    ended: list[Part]
    error: HffsError | None  # what kept it from starting


Plan = Callable[[], Sequence[tuple[RemoteFile, int]]]
Lay = Callable[[RemoteFile, StoredBlob], None]


class Hydration:
    """``plan`` is asked first, on the thread: the files, each with what is local of it. ``lay`` is called with each
    file that is whole and right, before it counts as done; ``force`` fetches anew what is here. ``start`` once; any
    thread may ask and cancel."""

    def __init__(
        self,
        fetcher: Fetcher,
        plan: Plan,
        *,
        big_file: int = 200 * 1024 * 1024,
        force: bool = False,
        lay: Lay | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._big_file = big_file
        self._force = force
        self._lay = lay
        self._plan = plan
        self._failures = 0  # in a row, of a source that gives nothing
        self._events: queue.SimpleQueue[tuple[Part | None, HffsError | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hffs-hydrate", daemon=True)
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        # guarded by _lock
        self._waiting: deque[Part] = deque()
        self._open: list[Part] = []
        self._ended: list[Part] = []
        self._total = self._files = self._done = 0
        self._error: HffsError | None = None
        self._meter = Meter(time.monotonic(), RATE_SECONDS)
        self._state: Literal["running", "done", "failed", "cancelled"] = "running"

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """What was fetched is kept; fetches under way end with their next blocks."""
        self._cancelled.set()
        self._events.put((None, None))

    def join(self, timeout: float | None = None) -> bool:
        """Whether it has ended, after waiting for that at most ``timeout`` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def snapshot(self) -> Snapshot:
        now = time.monotonic()
        with self._lock:
            active, ended, state = list(self._open), list(self._ended), self._state
            waiting = sum(part.local for part in self._waiting)
        for part in active:
            part.local = self._local(part)
        done = waiting + sum(part.local for part in active) + sum(part.local for part in ended)
        with self._lock:
            self._meter.add(max(0, done - self._done), now)
            self._done = max(done, self._done)
            rate = self._meter.rate(now) if state == "running" else 0.0
        left = self._total - done
        files_done = sum(part.state == "done" for part in ended)
        eta = left / rate if rate and state == "running" else None
        return Snapshot(state, done, self._total, rate, eta, files_done, self._files, active, ended, self._error)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._prepare()
            while self._more():
                part, error = self._hear()
                if part is not None:
                    self._step(part, error)
                else:
                    for each in list(self._open):
                        self._step(each, None)
        except HffsError as error:
            self._error = error
        except Exception as error:  # a bug of ours must be seen as a failure, not as a wait without end
            log.error("event=hydrate-bug", exc_info=error)
            self._error = HffsError(f"hydrating failed unexpectedly: {error!r}")
        cancelled = self._cancelled.is_set()
        for part in list(self._open):
            self._end(part, Cancelled("the hydration was cancelled"))
        with self._lock:
            right = sum(part.state == "done" for part in self._ended)
            failed = self._error is not None or right < self._files
            self._state = "cancelled" if cancelled else "failed" if failed else "done"

    def _prepare(self) -> None:
        parts = [Part(file, 0 if self._force else local) for file, local in self._plan()]
        small = sorted((part for part in parts if part.size < self._big_file), key=lambda part: part.size)
        big = [part for part in parts if part.size >= self._big_file]
        with self._lock:
            self._waiting.extend([*small, *big])
            self._total = sum(part.size for part in parts)
            self._files = len(parts)
            self._done = sum(part.local for part in parts)
            self._meter = Meter(time.monotonic(), RATE_SECONDS)

    def _more(self) -> bool:
        """Open what may be opened; whether anything is left to wait for."""
        while self._waiting and not self._cancelled.is_set() and self._failures < MOST_FAILURES:
            part = self._waiting[0]
            big = sum(each.size >= self._big_file for each in self._open)
            if len(self._open) >= MOST_OPEN or (part.size >= self._big_file and big >= MOST_BIG):
                break
            with self._lock:
                self._open.append(self._waiting.popleft())
            self._begin(part)
        return bool(self._open) and not self._cancelled.is_set()

    def _hear(self) -> tuple[Part | None, HffsError | None]:
        try:
            return self._events.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            return None, None

    def _begin(self, part: Part) -> None:
        def told(error: HffsError | None) -> None:
            self._events.put((part, error))

        try:
            part.target = target = self._fetcher.attach(part.file)
            if self._force:
                target.stored.discard(range(block_count(target.size)))
                # Opened anew: files that have a name elsewhere too are left to it, and new ones made.
                part.target = None
                self._fetcher.detach(target)
                part.target = target = self._fetcher.attach(part.file)
            part.told = told
            self._fetcher.watch(target, told)
            if part.file.blob.digest is not None:
                self._fetcher.verifier.follow(target)
        except HffsError as error:
            self._end(part, error)
            return
        part.state = "fetching"
        self._step(part, None)

    def _step(self, part: Part, error: HffsError | None) -> None:
        """Look where a file is, after something of it happened: want what is missing, have it hashed, or end it."""
        if part.target is None or part.state in ("done", "failed"):  # an event that came too late
            return
        try:
            if error is None or self._once_more(part, error):
                self._look(part, part.target)
            else:
                self._end(part, error)
        except HffsError as wrong:
            self._end(part, wrong)

    def _look(self, part: Part, target: Target) -> None:
        stored = target.stored
        missing = stored.missing(range(block_count(target.size)))
        if missing:
            part.state = "fetching"
            if not self._fetcher.busy(target):
                refused = self._fetcher.refusal
                if refused is not None:  # what comes is not kept: a reader would be served, we are not
                    raise refused
                target.unstored.forget(target.key)  # what was kept in memory while the disk took nothing
                whole = range(missing[0].start, missing[-1].stop)
                self._fetcher.want(target, whole, self._priority(part))
        elif part.file.blob.digest is None or stored.verified:
            if self._lay is not None:
                self._lay(part.file, stored)
            self._end(part, None)
        else:
            part.state = "verifying"
            self._fetcher.verifier.submit(target)

    def _once_more(self, part: Part, error: HffsError) -> bool:
        """Whether a failure is worth another attempt: content that was wrong once may be right the next time."""
        if isinstance(error, IntegrityError) and not part.mended:
            part.mended = True
            return True
        return False

    def _priority(self, part: Part) -> Priority:
        return Priority.BULK if part.size >= self._big_file else Priority.BACKGROUND

    def _end(self, part: Part, error: HffsError | None) -> None:
        target = part.target
        part.local = self._local(part)
        if target is not None:
            if error is not None:
                self._fetcher.relinquish(target)
            if part.told is not None:
                self._fetcher.unwatch(target, part.told)
                if part.file.blob.digest is not None:
                    self._fetcher.verifier.unfollow(target)
            part.target = part.told = None
            self._fetcher.detach(target)
        with self._lock:
            self._open.remove(part)
            if not isinstance(error, Cancelled):
                part.error = error
                part.state = "done" if error is None else "failed"
                self._ended.append(part)
            else:
                self._waiting.append(part)
        if error is None:
            self._failures = 0
        elif isinstance(error, AccessDenied | NoSpace | CacheUnusable):  # so it will be for all the others
            self._failures = MOST_FAILURES
        elif isinstance(error, HubUnreachable):
            self._failures += 1
        if error is not None and not isinstance(error, Cancelled):
            log.warning("event=hydrate-failed path=%s error=%s", part.file.path, error)

    def _local(self, part: Part) -> int:
        target = part.target
        if target is None:
            return part.local
        try:
            return target.stored.local_bytes
        except CacheUnusable:  # it has just been closed
            return part.local
