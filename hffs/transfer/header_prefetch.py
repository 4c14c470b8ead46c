"""Learning from a file's own bytes where its tensors lie, beside the reads: one thread, one plan for each blob.

A reader asks for ``planning`` at its first read, wants what that waits for, and comes back with every read (``look``)
until it is ``done``: its bytes are parsed here when they have landed. No read waits for it or fails because of it; what
cannot be learnt is never learnt. The format itself is ``formats``' business. Any thread may call anything here.
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

# Plans kept for the next who opens the file: the shards of a large model. The largest plan takes 1.5 MiB.
KEPT: Final = 64
# Waiting to be parsed; who finds no room comes back with its next read. A parse takes milliseconds.
MOST_WAITING: Final = 64
# A GGUF header of the longest kind doubles five times; a format that asks for more than this goes round in circles.
_MOST_STEPS: Final = 16


class AheadReader(Protocol):
    """An open file, as far as it is needed here; ``hold`` keeps it open until ``release``."""

    @property
    def handle(self) -> BlobHandle: ...

    def want_ahead(self, asked: ranges.ByteRange) -> None: ...

    def hold(self) -> None: ...

    def release(self) -> None: ...


class HeaderLookup:
    """What is learnt of one blob, shared by its readers. ``asked``: the bytes to be seen next. ``plan`` may be read
    when ``done``; None then: there is none."""

    __slots__ = ("asked", "done", "format", "plan", "queued", "size")

    def __init__(self, found: Format, size: int) -> None:
        self.format = found
        self.size = size
        self.asked = found.first(size)
        self.plan: ReadPlan | None = None
        self.done = False
        self.queued = False  # changed under the planner's lock; whoever queued it alone changes the rest


class HeaderPrefetch:
    """``planning`` for a file, then ``look`` until it is done. Its thread starts with the first file to parse."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        # guarded by _ready
        self._known: OrderedDict[tuple[str, str], HeaderLookup] = OrderedDict()  # the last used at the end
        self._waiting: deque[tuple[HeaderLookup, AheadReader]] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def planning(self, handle: BlobHandle) -> HeaderLookup | None:
        """What is known or can be learnt of this file; None: nothing, by its name."""
        found = format_of(handle.file.path, handle.size)
        if found is None:
            return None
        key = (handle.key, found.name)
        with self._ready:
            planning = self._known.get(key)
            if planning is None:
                planning = self._known[key] = HeaderLookup(found, handle.size)
                if len(self._known) > KEPT:
                    self._known.popitem(last=False)
            else:
                self._known.move_to_end(key)
        return planning

    def look(self, planning: HeaderLookup, reader: AheadReader) -> None:
        """Have it parsed if what it waits for is here. Returns at once, never raises."""
        if planning.done or planning.queued or self._stopping:
            return
        try:
            if reader.handle.missing(ranges.span_of(planning.asked)):
                return
            reader.hold()
        except HffsError as error:  # closed, or the cache is gone: its reads tell
            log.debug("event=no-plan path=%s error=%s", reader.handle.file.path, error)
            return
        with self._ready:
            taken = not (self._stopping or planning.done or planning.queued or len(self._waiting) >= MOST_WAITING)
            if taken:
                planning.queued = True
                self._waiting.append((planning, reader))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="hffs-plan", daemon=True)
                    self._thread.start()
                self._ready.notify()
        if not taken:
            reader.release()

    def stop(self, patience: float = 5.0) -> None:
        """Ends the thread, within ``patience`` seconds; what has no plan by now gets none. Before the fetcher stops."""
        with self._ready:
            self._stopping = True
            left, self._waiting = self._waiting, deque()
            thread = self._thread
            self._ready.notify_all()
        for _, reader in left:
            reader.release()
        if thread is not None:
            thread.join(patience)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._waiting:
                    if self._stopping:
                        return
                    self._ready.wait(60.0)
                planning, reader = self._waiting.popleft()
            try:
                try:
                    self._learn(planning, reader)
                finally:
                    reader.release()
            except Exception as error:  # a bug of ours; without this thread no file would get a plan any more
                planning.done = True
                log.error("event=plan-bug path=%s", reader.handle.file.path, exc_info=error)
            planning.queued = False

    def _learn(self, planning: HeaderLookup, reader: AheadReader) -> None:
        """As far as the bytes that are here go."""
        handle = reader.handle
        began = time.monotonic()
        try:
            for _ in range(_MOST_STEPS):
                if self._stopping or handle.missing(ranges.span_of(planning.asked)):
                    return
                learnt = planning.format.learn(planning.size, planning.asked, handle.read(planning.asked))
                if not isinstance(learnt, ranges.ByteRange):
                    planning.plan = learnt
                    break
                planning.asked = learnt
                reader.want_ahead(learnt)
        except BlockAbsent:  # evicted, or damaged on disk: the next look asks again
            reader.want_ahead(planning.asked)
            return
        except HffsError as error:
            log.debug("event=no-plan path=%s error=%s", handle.file.path, error)
            return
        planning.done = True
        pieces = len(planning.plan) if planning.plan else 0
        log.debug("event=plan path=%s pieces=%d seconds=%.3f", handle.file.path, pieces, time.monotonic() - began)
