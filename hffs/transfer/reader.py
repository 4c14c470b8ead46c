"""Reading a blob: bytes at once when they are here, else a Pending that settles when they are, or cannot be.

A BlobReader is one open file: any number of threads may read from it at once, and none waits for another. What to read
ahead is ``policy.ReadCursors``' decision; the reader only passes it on, and to them the plan that
``HeaderPrefetch`` made of the file's header. A Pending holds no thread: its caller either blocks on ``result``, or is
called back and then takes the bytes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .. import ranges
from ..errors import BlockAbsent, CacheUnusable, Cancelled, DeadlineExceeded
from ..model import RemoteFile
from ..policy import Priority, ReadCursors
from .fetcher import Fetcher
from .header_prefetch import HeaderLookup, HeaderPrefetch

log = logging.getLogger(__name__)

# A block that was told to be here and is gone when it is read (evicted, damaged on disk) is asked for again this often.
ROUNDS = 4


class Pending:
    """A read that waits. ``take`` is for callbacks, ``result`` for those who can block; each read ends exactly once.

    It keeps its file open until then: the bytes can be taken however late, also after the reader's ``close``.
    """

    __slots__ = (
        "_asked", "_callback", "_cancelled", "_deadline", "_done", "_ended", "_error", "_holds", "_lock", "_reader",
        "_rounds", "_ticket",
    )  # fmt: skip

    def __init__(self, reader: BlobReader, asked: ranges.ByteRange, deadline: float) -> None:
        self._reader = reader
        self._asked = asked
        self._deadline = deadline
        self._done = threading.Event()
        self._lock = threading.Lock()
        # guarded by _lock
        self._callback: Callable[[Pending], None] | None = None
        self._error: Exception | None = None
        self._cancelled = False
        self._ended = False
        self._rounds = 0
        self._holds = False  # the blocks in memory
        self._ticket: int | None = None
        reader.hold()
        try:
            self._wait()
        except BaseException:
            self._end()
            raise

    def add_done_callback(self, callback: Callable[[Pending], None]) -> None:
        """``callback(self)`` once it has settled (at once if it has): on a thread of the fetcher's, so hand over."""
        with self._lock:
            self._callback = callback  # also when it has settled: after another round it comes again
            if not self._done.is_set():
                return
        callback(self)

    def take(self) -> bytes | None:
        """The bytes; None when it has to go on waiting (the callback comes again). Raises what went wrong."""
        try:
            data = self._read()
        except BaseException as error:
            self._end()
            if self._cancelled and isinstance(error, CacheUnusable):  # closed by cancel, while it was read
                raise Cancelled("the read was interrupted") from None
            raise
        if data is not None:
            self._end()
        return data

    def _read(self) -> bytes | None:
        if self._error is not None:
            raise self._error
        if self._cancelled:  # after it had settled: the file may be closed since
            raise Cancelled("the read was interrupted")
        try:
            return self._reader.handle.read(self._asked)
        except BlockAbsent:
            with self._lock:
                self._rounds += 1
                if self._cancelled:
                    raise Cancelled("the read was interrupted") from None
                if self._rounds >= ROUNDS:
                    raise
                self._done.clear()
                holds, self._holds = self._holds, True
            if not holds:  # a cache so small that others' blocks have pushed these out: once more will do now
                self._reader.handle.hold(ranges.span_of(self._asked))
            self._wait()
            return None

    def result(self, timeout: float | None = None) -> bytes:
        """Blocks until settled; the fetcher's deadline bounds it, ``timeout`` (seconds) may end it sooner."""
        ends = None if timeout is None else time.monotonic() + timeout
        while True:
            # The deadline settles this; the extra seconds are for a timer thread that is late.
            left = (ends or self._deadline + 5.0) - time.monotonic()
            if not self._done.wait(max(0.0, left)):
                self.cancel()
                raise DeadlineExceeded("the read was given up")
            data = self.take()
            if data is not None:
                return data

    def cancel(self) -> None:
        """The reader has gone (interrupted): the read ends with Cancelled unless it has failed already."""
        with self._lock:
            self._cancelled = True
            ticket = self._ticket
        if ticket is not None:
            self._reader.fetcher.abandon(ticket)
        self._settled(Cancelled("the read was interrupted"))
        self._end()

    def _wait(self) -> None:
        ticket = self._reader.fetcher.wait(self._reader.handle, self._asked, self._deadline, self._settled)
        with self._lock:
            self._ticket = ticket
            cancelled = self._cancelled
        if cancelled:  # while it was on its way to wait once more
            self._reader.fetcher.abandon(ticket)

    def _end(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, True
            holds = self._holds
        if not ended:
            if holds:
                self._reader.handle.release(ranges.span_of(self._asked))
            self._reader.release()

    def _settled(self, error: Exception | None) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self._error = error
            self._done.set()
            callback = self._callback
        if callback is not None:
            callback(self)


class BlobReader:
    """An open file. ``close`` gives the blob back as soon as no read of it waits any more.

    Opening fetches nothing. The first read also wants what a plan of the file begins with, from ``planner``; and all of
    the file in the background, if ``fill``.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        file: RemoteFile,
        *,
        read_timeout: float = 120.0,
        planner: HeaderPrefetch | None = None,
        fill: bool = False,
    ) -> None:
        self.fetcher = fetcher
        self.handle = fetcher.attach(file)
        self.size = file.blob.size
        self._timeout = read_timeout
        self._planner = planner
        self._fill = fill
        self._lock = threading.Lock()
        # guarded by _lock
        self._planning: HeaderLookup | None = None  # while something is still to be learnt
        self._untouched = True
        self._cursors = ReadCursors(self.size)
        self._closed = False
        self._users = 1  # the opener, and each read that waits

    def read(self, offset: int, length: int) -> bytes | Pending:
        """Bytes ``[offset, offset + length)``, clipped to the file; or a Pending that will have them. Raises
        IntegrityError while the content is refused."""
        asked = ranges.clip(offset, length, self.size)
        if not asked.length:
            return b""
        if self.handle.refused is not None:
            self.fetcher.quarantine.check(self.handle)
        limit = self.fetcher.window()
        if self._planning is not None:
            self._look()
        with self._lock:
            first, self._untouched = self._untouched, False
            ahead = self._cursors.observe(asked.start, asked.length, window_limit=limit)
        answer: bytes | Pending
        try:
            answer = self.handle.read(asked)
        except BlockAbsent:
            answer = Pending(self, asked, time.monotonic() + self._timeout)
        if ahead.length:
            self.want_ahead(ahead)
        if first:
            self._touched()
        return answer

    def want_ahead(self, asked: ranges.ByteRange, priority: Priority = Priority.AHEAD) -> None:
        """Have these bytes fetched, for nobody who waits. Never raises: it is a guess, what is read is asked for."""
        try:
            self.fetcher.want(self.handle, ranges.span_of(asked), priority)
        except CacheUnusable as error:
            log.debug("event=no-read-ahead error=%s", error)

    def _touched(self) -> None:
        """Once, by the first read, after what it wants itself."""
        planning = self._planner.planning(self.handle) if self._planner is not None else None
        if planning is not None:
            with self._lock:
                self._planning = planning
            if planning.format.eager and not planning.done:
                self.want_ahead(planning.asked)
            self._look()
        if self._fill and self.fetcher.fits(self.size):  # what cannot be kept would come for nobody
            self.want_ahead(ranges.ByteRange(0, self.size), Priority.BACKGROUND)

    def _look(self) -> None:
        """Take over the plan when there is one, else have it looked whether one can be made by now."""
        planning = self._planning
        if planning is None or self._planner is None:
            return
        if not planning.done:
            self._planner.look(planning, self)
        else:
            with self._lock:
                self._planning = None
                self._cursors.plan = planning.plan

    def dup_fd(self) -> int | None:
        """A descriptor the kernel may read the whole file from, for the caller to close; None unless verified."""
        return self.handle.stored.dup_fd()

    def prefetch(self) -> None:
        """Want all of it, for nobody in particular; goes on after ``close``."""
        self.fetcher.want(self.handle, range(ranges.block_count(self.size)), Priority.BACKGROUND)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.release()

    def hold(self) -> None:
        """One more who needs the blob, until ``release``. Raises Cancelled when the last one has gone."""
        with self._lock:
            if not self._users:
                raise Cancelled("the file is closed")
            self._users += 1

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            left = self._users
        if not left:
            self.fetcher.detach(self.handle)
