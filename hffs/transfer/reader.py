"""Reads a blob: bytes at once when they are local, else a Pending that settles when they are, or cannot be had.

A BlobReader is one open file: any number of threads may read from it at once, and none waits for another. What to read
ahead is decided by ``policy.ReadCursors``, with the read plan that ``HeaderPrefetch`` made of the file's header. A
Pending holds no thread: its caller either blocks on ``result``, or is called back and then takes the bytes.
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

# How often a block that was reported local and is absent when it is read (evicted, damaged on disk) is waited for.
ROUNDS = 4


class Pending:
    """A waiting read. ``take`` is for callbacks, ``result`` for threads that can block; each read ends exactly once.

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
            self._callback = callback  # also when it has settled: after another round it is called again
            if not self._done.is_set():
                return
        callback(self)

    def take(self) -> bytes | None:
        """The bytes; None when it waits once more (the callback comes again). Raises the error that ended the read."""
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
            if not holds:  # a cache so small that other blocks have pushed these out: once more will do now
                self._reader.handle.hold(ranges.span_of(self._asked))
            self._wait()
            return None

    def result(self, timeout: float | None = None) -> bytes:
        """Blocks until it has settled: until the deadline at most, or for ``timeout`` seconds if that is sooner. Raises
        DeadlineExceeded, and what ``take`` raises."""
        ends = None if timeout is None else time.monotonic() + timeout
        while True:
            # The deadline settles this; the extra seconds are for a timer thread that is late.
            left = (ends or self._deadline + 5.0) - time.monotonic()
            if not self._done.wait(max(0.0, left)):
                self.cancel()
                raise DeadlineExceeded("the read did not end in time")
            data = self.take()
            if data is not None:
                return data

    def cancel(self) -> None:
        """The read was interrupted: it ends with Cancelled unless it has failed already."""
        with self._lock:
            self._cancelled = True
            ticket = self._ticket
        if ticket is not None:
            self._reader.fetcher.abandon(ticket)
        self._settle(Cancelled("the read was interrupted"))
        self._end()

    def _wait(self) -> None:
        ticket = self._reader.fetcher.wait(self._reader.handle, self._asked, self._deadline, self._settle)
        with self._lock:
            self._ticket = ticket
            cancelled = self._cancelled
        if cancelled:  # before the new ticket was known to ``cancel``
            self._reader.fetcher.abandon(ticket)

    def _end(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, True
            holds = self._holds
        if not ended:
            if holds:
                self._reader.handle.release(ranges.span_of(self._asked))
            self._reader.release()

    def _settle(self, error: Exception | None) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self._error = error
            self._done.set()
            callback = self._callback
        if callback is not None:
            callback(self)


class BlobReader:
    """An open file. ``close`` detaches the blob as soon as no read of it waits any more.

    Opening fetches nothing. The first read also wants the bytes that a plan of the file is made from, given
    ``header_prefetch``; and all of the file in the background, if ``fill``.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        file: RemoteFile,
        *,
        read_timeout: float = 120.0,
        header_prefetch: HeaderPrefetch | None = None,
        fill: bool = False,
    ) -> None:
        self.fetcher = fetcher
        self.handle = fetcher.attach(file)
        self.size = file.blob.size
        self._timeout = read_timeout
        self._header_prefetch = header_prefetch
        self._fill = fill
        self._lock = threading.Lock()
        # guarded by _lock
        self._lookup: HeaderLookup | None = None  # until it is done
        self._unread = True
        self._cursors = ReadCursors(self.size)
        self._closed = False
        self._users = 1  # the open file, and each read that waits

    def read(self, offset: int, length: int) -> bytes | Pending:
        """Bytes ``[offset, offset + length)``, clipped to the file; or a Pending that will have them. Raises
        IntegrityError while the content is refused."""
        asked = ranges.clip(offset, length, self.size)
        if not asked.length:
            return b""
        if self.handle.refusal is not None:
            self.fetcher.quarantine.check(self.handle)
        limit = self.fetcher.readahead_limit()
        if self._lookup is not None:
            self._advance_lookup()
        with self._lock:
            first, self._unread = self._unread, False
            ahead = self._cursors.observe(asked.start, asked.length, window_limit=limit)
        answer: bytes | Pending
        try:
            answer = self.handle.read(asked)
        except BlockAbsent:
            answer = Pending(self, asked, time.monotonic() + self._timeout)
        if ahead.length:
            self.want_ahead(ahead)
        if first:
            self._begin_prefetch()
        return answer

    def want_ahead(self, asked: ranges.ByteRange, priority: Priority = Priority.AHEAD) -> None:
        """Has these bytes fetched, for no waiting read. Never raises: what is read later is wanted again."""
        try:
            self.fetcher.want(self.handle, ranges.span_of(asked), priority)
        except CacheUnusable as error:
            log.debug("event=no-read-ahead error=%s", error)

    def _begin_prefetch(self) -> None:
        """Once, by the first read, after its own blocks are wanted."""
        lookup = self._header_prefetch.lookup(self.handle) if self._header_prefetch is not None else None
        if lookup is not None:
            with self._lock:
                self._lookup = lookup
            if lookup.format.eager and not lookup.done:
                self.want_ahead(lookup.asked)
            self._advance_lookup()
        if self._fill and self.fetcher.can_keep(self.size):
            self.want_ahead(ranges.ByteRange(0, self.size), Priority.BACKGROUND)

    def _advance_lookup(self) -> None:
        """Takes the plan over when it is made, else has it made if its bytes are local by now."""
        lookup = self._lookup
        if lookup is None or self._header_prefetch is None:
            return
        if not lookup.done:
            self._header_prefetch.submit(lookup, self)
        else:
            with self._lock:
                self._lookup = None
                self._cursors.plan = lookup.plan

    def dup_fd(self) -> int | None:
        """A descriptor from which the kernel may read the whole file, for the caller to close; None unless verified."""
        return self.handle.stored.dup_fd()

    def prefetch(self) -> None:
        """Wants all of it in the background; goes on after ``close``. Raises CacheUnusable."""
        self.fetcher.want(self.handle, range(ranges.block_count(self.size)), Priority.BACKGROUND)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.release()

    def hold(self) -> None:
        """Keeps the blob attached until ``release``. Raises Cancelled when it is not any more."""
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
