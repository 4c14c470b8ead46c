"""The hydrations and verifications of one mount, by id, which the next worker resumes when this one dies.

Called by the control socket's routes, on any thread. The requests of jobs that have not ended are recorded in a small
file beside the socket, where a worker started after a killed one finds them; what was fetched is in the cache anyway.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, Literal

from ..cache import Layout
from ..control import messages
from ..control.server import Request
from ..engine.hydrate import HydrationWork, matching_files
from ..engine.jobs import RunningJob
from ..engine.verify import VerificationWork
from ..engine.verify_cache import CacheSource, files_of_mount
from ..errors import NotFound, UsageError
from ..files import atomic_write
from ..model import RemoteFile
from ..transfer import HASH_NICE, Fetcher, Hydration
from ..vfs import Patterns, Selection, View
from .job_requests import JobRequest, job_request, to_resume

log = logging.getLogger(__name__)

# Ended jobs that can still be asked about; the client that started one asks within the second.
REMEMBERED: Final = 16
STOP_SECONDS: Final = 5.0
_START_LOG: Final = {
    "hydrate": "event=hydration-started id=%s path=%s",
    "verify": "event=verification-started id=%s path=%s",
}
_END_LOG: Final = {  # with the values logged after the id
    # Each file that failed has its own WARNING; the client that asked for what cannot be done gets the error.
    ("hydrate", "failed"): ("event=hydration-failed id=%s files=%d of=%d", ("files_done", "files_total")),
    ("hydrate", "cancelled"): ("event=hydration-cancelled id=%s bytes=%d of=%d", ("bytes_done", "bytes_total")),
    ("hydrate", "done"): (
        "event=hydration-done id=%s files=%d bytes=%d seconds=%.1f", ("files_done", "bytes_total", "seconds"),
    ),
    ("verify", "failed"): ("event=verification-failed id=%s damage=%d mended=%d", ("damage", "mended")),
    ("verify", "cancelled"): ("event=verification-cancelled id=%s files=%d of=%d", ("files_done", "files_total")),
    ("verify", "done"): ("event=verification-done id=%s files=%d mended=%d", ("files_done", "mended")),
}  # fmt: skip


@dataclass(slots=True)
class _KnownJob:
    request: JobRequest
    job: RunningJob
    ended_at: float | None = None


class Jobs:
    """``path`` is the file of requests; ``refused`` returns why the Hub refuses access, "" where it does not."""

    def __init__(
        self,
        path: str,
        mountpoint: str,
        view: View,
        fetcher: Fetcher,
        layout: Layout,
        big_file: int,
        *,
        refused: Callable[[], str] = lambda: "",
    ) -> None:
        self._path = path
        self._mountpoint = mountpoint
        self._view = view
        self._fetcher = fetcher
        self._layout = layout
        self._big_file = big_file
        self._refused = refused
        self._recording = threading.Lock()  # taken before _lock: the newest is written last
        self._lock = threading.Lock()
        # guarded by _lock
        self._entries: dict[str, _KnownJob] = {}
        self._stopped = False  # the file is the next worker's

    def resume(self) -> None:
        """Starts the jobs that an earlier worker recorded."""
        try:
            with open(self._path, encoding="utf-8") as file:
                requests = to_resume(json.load(file), time.time())
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            log.warning("event=jobs-lost error=%r", error)
            return
        for request in requests:
            self._start(request)

    def hydrate(self, request: Request) -> messages.Job:
        """``POST /v1/hydrate``: ``path``, ``include``, ``exclude``, ``force``, all optional. Raises UsageError."""
        return self._create("hydrate", request)

    def verify(self, request: Request) -> messages.Job:
        """``POST /v1/verify``: ``path``, ``include``, ``exclude``, ``fix``, ``require``, all optional. Raises
        UsageError."""
        return self._create("verify", request)

    def _create(self, kind: Literal["hydrate", "verify"], request: Request) -> messages.Job:
        body = request.json()
        try:
            asked = job_request(id=secrets.token_hex(8), target=self._mountpoint, kind=kind, **body)
        except TypeError:
            raise UsageError(f"not a request to {kind}: {json.dumps(body)[:200]}") from None
        return self._report(self._start(asked), 0)

    def get(self, request: Request) -> messages.Job:
        """``GET /v1/jobs/ID``. Raises NotFound."""
        since = request.query.get("since", "0")
        return self._report(self._find(request), int(since) if since.isdecimal() and len(since) < 10 else 0)

    def every(self) -> messages.JobList:
        """``GET /v1/jobs``: those that run and those that ended lately, the oldest first, without files that ended."""
        with self._lock:
            jobs = [each.job for each in self._entries.values()]
        return {"jobs": [self._report(job, since=sys.maxsize) for job in jobs]}

    def cancel(self, request: Request) -> messages.Job:
        """``DELETE /v1/jobs/ID``: what was fetched stays. Raises NotFound."""
        job = self._find(request)
        job.cancel()
        job.join(STOP_SECONDS)
        return self._report(job, 0)

    def stop(self) -> None:
        """Cancels all jobs; those that were running stay recorded for the next worker."""
        with self._lock:
            self._stopped = True
            jobs = [each.job for each in self._entries.values()]
        for job in jobs:
            job.cancel()
        deadline = time.monotonic() + STOP_SECONDS
        for job in jobs:
            job.join(max(0.0, deadline - time.monotonic()))

    def forget(self) -> None:
        """Removes the file: the mount ends for good, or begins and the file is of an earlier mount that was killed."""
        with self._recording:
            for path in (self._path, f"{self._path}.new"):
                with suppress(FileNotFoundError):
                    os.unlink(path)

    def hydration(self) -> messages.HydrationStatus:
        """All hydrations that run together, else the last that ended."""
        with self._lock:
            jobs = [each.job for each in self._entries.values() if each.job.kind == "hydrate"]
        reports = [job.report(sys.maxsize) for job in jobs]
        running = [each for each in reports if each["state"] == "running"]
        counted = running or reports[-1:]
        return {
            "state": counted[-1]["state"] if counted else "idle",
            "bytes_done": sum(each["bytes_done"] for each in counted),
            "bytes_total": sum(each["bytes_total"] for each in counted) if counted else None,
            "bytes_per_s": sum(each["bytes_per_s"] for each in counted),
            "eta_s": max((each["eta_s"] for each in running if each["eta_s"] is not None), default=None),
            "files_done": sum(each["files_done"] for each in counted),
            "files_total": sum(each["files_total"] for each in counted) if counted else None,
        }

    def _start(self, request: JobRequest) -> RunningJob:
        work = self._verify(request) if request.kind == "verify" else self._hydrate(request)
        nice = HASH_NICE if request.kind == "verify" else 0  # hashing competes with readers for the processors
        job = RunningJob(work, request.target, number=request.id, nice=nice, ended=lambda: self._ended(request.id))
        with self._lock:
            ended = [number for number, each in self._entries.items() if each.job.state != "running"]
            for number in ended[:-REMEMBERED]:
                del self._entries[number]
            job.start()  # before it is entered: a thread that cannot be started leaves no job behind
            self._entries[request.id] = _KnownJob(request, job)
        self._record()
        log.info(_START_LOG[request.kind], request.id, request.path or "/")
        return job

    def _hydrate(self, request: JobRequest) -> HydrationWork:
        def plan() -> Iterator[tuple[RemoteFile, int]]:
            cancelled = None if request.force else lambda: hydration.cancelled
            return matching_files(self._selected(request), cancelled)

        hydration = Hydration(self._fetcher, plan, big_file=self._big_file, force=request.force)
        return HydrationWork(hydration, self._fetcher, self._view.path_of)

    def _verify(self, request: JobRequest) -> VerificationWork:
        source = CacheSource(
            self._mountpoint,
            self._layout,
            lambda: files_of_mount(self._selected(request), everything=bool(request.require)),
            request.require,
            dropped=self._fetcher.quarantine.on_mismatch,
        )
        return VerificationWork(source, fix=request.fix, fetcher=lambda _: self._fetcher, big_file=self._big_file)

    def _selected(self, request: JobRequest) -> list[Selection]:
        path, patterns = request.path.strip("/"), Patterns(request.include, request.exclude)
        selections = (snapshot.select(path, patterns) for snapshot in self._view.snapshots())
        return [each for each in selections if each is not None]

    def _ended(self, number: str) -> None:
        with self._lock:
            entry = self._entries[number]
            entry.ended_at = time.time()
        self._record()
        report = entry.job.report()
        damage = [each for each in report.get("findings", []) if each["severity"] == "damage"]
        mended = sum(each["mended"] for each in damage)
        seconds = entry.ended_at - report["started_at"]
        values = {**report, "seconds": seconds, "damage": len(damage), "mended": mended}
        form, names = _END_LOG[report["kind"], report["state"]]
        log.info(form, number, *(values[name] for name in names))

    def _record(self) -> None:
        """Writes the requests of the jobs that run, and of those that ended without being cancelled."""
        with self._recording:
            with self._lock:
                if self._stopped:
                    return
                jobs = [
                    {"wish": asdict(each.request), "ended_at": each.ended_at}
                    for each in self._entries.values()
                    if each.job.state != "cancelled"
                ]
            try:
                atomic_write(self._path, json.dumps(jobs))
            except OSError as error:
                log.warning("event=jobs-not-kept error=%s", error)

    def _find(self, request: Request) -> RunningJob:
        with self._lock:
            entry = self._entries.get(request.name)
        if entry is None:
            raise NotFound(f"there is no job {request.name!r}", "it may have ended long ago")
        return entry.job

    def _report(self, job: RunningJob, since: int) -> messages.Job:
        report = job.report(since)
        # Without a fetch under way a verification only reads the disk, and does not wait for the Hub.
        fetching = job.kind == "hydrate" or any(each["state"] in ("waiting", "fetching") for each in report["active"])
        if report["state"] == "running" and fetching and (why := self._refused()):
            report["waits"] = why
        return report
