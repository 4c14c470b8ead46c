"""A job: a hydration or a verification on a thread of its own, reported as ``messages.Job``.

Used by the daemon for its mount and by the Python API without one. What a job does is a ``Work``:
``HydrationWork`` or ``VerificationWork``. Any thread may ask for reports and cancel.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final, Literal, Protocol, cast

from ..control import messages
from ..control.messages import JobError, JobFile, JobProgress
from ..errors import HffsError
from ..policy import Priority
from ..transfer import Fetcher
from ..transfer.progress import Outcome, State

log = logging.getLogger(__name__)

_PURPOSE: Final[dict[Priority, Literal["demand", "ahead", "background", "bulk"]]] = {
    Priority.DEMAND: "demand",
    Priority.AHEAD: "ahead",
    Priority.BACKGROUND: "background",
    Priority.BULK: "bulk",
}
NO_WORKERS: Final[messages.Workers] = {"active": 0, "limit": 0, "bytes_per_s": 0, "why": "", "list": []}


class Work(Protocol):
    """``run`` does it on the job's thread and returns whether everything succeeded; it raises HffsError where that
    cannot be known. The other methods are called on any thread, before and after it too."""

    kind: Literal["hydrate", "verify"]

    @property
    def cancelled(self) -> bool: ...
    def run(self) -> bool: ...
    def cancel(self) -> None: ...
    def progress(self, since: int, *, running: bool) -> JobProgress:
        """How far it is; ``finished`` lists the files that ended after the first ``since``."""


class RunningJob:
    """``start`` once. ``nice`` is the priority of its thread; ``ended`` is called on it last of all; ``warning`` is
    reported with it."""

    def __init__(
        self,
        work: Work,
        target: str,
        *,
        number: str = "",
        warning: str = "",
        nice: int = 0,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.kind = work.kind
        self.started_at = time.time()
        self._work = work
        self._target = target
        self._number = number
        self._warning = warning
        self._nice = nice
        self._on_end = ended
        self._error: HffsError | None = None  # set before the state
        self._state: Outcome = "running"
        self._thread = threading.Thread(target=self._run, name=f"hffs-{work.kind}-job", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """Ends it soon; what was fetched and mended until then stays."""
        self._work.cancel()

    def join(self, timeout: float | None = None) -> bool:
        """Waits at most ``timeout`` seconds for its end and returns whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def state(self) -> Outcome:
        return self._state

    def report(self, since: int = 0) -> messages.Job:
        """The job as it is now, without the first ``since`` of the files that have ended."""
        state = self._state  # first: what an ended job reports does not change any more
        running = state == "running"
        progress = self._work.progress(since, running=running)
        if self._error is not None:
            progress["errors"].insert(0, job_error("", self._error))
        if not running:
            progress["bytes_per_s"], progress["eta_s"], progress["active"] = 0.0, None, []
        about = {
            "id": self._number,
            "kind": self.kind,
            "target": self._target,
            "state": state,
            "started_at": self.started_at,
            "updated_at": time.time(),
        }
        warning = {"warning": self._warning} if self._warning else {}
        return cast(messages.Job, {**about, **progress, **warning})

    def _run(self) -> None:
        if self._nice:
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        complete = False
        try:
            complete = self._work.run()
        except HffsError as error:
            self._error = error
        except Exception as bug:  # reported as a failure: a job that never ends would be waited for without end
            # Cancelling may close the listing while it is read, if a server keeps the job from ending in time.
            level = logging.DEBUG if self._work.cancelled else logging.ERROR
            log.log(level, "event=hydrate-bug" if self.kind == "hydrate" else "event=verify-bug", exc_info=bug)
            self._error = HffsError(f"{self.kind} failed unexpectedly: {bug!r}")
        self._state = "cancelled" if self._work.cancelled else "done" if complete else "failed"
        self._on_end()


def job_file(path: str, size: int | None, etag: str | None, done: int, state: State) -> JobFile:
    return {"path": path, "size": size, "etag": etag, "bytes_done": done, "state": state}


def job_error(path: str, error: HffsError) -> JobError:
    return {"path": path, "what": error.what, "remedy": error.remedy, "exit_code": error.exit_code}


def worker_report(fetcher: Fetcher) -> messages.Workers:
    """The workers of a fetcher: what each fetches, how fast, and why there are that many."""
    now = time.monotonic()
    limit, why = fetcher.worker_limit()
    working = fetcher.active_workers()
    return {
        "active": len(working),
        "limit": limit,
        "bytes_per_s": fetcher.speed(),
        "why": why,
        "list": [
            {
                "worker": each.worker,
                "path": each.path,
                "for": _PURPOSE[each.priority],
                "offset": each.asked.start,
                "size": each.asked.length,
                "bytes_per_s": each.bytes_per_s,
                "seconds": round(now - each.began, 3),
            }
            for each in working
        ],
    }
