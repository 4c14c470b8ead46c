"""The events of a mount, streamed to the subscribers of ``GET /v1/events``: one JSON object a line.

Events are the log's records of INFO and above, at whatever level the log is written; and ``progress`` once a second
while it changes. A Feed is a logging handler, so that no event needs a line of its own in the code. Logging only
appends a line to the subscribers' queues: these are short, and lines that do not fit are counted instead.

Threads: any thread logs; the control socket's threads subscribe, take and close. One thread ticks while there are
subscribers.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..control.http import HttpError, Request
from ..system.log_setup import fields_of

TICK_SECONDS: Final = 1.0  # between two checks of the progress: people read no faster
# Detects dead clients, whose line cannot be sent, and lets clients detect a dead daemon.
HEARTBEAT_SECONDS: Final = 10.0
BACKLOG: Final = 256  # lines that wait for a subscriber: a quarter of a minute of a busy mount, about 50 KB
MOST: Final = 256  # subscribers; each is a descriptor and a queue
_PIECE: Final = 65536  # bytes taken at once: what a unix socket holds, about

log = logging.getLogger(__name__)

Progress = Callable[[], Mapping[str, Any]]


class Subscriber:
    """The queue of one subscriber, for events of ``kinds`` or of all kinds; a Stream of the control socket. ``on_data``
    is called, and must not block, when there are lines to take."""

    content_type = "application/x-ndjson"

    def __init__(self, feed: Feed, kinds: frozenset[str]) -> None:
        self.on_data: Callable[[], None] = lambda: None
        self._feed = feed
        self._kinds = kinds
        self._lock = threading.Lock()
        # guarded by _lock
        self._lines: deque[bytes] = deque()
        self._lost = 0

    def put(self, event: str, line: bytes) -> None:
        """Appends a line of a wanted kind; drops the oldest one when the queue is full."""
        if self._kinds and event not in self._kinds and event != "alive":
            return
        with self._lock:
            if len(self._lines) >= BACKLOG:
                self._lines.popleft()
                self._lost += 1
            self._lines.append(line)
        self.on_data()

    def take(self) -> bytes:
        """Whole lines to be sent now, empty when there are none; an event ``lost`` counts those dropped before."""
        if not self._lines:
            return b""
        with self._lock:
            taken = [_line("lost", {"count": self._lost})] if self._lost else []
            self._lost = 0
            size = 0
            while self._lines and size < _PIECE:
                taken.append(self._lines.popleft())
                size += len(taken[-1])
        return b"".join(taken)

    def close(self) -> None:
        """Ends the subscription."""
        self._feed.unsubscribe(self)


class Feed(logging.Handler):
    """Add it to the logger of hffs, ``close`` it at the end. ``progress`` returns the values of a progress event,
    without waiting; ``problems`` counts the records of WARNING and above, by event."""

    def __init__(
        self,
        progress: Progress,
        *,
        tick_seconds: float = TICK_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(logging.INFO)
        self.problems: Counter[str] = Counter()
        self._progress = progress
        self._tick_seconds = tick_seconds
        self._now = now
        self._changed = threading.Condition()
        # guarded by _changed
        self._subscribers: list[Subscriber] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self._sent_at = 0.0

    def subscribe(self, request: Request) -> Subscriber:
        """``GET /v1/events?kinds=A,B``. Raises HttpError at the limit of subscribers."""
        kinds = frozenset(kind for kind in request.query.get("kinds", "").split(",") if kind)
        subscriber = Subscriber(self, kinds)
        with self._changed:
            if len(self._subscribers) >= MOST:
                raise HttpError(503, f"{MOST} clients follow events already", {"Retry-After": "10"})
            self._subscribers = [*self._subscribers, subscriber]
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._tick, name="hffs-events", daemon=True)
                self._thread.start()
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        with self._changed:
            self._subscribers = [each for each in self._subscribers if each is not subscriber]
            self._changed.notify_all()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by the logger, on the thread that logs."""
        if record.levelno < logging.WARNING and not self._subscribers:
            return
        try:
            fields = fields_of(record)
            event = str(fields.pop("event"))
            if record.levelno >= logging.WARNING:
                with self._changed:
                    self.problems[event] += 1
            self.send(event, {"level": record.levelname.lower(), **fields}, at=record.created)
        except Exception:  # noqa: BLE001 - as of any handler: a bad record must not fail the code that logs
            self.handleError(record)

    def send(self, event: str, fields: Mapping[str, Any], *, at: float | None = None) -> None:
        """Queues an event for every subscriber; never waits for one."""
        subscribers = self._subscribers
        if subscribers:
            line = _line(event, fields, at)
            self._sent_at = self._now()
            for subscriber in subscribers:
                subscriber.put(event, line)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            thread, self._subscribers = self._thread, []
            self._changed.notify_all()
        if thread is not None:
            thread.join(5)
        super().close()

    def _tick(self) -> None:
        """Sends progress and heartbeats until there are no subscribers."""
        last: Mapping[str, Any] | None = None
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed or not self._subscribers, self._tick_seconds):
                    self._thread = None
                    return
            try:
                progress: Mapping[str, Any] | None = self._progress()
            except Exception as bug:  # the other events continue
                log.error("event=progress-bug", exc_info=bug)
                progress = last
            if progress is not None and progress != last:
                last = progress
                self.send("progress", progress)
            elif self._now() - self._sent_at >= HEARTBEAT_SECONDS:
                self.send("alive", {})


def _line(event: str, fields: Mapping[str, Any], at: float | None = None) -> bytes:
    whole = {"event": event, "at": round(time.time() if at is None else at, 3), **fields}
    return json.dumps(whole).encode("ascii") + b"\n"
