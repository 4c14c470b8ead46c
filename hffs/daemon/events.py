"""What happens on a mount, told as it happens to whoever follows ``GET /v1/events``: one JSON object a line.

The events are the log's records of INFO and above, whatever of them is written to the log; and ``progress`` once a
second while it changes. A Feed is a logging handler, so that nothing is told twice in the code. Whoever logs only puts
a line into the queues of those who follow: these are short, and what does not fit is counted instead.

Threads: any thread logs; the control socket's threads follow, take and close. One thread ticks while anybody follows.
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

TICK_SECONDS: Final = 1.0  # how often progress is looked at: nobody reads faster
# Somebody who died is found by the first line that cannot be sent to him, and whoever follows knows by it that we live.
HEARTBEAT_SECONDS: Final = 10.0
BACKLOG: Final = 256  # lines that wait for one who follows: a quarter of a minute of a busy mount, about 50 KB
MOST: Final = 256  # who follow at once; each is a descriptor and a queue
_PIECE: Final = 65536  # bytes taken at once: what a unix socket holds, about

log = logging.getLogger(__name__)

Progress = Callable[[], Mapping[str, Any]]


class Follower:
    """The queue of one who follows: those ``kinds`` of events, or all. ``on_data`` is called, and must not block, when
    there is something to take."""

    content_type = "application/x-ndjson"

    def __init__(self, feed: Feed, kinds: frozenset[str]) -> None:
        self.on_data: Callable[[], None] = lambda: None
        self._feed = feed
        self._kinds = kinds
        self._lock = threading.Lock()
        # guarded by _lock
        self._lines: deque[bytes] = deque()
        self._lost = 0

    def put(self, event: str, text: bytes) -> None:
        """A line for him, unless he does not want it; the oldest one goes where there are too many."""
        if self._kinds and event not in self._kinds and event != "alive":
            return
        with self._lock:
            if len(self._lines) >= BACKLOG:
                self._lines.popleft()
                self._lost += 1
            self._lines.append(text)
        self.on_data()

    def take(self) -> bytes:
        """Whole lines that are to be sent now; empty: there are none. ``lost`` tells of those that are no more."""
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
        """He is gone."""
        self._feed.forget(self)


class Feed(logging.Handler):
    """Add it to the logger of hffs, ``close`` it at the end. ``progress`` is what a progress event tells, without a
    wait; ``problems`` counts the records of WARNING and above, by their events."""

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
        self._followers: list[Follower] = []
        self._thread: threading.Thread | None = None
        self._ended = False
        self._told_at = 0.0

    def follow(self, request: Request) -> Follower:
        """``GET /v1/events?kinds=A,B``. Raises Refusal where too many follow already."""
        kinds = frozenset(kind for kind in request.query.get("kinds", "").split(",") if kind)
        follower = Follower(self, kinds)
        with self._changed:
            if len(self._followers) >= MOST:
                raise HttpError(503, f"{MOST} follow already", {"Retry-After": "10"})
            self._followers = [*self._followers, follower]
            if self._thread is None and not self._ended:
                self._thread = threading.Thread(target=self._tick, name="hffs-events", daemon=True)
                self._thread.start()
        return follower

    def forget(self, follower: Follower) -> None:
        with self._changed:
            self._followers = [each for each in self._followers if each is not follower]
            self._changed.notify_all()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by the logger, on the thread that logs."""
        if record.levelno < logging.WARNING and not self._followers:
            return
        try:
            fields = fields_of(record)
            event = str(fields.pop("event"))
            if record.levelno >= logging.WARNING:
                with self._changed:
                    self.problems[event] += 1
            self.tell(event, {"level": record.levelname.lower(), **fields}, at=record.created)
        except Exception:  # noqa: BLE001 - as of any handler: a bad record is no error of what was being done
            self.handleError(record)

    def tell(self, event: str, fields: Mapping[str, Any], *, at: float | None = None) -> None:
        """One event to all who follow; never waits for any of them."""
        followers = self._followers
        if followers:
            text = _line(event, fields, at)
            self._told_at = self._now()
            for follower in followers:
                follower.put(event, text)

    def close(self) -> None:
        with self._changed:
            self._ended = True
            thread, self._followers = self._thread, []
            self._changed.notify_all()
        if thread is not None:
            thread.join(5)
        super().close()

    def _tick(self) -> None:
        """Progress and heartbeats, until nobody follows."""
        before: Mapping[str, Any] | None = None
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._ended or not self._followers, self._tick_seconds):
                    self._thread = None
                    return
            try:
                progress: Mapping[str, Any] | None = self._progress()
            except Exception as error:  # a bug of ours; who follows still hears of all else
                log.error("event=progress-bug", exc_info=error)
                progress = before
            if progress is not None and progress != before:
                before = progress
                self.tell("progress", progress)
            elif self._now() - self._told_at >= HEARTBEAT_SECONDS:
                self.tell("alive", {})


def _line(event: str, fields: Mapping[str, Any], at: float | None = None) -> bytes:
    whole = {"event": event, "at": round(time.time() if at is None else at, 3), **fields}
    return json.dumps(whole).encode("ascii") + b"\n"
