"""How a running job is shown: a live display on a terminal, log lines in a pipe, JSON lines for programs.

The lines of ``--json``, each with ``event``; bytes and seconds, times since the epoch:

- ``start``, the first: ``id``, ``kind``, ``target``, ``started_at``, and the totals.
- ``file``, as each ends: ``path``, ``size``, ``etag``, ``bytes_done``, ``state`` (``done`` or ``failed``).
- ``error``: ``path`` (empty where it concerns no single file), ``what``, ``remedy``, ``exit_code``.
- ``progress``, at every interval: the totals, ``updated_at``, ``bytes_per_s`` and ``eta_s`` (null while unknown),
  ``active`` (the files being fetched or verified, as in ``file``), ``workers`` (``active``, ``limit``, ``why``).
- ``end``, the last: ``state`` (``done``, ``failed``, ``cancelled``), ``exit_code``, ``updated_at``, the totals.

The totals: ``bytes_done`` (local already or fetched), ``bytes_total``, ``bytes_fetched`` (over the network),
``files_done``, ``files_total``. A verification adds

- ``finding``, for each when it is found: ``path``, ``kind``, ``severity`` (``damage``, ``warning``), ``what``,
  ``remedy``, ``expected`` and ``got`` (hex, empty where no hashes were compared), ``mended`` (false), ``exit_code``.
- ``outcome``, for each finding at the end: the same with its final state.
- ``checked`` in ``end``: files by result, and bytes read.

Keys and events may be added, never renamed. A command that fails before the job starts prints no line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Literal

from ...control.messages import Job, JobError
from ...names import shown
from . import units

_LINE_SECONDS: Final = 5.0  # at most one log line in that time
_SILENCE_SECONDS: Final = 60.0  # CI services end a job that prints nothing for some minutes
_TOTALS: Final = ("bytes_done", "bytes_total", "bytes_fetched", "files_done", "files_total")

JobState = Literal["done", "failed", "cancelled"]


class JobDisplay:
    """Shows nothing."""

    def running(self) -> AbstractContextManager[object]:
        """Entered before the first snapshot, left after the last one or when interrupted."""
        return nullcontext()

    def show(self, job: Job, errors: list[JobError]) -> None:
        """A snapshot, with the errors that are new in it."""

    def end(self, job: Job | None, state: JobState, exit_code: int, errors: list[JobError]) -> None:
        """The end of the job, with the last snapshot and the errors that ended it after that."""


def print_event(name: str, /, **fields: Any) -> None:
    print(json.dumps({"event": name, **fields}), flush=True)


class JsonLines(JobDisplay):
    """Every event as one line on stdout."""

    def __init__(self) -> None:
        self._started = False
        self._findings = 0

    def show(self, job: Job, errors: list[JobError]) -> None:
        if not self._started:
            self._started = True
            about = {key: job[key] for key in ("id", "kind", "target", "started_at")}
            print_event("start", **about, **_totals(job))
        for file in job["finished"]:
            print_event("file", **file)
        if job["kind"] == "hydrate":  # errors of a verification's files are findings
            for error in errors:
                print_event("error", **error)
        if job["state"] == "running":
            now = {key: job[key] for key in ("updated_at", "bytes_per_s", "eta_s", "active")}
            workers = {key: job["workers"][key] for key in ("active", "limit", "why")}
            print_event("progress", **_totals(job), **now, workers=workers)
        findings = job.get("findings", [])
        for each in findings[self._findings :]:
            print_event("finding", **{**each, "mended": False})
        self._findings = len(findings)

    def end(self, job: Job | None, state: JobState, exit_code: int, errors: list[JobError]) -> None:
        if job is None:
            return
        for each in job.get("findings", []):
            print_event("outcome", **each)
        if job["kind"] == "verify":
            errors = [*(error for error in job["errors"] if not error["path"]), *errors]
        for error in errors:
            print_event("error", **error)
        checked = {"checked": job["checked"]} if "checked" in job else {}
        print_event("end", state=state, exit_code=exit_code, updated_at=job["updated_at"], **_totals(job), **checked)


class LogLines(JobDisplay):
    """A line on stderr when another tenth is done or a minute has passed, at most one every 5 s."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, int] | None = None

    def show(self, job: Job, errors: list[JobError]) -> None:  # noqa: ARG002 - errors are printed at the end
        now, whole = self._clock(), job["bytes_total"]
        tenth = 10 * job["bytes_done"] // whole if whole else 0
        at, before = self._last or (now, tenth)
        due = now - at >= (_LINE_SECONDS if tenth > before else _SILENCE_SECONDS)
        if due and job["state"] == "running":
            files = f"{job['files_done']} of {units.count(job['files_total'], 'file')}"
            speed = f"{units.rate(job['bytes_per_s'])}, ETA {units.duration(job['eta_s'])}"
            line = f"{job['target']}: {units.share(job['bytes_done'], whole or None)}, {files}, {speed}"
            print(shown(line), file=sys.stderr, flush=True)
        if due or self._last is None:
            self._last = now, tenth


def _totals(job: Job) -> dict[str, Any]:
    return {key: job[key] for key in _TOTALS}
