"""Learns the layout of a file's tensors from its header, beside the reads: one thread, one plan for each blob.

The first read of a file gets a ``lookup``. The reader wants the header's bytes, and submits the lookup with every read
until it is ``done``: the bytes are parsed here once they have landed. No read waits for that or fails because of it; a
file that cannot be parsed has no plan. The formats themselves are in ``formats``. Any thread may call anything here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from typing import Final, Protocol

from .. import ranges
from ..errors import BlockAbsent, HffsError
from ..formats import Format, ReadPlan, format_of
from .blob_handle import BlobHandle

log = logging.getLogger(__name__)

# Plans kept for later opens: the shards of a large model. The largest plan takes 1.5 MiB.
MOST_PLANS: Final = 64
# Lookups waiting to be parsed, which takes milliseconds; one beyond these is submitted again with the next read.
MOST_WAITING: Final = 64
# A GGUF header of the longest kind doubles five times; a format that asks for more than this loops.
_MOST_STEPS: Final = 16
# Upper bound of every condition wait.
_SLEEP_SECONDS: Final = 60.0


class AheadReader(Protocol):
    """An open file, as far as it is needed here; ``hold`` keeps it open until ``release``."""

    @property
    def handle(self) -> BlobHandle: ...

    def want_ahead(self, asked: ranges.ByteRange) -> None: ...

    def hold(self) -> None: ...

    def release(self) -> None: ...


class HeaderLookup:
    """What is learnt of one blob, shared by its readers. ``asked``: the bytes to be parsed next. ``plan`` may be read
    once ``done``; None then: there is none."""

    __slots__ = ("asked", "done", "format", "plan", "queued", "size")

    def __init__(self, found: Format, size: int) -> None:
        self.format = found
        self.size = size
        self.asked = found.first(size)
        self.plan: ReadPlan | None = None
        self.done = False
        self.queued = False  # set under the lock of HeaderPrefetch; while it is, only its thread changes the rest


class HeaderPrefetch:
    """``lookup`` a file, then ``submit`` that until it is done. Its thread starts with the first file to parse."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        # guarded by _ready
        self._lookups: OrderedDict[tuple[str, str], HeaderLookup] = OrderedDict()  # the last used at the end
        self._waiting: deque[tuple[HeaderLookup, AheadReader]] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def lookup(self, handle: BlobHandle) -> HeaderLookup | None:
        """What is known or can be learnt of this file; None where its name promises nothing."""
        found = format_of(handle.file.path, handle.size)
        if found is None:
            return None
        key = (handle.key, found.name)
        with self._ready:
            lookup = self._lookups.get(key)
            if lookup is None:
                lookup = self._lookups[key] = HeaderLookup(found, handle.size)
                if len(self._lookups) > MOST_PLANS:
                    self._lookups.popitem(last=False)
            else:
                self._lookups.move_to_end(key)
        return lookup

    def submit(self, lookup: HeaderLookup, reader: AheadReader) -> None:
        """Has it parsed if the bytes it needs are local. Returns at once, never raises."""
        if lookup.done or lookup.queued or self._stopping:
            return
        try:
            if reader.handle.missing(ranges.span_of(lookup.asked)):
                return
            reader.hold()
        except HffsError as error:  # closed, or the cache is unusable: its reads report that
            log.debug("event=no-plan path=%s error=%s", reader.handle.file.path, error)
            return
        with self._ready:
            accepted = not (self._stopping or lookup.done or lookup.queued or len(self._waiting) >= MOST_WAITING)
            if accepted:
                lookup.queued = True
                self._waiting.append((lookup, reader))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="hffs-plan", daemon=True)
                    self._thread.start()
                self._ready.notify()
        if not accepted:
            reader.release()

    def stop(self, patience: float = 5.0) -> None:
        """Ends the thread within ``patience`` seconds; lookups that are not done stay so. Before the fetcher stops."""
        with self._ready:
            self._stopping = True
            left, self._waiting = self._waiting, deque()
            thread = self._thread
            self._ready.notify_all()
        for _, reader in left:
            reader.release()
        if thread is not None:
            thread.join(patience)

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._waiting:
                    if self._stopping:
                        return
                    self._ready.wait(_SLEEP_SECONDS)
                lookup, reader = self._waiting.popleft()
            try:
                try:
                    self._learn(lookup, reader)
                finally:
                    reader.release()
            except Exception as error:  # a bug of ours; without this thread no file would get a plan any more
                lookup.done = True
                log.error("event=plan-bug path=%s", reader.handle.file.path, exc_info=error)
            lookup.queued = False

    def _learn(self, lookup: HeaderLookup, reader: AheadReader) -> None:
        """Parses as far as the local bytes reach."""
        handle = reader.handle
        began = time.monotonic()
        try:
            for _ in range(_MOST_STEPS):
                if self._stopping or handle.missing(ranges.span_of(lookup.asked)):
                    return
                learnt = lookup.format.learn(lookup.size, lookup.asked, handle.read(lookup.asked))
                if not isinstance(learnt, ranges.ByteRange):
                    lookup.plan = learnt
                    break
                lookup.asked = learnt
                reader.want_ahead(learnt)
        except BlockAbsent:  # evicted, or damaged on disk: to be submitted again
            reader.want_ahead(lookup.asked)
            return
        except HffsError as error:
            log.debug("event=no-plan path=%s error=%s", handle.file.path, error)
            return
        lookup.done = True
        pieces = len(lookup.plan) if lookup.plan else 0
        log.debug("event=plan path=%s pieces=%d seconds=%.3f", handle.file.path, pieces, time.monotonic() - began)
