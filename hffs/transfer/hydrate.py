"""Fetches files wholly: wanted in the background, small ones first, each verified as it completes.

``run`` occupies the thread of a job: it wants the next files and waits for the fetcher's results. The bytes come
through the same queue and worker threads as those of readers, at lower priorities. Local blocks are not fetched again,
so a hydration after an interrupted one continues it. Progress is derived from the store, never counted separately.
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
from .blob_handle import BlobHandle, Watcher
from .fetcher import Fetcher
from .progress import FileProgress, HydrationProgress, State
from .throughput import Throughput

log = logging.getLogger(__name__)

# Files open at once: enough that sixteen workers find small files to fetch while others are hashed, and a third of that
# many thousand descriptors.
MOST_OPEN = 64
# Big ones among them: the next one's first blocks are wanted when the last of this one's are taken.
MOST_BIG = 2
# A source that does not serve so many files in a row, after six attempts each, serves none; a folder likewise.
MOST_FAILURES = 8
# Wanted blocks may be dropped with another hydration that is cancelled, or meet a failure that is remembered for five
# seconds: what is missing is wanted again this often, whatever else happens.
LOOK_SECONDS = 1.0
# The rate, and with it the time left, is that of the last seconds: bursts of 16 MiB would make it jump.
RATE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Work:
    """A file that is not done, or some ``blocks`` of one. ``local`` counts local bytes when last looked at."""

    file: RemoteFile
    local: int
    blocks: Sequence[range] = ()  # none: the whole file
    state: State = "waiting"
    handle: BlobHandle | None = None
    wanted: bool = False
    refetched: bool = False  # its content was wrong and is fetched once more
    watcher: Watcher | None = field(default=None, repr=False)

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
    """``plan`` gives the files, each with its local bytes; it is called by ``run``. ``export_file`` is called with each
    file that is whole and verified, before it counts as done. ``force`` fetches anew what is local. Of the files in
    ``only`` just these blocks are fetched; they are neither hashed as a whole nor exported. ``run`` once; the other
    methods on any thread."""

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
        self._hopeless = False  # the files still to come would fail as this one did
        self._released: set[str] = set()  # contents taken out of quarantine, once for all files that have them
        self._discarded: set[str] = set()  # contents discarded to be fetched anew, once for all files that have them
        self._events: queue.SimpleQueue[tuple[_Work | None, HffsError | None]] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._waiting: deque[_Work] = deque()  # the thread's own
        self._lock = threading.Lock()
        # guarded by _lock
        self._open: list[_Work] = []
        self._ended: list[FileProgress] = []
        self._failed: list[FileProgress] = []
        self._total = self._files = 0
        self._closed_bytes = 0  # local bytes of all files that are not open
        self._seen = 0  # bytes done when last asked
        self._throughput = Throughput(time.monotonic(), RATE_SECONDS)

    def run(self) -> bool:
        """Fetches and verifies the files until each has ended or it is cancelled; returns whether all are whole.
        Raises what the plan raises, NoSpace."""
        try:
            self._prepare()
            self._loop()
        finally:
            for work in list(self._open):
                self._close(work, cancel=True)
        with self._lock:
            return len(self._ended) - len(self._failed) == self._files

    def cancel(self) -> None:
        """What was fetched is kept; running fetches end with their next blocks."""
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
            ended, failed, done = list(self._ended), list(self._failed), self._closed_bytes
            total, files = self._total, self._files
        # Without the lock: it looks at the disk.
        active = [FileProgress(work.file, work.size, self._local(work), state) for work, state in working]
        done += sum(each.local for each in active)
        with self._lock:
            self._throughput.add(max(0, done - self._seen), now)
            self._seen = max(done, self._seen)
            rate = self._throughput.rate(now)
        eta = (total - done) / rate if rate else None
        return HydrationProgress(done, total, rate, eta, len(ended) - len(failed), files, active, ended, failed)

    # --- on the thread of run ---------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        works = []
        for file, local in self._plan():
            if self._cancelled.is_set():
                return
            blocks = self._only.get(file, ())
            works.append(_Work(file, 0 if self._force or blocks else local, blocks))
        different = {work.file.blob: work for work in works}.values()
        self._fetcher.ensure_capacity(
            sum(work.size - work.local for work in different), sum(work.size for work in different)
        )
        small = sorted((work for work in works if work.size < self._big_file), key=lambda work: work.size)
        self._waiting.extend([*small, *(work for work in works if work.size >= self._big_file)])
        with self._lock:
            self._total = sum(work.size for work in works)
            self._files = len(works)
            self._closed_bytes = self._seen = sum(work.local for work in works)
            self._throughput = Throughput(time.monotonic(), RATE_SECONDS)

    def _loop(self) -> None:
        look_at = time.monotonic() + LOOK_SECONDS
        while self._open_more():
            try:
                work, error = self._events.get(timeout=max(0.0, look_at - time.monotonic()))
            except queue.Empty:
                work = error = None
            if work is not None:
                self._advance(work, error)
            if time.monotonic() >= look_at:
                if self._fetcher.stopped:  # without a cancellation of this hydration before
                    self._cancelled.set()
                for each in list(self._open):
                    self._advance(each, None, again=True)
                look_at = time.monotonic() + LOOK_SECONDS

    def _open_more(self) -> bool:
        """Opens the files that may be opened; returns whether anything is left to do."""
        while self._may_open():
            work = self._waiting.popleft()
            with self._lock:
                self._open.append(work)
                self._closed_bytes -= work.local
            self._begin(work)
            if not self._events.empty():  # the others do not wait for a hundred thousand files that are local already
                break
        return bool(self._open or self._may_open()) and not self._cancelled.is_set()

    def _may_open(self) -> bool:
        ends = self._hopeless or self._failures >= MOST_FAILURES or self._cancelled.is_set()
        if ends or not self._waiting or len(self._open) >= MOST_OPEN:
            return False
        big = sum(each.size >= self._big_file for each in self._open)
        return self._waiting[0].size < self._big_file or big < MOST_BIG

    def _begin(self, work: _Work) -> None:
        def watcher(error: HffsError | None) -> None:
            self._events.put((work, error))

        try:
            self._clear_quarantine(work.file)
            work.handle = handle = self._fetcher.attach(work.file)
            if self._force and handle.key not in self._discarded:
                self._discarded.add(handle.key)
                handle.stored.discard(range(block_count(handle.size)))
                # Attached anew: data files that have other names too keep these, and new ones are made here.
                work.handle = None
                self._fetcher.detach(handle)
                work.handle = handle = self._fetcher.attach(work.file)
            work.watcher = watcher
            self._fetcher.watch(handle, watcher)
        except HffsError as error:
            self._end(work, error)
            return
        self._advance(work, None)

    def _clear_quarantine(self, file: RemoteFile) -> None:
        """A hydration is deliberate: content that is refused to readers for a while is fetched again, once."""
        if file.blob.etag not in self._released and self._fetcher.quarantine.mismatch(file.blob):
            self._released.add(file.blob.etag)
            self._fetcher.clear_quarantine(file.blob)

    def _advance(self, work: _Work, error: HffsError | None, *, again: bool = False) -> None:
        """The next step of a file: wants what is missing (``again``: once more), has it hashed, or ends it."""
        if work.handle is None:  # an event that came too late
            return
        if isinstance(error, Cancelled):  # of a fetch for other users; or of all, which the next look finds out
            again, error = True, None
        if isinstance(error, IntegrityError) and not work.refetched:  # the next copy may be right
            work.refetched, error = True, None
        try:
            if error is None:
                self._look(work, work.handle, again)
            else:
                self._end(work, error)
        except HffsError as failure:
            self._end(work, failure)

    def _look(self, work: _Work, handle: BlobHandle, again: bool) -> None:
        stored = handle.stored
        self._fetcher.quarantine.check(handle)
        missing = work.missing(stored)
        if missing:
            self._set_state(work, "fetching")
            # What comes is not stored, which is enough for a reader, not here. An error of before may be over.
            if work.wanted and handle.store_error is not None:
                raise handle.store_error
            # Readers may keep it busy without end with what they want of it. To want what is queued costs little.
            if again or not work.wanted or not self._fetcher.is_busy(handle):
                work.wanted = True
                handle.memory.forget(handle.key)  # what was kept in memory while the disk took nothing
                # Of a whole file all that lies between the gaps is local: one range is cheaper.
                gaps = missing if work.blocks else [range(missing[0].start, missing[-1].stop)]
                for gap in gaps:
                    self._fetcher.want(handle, gap, self._priority(work))
        elif work.blocks or work.file.blob.digest is None or stored.verified:
            self._complete(work, stored)
        else:
            self._set_state(work, "verifying")
            self._fetcher.hash_worker.submit(handle)

    def _complete(self, work: _Work, stored: StoredBlob) -> None:
        """Exports a file that is local and right, and ends it."""
        if self._export_file is not None and not work.blocks:
            try:
                self._export_file(work.file, stored)
            except BlockAbsent:  # found damaged, or dropped: the next look wants it again
                self._set_state(work, "verifying")
                return
            except HffsError as error:
                self._end(work, error, exporting=True)
                return
        self._end(work, None)

    def _priority(self, work: _Work) -> Priority:
        return Priority.BULK if work.size >= self._big_file else Priority.BACKGROUND

    def _set_state(self, work: _Work, state: State) -> None:
        with self._lock:
            work.state = state

    def _end(self, work: _Work, error: HffsError | None, *, exporting: bool = False) -> None:
        self._close(work, cancel=error is not None)
        if isinstance(error, Cancelled):
            self._cancelled.set()  # also when it was the fetcher that stopped: it serves no other file either
            return
        result = FileProgress(work.file, work.size, work.local, "done" if error is None else "failed", error)
        with self._lock:
            self._ended.append(result)
            if error is not None:
                self._failed.append(result)
        if error is None:
            self._failures = 0
            return
        log.warning("event=hydrate-failed path=%s error=%s", work.file.path, error)
        if isinstance(error, NoSpace) or (isinstance(error, AccessDenied | CacheUnusable) and not exporting):
            self._hopeless = True
        elif isinstance(error, HubUnreachable | CacheUnusable):
            self._failures += 1

    def _close(self, work: _Work, *, cancel: bool) -> None:
        handle = work.handle
        work.local = self._local(work)
        work.handle = None
        if handle is not None:
            if cancel:
                self._fetcher.cancel_background(handle)
            if work.watcher is not None:
                self._fetcher.unwatch(handle, work.watcher)
                work.watcher = None
            self._fetcher.detach(handle)
        with self._lock:
            self._open.remove(work)
            self._closed_bytes += work.local

    def _local(self, work: _Work) -> int:
        handle = work.handle
        # Held, or another thread may close it meanwhile, and its descriptor become another file's.
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
