"""Bringing files wholly here: wanted in the background, small ones first, each verified as it completes.

``run`` takes one thread, which decides what to want next and receives from the fetcher what became of it; the bytes
come through the same queue and the same workers as a reader's, behind all readers. What is on disk already is not
fetched again, so interrupting one and starting another continues. Progress is what the store says, never counted on
the side.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..cache import StoredBlob
from ..errors import (
    AccessDenied,
    BlockAbsent,
    CacheUnusable,
    Cancelled,
    HffsError,
    HubUnreachable,
    IntegrityError,
    NoSpace,
)
from ..model import RemoteFile
from ..policy import Priority
from ..ranges import BLOCK_SIZE, block_count
from .blob_handle import BlobHandle
from .fetcher import Fetcher
from .progress import FileProgress, HydrationProgress, State
from .throughput import Throughput

log = logging.getLogger(__name__)

# Files under way at once: enough that sixteen workers find small files to fetch while others are hashed, and a third of
# that many thousand descriptors.
MOST_OPEN = 64
# Big ones among them: the next one's first blocks are wanted when the last of this one's are taken.
MOST_BIG = 2
# So many files in a row that the same source does not give, after six attempts each, and it gives none; or that the
# same folder does not take.
MOST_FAILURES = 8
# A want may be lost to somebody else's (another hydration that was cancelled), or meet a failure that is remembered for
# five seconds: want what is missing again this often, whatever else happens.
LOOK_SECONDS = 1.0
# The rate, and with it what is left of the time, is of the last while: bursts of 16 MiB would make it jump.
RATE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Work:
    """A file that is not done, or some ``blocks`` of one. ``local`` counts bytes that were here when last looked at."""

    file: RemoteFile
    local: int
    blocks: Sequence[range] = ()  # none: the whole file
    state: State = "waiting"
    handle: BlobHandle | None = None
    wanted: bool = False
    mended: bool = False  # its content was wrong and is being fetched once more
    told: Callable[[HffsError | None], None] | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        return self.bytes_of(self.blocks) if self.blocks else self.file.blob.size

    def bytes_of(self, blocks: Iterable[range]) -> int:
        end = self.file.blob.size
        return sum(min(run.stop * BLOCK_SIZE, end) - run.start * BLOCK_SIZE for run in blocks)

    def missing(self, stored: StoredBlob) -> list[range]:
        every = self.blocks or (range(block_count(self.file.blob.size)),)
        return [gap for run in every for gap in stored.missing(run)]


Plan = Callable[[], Iterable[tuple[RemoteFile, int]]]
ExportFile = Callable[[RemoteFile, StoredBlob], None]


class Hydration:
    """``plan`` gives the files, each with its local bytes; it is called by ``run``. ``lay`` is called with each file
    that is whole and verified, before it counts as done. ``force`` fetches anew what is local. Of the files in
    ``only`` just these blocks are fetched; they are neither hashed as a whole nor passed to ``lay``. ``run`` once; the
    other methods on any thread."""

    def __init__(
        self,
        fetcher: Fetcher,
        plan: Plan,
        *,
        big_file: int = 200 * 1024 * 1024,
        force: bool = False,
        export_file: ExportFile | None = None,
        only: Mapping[RemoteFile, Sequence[range]] | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._big_file = big_file
        self._force = force
        self._export_file = export_file
        self._only = only or {}
        self._plan = plan
        self._failures = 0  # in a row, of a source or a folder
        self._given_up = False  # the next ones would fail as this one did
        self._retried: set[str] = set()  # contents that had been refused, and were tried again, once however many files
        self._renewed: set[str] = set()  # contents that were dropped to be fetched anew, once however many files
        self._events: queue.SimpleQueue[tuple[_Work | None, HffsError | None]] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._waiting: deque[_Work] = deque()  # the thread's own
        self._lock = threading.Lock()
        # guarded by _lock
        self._open: list[_Work] = []
        self._ended: list[FileProgress] = []
        self._failed: list[FileProgress] = []
        self._total = self._files = 0
        self._aside = 0  # local bytes of all that are not open
        self._seen = 0  # bytes done when last asked
        self._meter = Throughput(time.monotonic(), RATE_SECONDS)

    def run(self) -> bool:
        """Fetches and verifies the files until each has ended or it is cancelled; returns whether all are whole.
        Raises what the plan raises, NoSpace."""
        try:
            self._prepare()
            self._bring()
        finally:
            for work in list(self._open):
                self._close(work, relinquish=True)
        with self._lock:
            return len(self._ended) - len(self._failed) == self._files

    def cancel(self) -> None:
        """What was fetched is kept; fetches under way end with their next blocks."""
        self._cancelled.set()
        self._events.put((None, None))

    @property
    def cancelled(self) -> bool:
        """Whether it is to end; for a plan that takes its time."""
        return self._cancelled.is_set()

    def progress(self) -> HydrationProgress:
        now = time.monotonic()
        with self._lock:
            working = [(work, work.state) for work in self._open]
            ended, failed, aside = list(self._ended), list(self._failed), self._aside
            total, files = self._total, self._files
        active = [
            FileProgress(work.file, work.size, self._local(work), at) for work, at in working
        ]  # asks the disk: without the lock
        done = aside + sum(part.local for part in active)
        with self._lock:
            self._meter.add(max(0, done - self._seen), now)
            self._seen = max(done, self._seen)
            rate = self._meter.rate(now)
        eta = (total - done) / rate if rate else None
        return HydrationProgress(done, total, rate, eta, len(ended) - len(failed), files, active, ended, failed)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        works = []
        for file, local in self._plan():
            if self._cancelled.is_set():
                return
            blocks = self._only.get(file, ())
            works.append(_Work(file, 0 if self._force or blocks else local, blocks))
        different = {work.file.blob: work for work in works}.values()
        self._fetcher.ask_for_room(
            sum(work.size - work.local for work in different), sum(work.size for work in different)
        )
        small = sorted((work for work in works if work.size < self._big_file), key=lambda work: work.size)
        self._waiting.extend([*small, *(work for work in works if work.size >= self._big_file)])
        with self._lock:
            self._total = sum(work.size for work in works)
            self._files = len(works)
            self._aside = self._seen = sum(work.local for work in works)
            self._meter = Throughput(time.monotonic(), RATE_SECONDS)

    def _bring(self) -> None:
        look_at = time.monotonic() + LOOK_SECONDS
        while self._more():
            try:
                work, error = self._events.get(timeout=max(0.0, look_at - time.monotonic()))
            except queue.Empty:
                work = error = None
            if work is not None:
                self._step(work, error)
            if time.monotonic() >= look_at:
                if self._fetcher.stopped:  # by whoever did not cancel us first
                    self._cancelled.set()
                for each in list(self._open):
                    self._step(each, None, again=True)
                look_at = time.monotonic() + LOOK_SECONDS

    def _more(self) -> bool:
        """Open what may be opened; whether anything is left to do."""
        while self._may_open():
            work = self._waiting.popleft()
            with self._lock:
                self._open.append(work)
                self._aside -= work.local
            self._begin(work)
            if not self._events.empty():  # of a hundred thousand files that are here already the others do not wait
                break
        return bool(self._open or self._may_open()) and not self._cancelled.is_set()

    def _may_open(self) -> bool:
        given_up = self._given_up or self._failures >= MOST_FAILURES or self._cancelled.is_set()
        if given_up or not self._waiting or len(self._open) >= MOST_OPEN:
            return False
        big = sum(each.size >= self._big_file for each in self._open)
        return self._waiting[0].size < self._big_file or big < MOST_BIG

    def _begin(self, work: _Work) -> None:
        def told(error: HffsError | None) -> None:
            self._events.put((work, error))

        try:
            self._trust(work.file)
            work.handle = handle = self._fetcher.attach(work.file)
            if self._force and handle.key not in self._renewed:
                self._renewed.add(handle.key)
                handle.stored.discard(range(block_count(handle.size)))
                # Opened anew: files that have a name elsewhere too are left to it, and new ones made.
                work.handle = None
                self._fetcher.detach(handle)
                work.handle = handle = self._fetcher.attach(work.file)
            work.told = told
            self._fetcher.watch(handle, told)
        except HffsError as error:
            self._end(work, error)
            return
        self._step(work, None)

    def _trust(self, file: RemoteFile) -> None:
        """Who hydrates wants it on purpose: what is refused to readers for a while is tried again, once."""
        if file.blob.etag not in self._retried and self._fetcher.quarantine.refuses(file.blob):
            self._retried.add(file.blob.etag)
            self._fetcher.retry(file.blob)

    def _step(self, work: _Work, error: HffsError | None, *, again: bool = False) -> None:
        """Look where a file is, after something of it happened: want what is missing, have it hashed, or end it."""
        if work.handle is None:  # an event that came too late
            return
        if isinstance(error, Cancelled):  # a fetch that others gave up; or all of them, which the next look finds out
            again, error = True, None
        try:
            if error is None or self._once_more(work, error):
                self._look(work, work.handle, again)
            else:
                self._end(work, error)
        except HffsError as wrong:
            self._end(work, wrong)

    def _look(self, work: _Work, handle: BlobHandle, again: bool) -> None:
        stored = handle.stored
        self._fetcher.quarantine.check(handle)
        missing = work.missing(stored)
        if missing:
            self._say(work, "fetching")
            # What comes is not kept: a reader would be served, we are not. An old refusal may be over.
            if work.wanted and handle.refusal is not None:
                raise handle.refusal
            # Others may keep it busy for ever with what they want of it. What is queued already costs little to want.
            if again or not work.wanted or not self._fetcher.busy(handle):
                work.wanted = True
                handle.memory.forget(handle.key)  # what was kept in memory while the disk took nothing
                # Of a whole file nothing lies between the gaps that is not local: one range is cheaper.
                gaps = missing if work.blocks else [range(missing[0].start, missing[-1].stop)]
                for gap in gaps:
                    self._fetcher.want(handle, gap, self._priority(work))
        elif work.blocks or work.file.blob.digest is None or stored.verified:
            self._whole(work, stored)
        else:
            self._say(work, "verifying")
            self._fetcher.hash_worker.submit(handle)

    def _whole(self, work: _Work, stored: StoredBlob) -> None:
        """It is here and right; ends with being laid."""
        if self._export_file is not None and not work.blocks:
            try:
                self._export_file(work.file, stored)
            except BlockAbsent:  # it was found damaged, or somebody dropped it: the next look wants it again
                self._say(work, "verifying")
                return
            except HffsError as error:
                self._end(work, error, laying=True)
                return
        self._end(work, None)

    def _once_more(self, work: _Work, error: HffsError) -> bool:
        """Whether a failure is worth another attempt: content that was wrong once may be right the next time."""
        if isinstance(error, IntegrityError) and not work.mended:
            work.mended = True
            return True
        return False

    def _priority(self, work: _Work) -> Priority:
        return Priority.BULK if work.size >= self._big_file else Priority.BACKGROUND

    def _say(self, work: _Work, state: State) -> None:
        with self._lock:
            work.state = state

    def _end(self, work: _Work, error: HffsError | None, *, laying: bool = False) -> None:
        self._close(work, relinquish=error is not None)
        if isinstance(error, Cancelled):
            self._cancelled.set()  # also when it was the fetcher that was stopped: it gives no other file either
            return
        part = FileProgress(work.file, work.size, work.local, "done" if error is None else "failed", error)
        with self._lock:
            self._ended.append(part)
            if error is not None:
                self._failed.append(part)
        if error is not None:
            log.warning("event=hydrate-failed path=%s error=%s", work.file.path, error)
        self._count(error, laying)

    def _close(self, work: _Work, *, relinquish: bool) -> None:
        handle = work.handle
        work.local = self._local(work)
        work.handle = None
        if handle is not None:
            if relinquish:
                self._fetcher.relinquish(handle)
            if work.told is not None:
                self._fetcher.unwatch(handle, work.told)
                work.told = None
            self._fetcher.detach(handle)
        with self._lock:
            self._open.remove(work)
            self._aside += work.local

    def _count(self, error: HffsError | None, laying: bool) -> None:
        """Whether the files that are still to come would fail as this one did."""
        if error is None:
            self._failures = 0
        elif isinstance(error, NoSpace) or (isinstance(error, AccessDenied | CacheUnusable) and not laying):
            self._given_up = True
        elif isinstance(error, HubUnreachable | CacheUnusable):
            self._failures += 1

    def _local(self, work: _Work) -> int:
        handle = work.handle
        # Held, or it may be closed while it is asked by another thread, and its descriptor be another file's.
        if handle is None or not handle.stored.hold():
            return work.local
        try:
            if work.blocks:
                return work.size - work.bytes_of(work.missing(handle.stored))
            return handle.stored.local_bytes
        except CacheUnusable:
            return work.local
        finally:
            handle.stored.close()
