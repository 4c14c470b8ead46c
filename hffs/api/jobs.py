"""Following a job to its end: in this process, or of a mount over its control socket.

Used by ``hydrate`` and ``verify``, and through them by the command line. Both kinds are followed by the same reports
(``messages.Job``). The job of a mount is its daemon's work, and when the daemon dies its successor resumes it. One
thread at a time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

from ..control import client, messages
from ..errors import Cancelled, HffsError, MountFailed, MountNotFound, NotFound, worst
from . import mounts

if TYPE_CHECKING:
    from ..engine.jobs import RunningJob

INTERVAL: Final = 0.25  # seconds between two reports
_ASK_SECONDS: Final = 10.0
# A daemon that died is started again within a second or two; on a busy machine and after three deaths, later.
_RESTART_SECONDS: Final = 30.0
# A worker of the fetcher that waits for a silent server takes longer: it is left to the end of the session.
_STOP_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a file is, or all of them together (``file`` is empty). Bytes that are on this machine's disk, of those
    there will be; bytes a second and seconds left are of the whole."""

    file: str
    bytes_done: int
    bytes_total: int
    bytes_per_s: float
    eta_s: float | None
    state: Literal["running", "waiting", "fetching", "verifying", "done", "failed", "cancelled"]
    files_done: int
    files_total: int


class JobFailed(HffsError):
    """A job that failed; ``errors`` names each reason, the message the worst one."""

    def __init__(self, errors: list[messages.JobError]) -> None:
        code = worst(error["exit_code"] for error in errors)
        first = next((error for error in errors if error["exit_code"] == code), None)
        path = f"{first['path']}: " if first and first["path"] else ""
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        what = f"{path}{first['what']}{more}" if first else "the job failed for an unknown reason"
        super().__init__(what, first["remedy"] if first else "run it again")
        self.exit_code = code
        self.errors = errors


def wait(reports: Generator[messages.Job], progress: Callable[[Progress], None] | None) -> messages.Job:
    """Follows a job to its end and returns its last report. Raises Cancelled, and what keeps it from starting."""
    last: messages.Job | None = None
    with contextlib.closing(reports):
        for last in reports:
            if progress is not None:
                for each in _progress_of(last):
                    progress(each)
    assert last is not None, "there is always a last report"
    if last["state"] == "cancelled":
        raise Cancelled(f"{last['target']}: the job was cancelled", "run it again to go on")
    return last


def _progress_of(job: messages.Job) -> Iterator[Progress]:
    """The files that moved, and the whole."""
    shared = job["bytes_per_s"], job["eta_s"]
    counted = job["files_done"], job["files_total"]
    for file in (*job["finished"], *job["active"]):
        yield Progress(file["path"], file["bytes_done"], file["size"] or 0, *shared, file["state"], *counted)
    yield Progress("", job["bytes_done"], job["bytes_total"], *shared, job["state"], *counted)


def run(job: RunningJob, interval: float) -> Generator[messages.Job]:
    """Runs a job in this process, with a report each ``interval`` seconds, the last one with a state other than
    ``running``. Closing the generator before cancels the job."""
    since = 0
    job.start()
    try:
        while True:
            job.join(interval)
            report = job.report(since)
            since = report["ended"]
            yield report
            if report["state"] != "running":
                return
    finally:
        job.cancel()
        job.join(_STOP_SECONDS)


def request(
    target: str,
    mountpoint: str,
    kind: Literal["hydrate", "verify"],
    body: dict[str, object],
    runtime_dir: str,
    interval: float,
    export: Callable[[messages.Job], list[messages.JobError]] = lambda _: [],
) -> Generator[messages.Job]:
    """Requests a job of the mount and follows it as ``run`` does. ``export`` is called with each report and returns
    what failed of what it did with it."""
    socket = messages.socket_path(runtime_dir, mountpoint)
    job = cast(messages.Job, client.ask(socket, "POST", f"{messages.API}/{kind}", _ASK_SECONDS, body))
    merger = JobMerger(job)
    errors: list[messages.JobError] = []
    try:
        while True:
            report = merger.merge(job)
            errors += export(report)
            report = {**report, "target": target, "errors": [*job["errors"], *errors]}
            if errors and job["state"] == "done":
                report["state"] = "failed"
            yield report
            if job["state"] != "running":
                return
            time.sleep(interval)
            job = _next_report(socket, mountpoint, merger, runtime_dir)
    except BaseException:
        with contextlib.suppress(HffsError):
            client.ask(socket, "DELETE", f"{messages.API}/jobs/{job['id']}", _ASK_SECONDS)
        raise


class JobMerger:
    """Merges the reports of successive daemons of a mount into those of one job: each daemon counts from 0, and ends
    once more at once the files that had ended before."""

    def __init__(self, first: messages.Job) -> None:
        self._first = first
        self.last = first
        self._fetched = 0  # by earlier daemons
        self._finished: set[str] = set()

    def is_of_another_daemon(self, job: messages.Job) -> bool:
        return job["started_at"] != self.last["started_at"]

    def merge(self, job: messages.Job) -> messages.Job:
        if self.is_of_another_daemon(job):
            self._fetched += self.last["bytes_fetched"]
        self.last = job
        finished = [file for file in job["finished"] if file["path"] not in self._finished]
        self._finished.update(file["path"] for file in finished)
        fetched = self._fetched + job["bytes_fetched"]
        return {**job, "started_at": self._first["started_at"], "finished": finished, "bytes_fetched": fetched}


def _next_report(socket: str, mountpoint: str, merger: JobMerger, runtime_dir: str) -> messages.Job:
    """The job as it is now. Waits where its daemon has just died, until another one resumes the job."""
    deadline = time.monotonic() + _RESTART_SECONDS
    since, number = merger.last["ended"], merger.last["id"]
    while True:
        try:
            path = f"{messages.API}/jobs/{number}?since={since}"
            job = cast(messages.Job, client.ask(socket, "GET", path, _ASK_SECONDS))
        except (MountNotFound, client.Refused) as error:
            if isinstance(error, client.Refused) and error.exit_code != NotFound.exit_code:
                raise
            if time.monotonic() >= deadline or not _is_known(mountpoint, runtime_dir):
                doing = "hydrated" if merger.last["kind"] == "hydrate" else "verified"
                raise MountFailed(
                    f"the mount at {mountpoint} ended while it was {doing}", "mount it and run this again"
                ) from error
            time.sleep(0.1)
            continue
        if since and merger.is_of_another_daemon(job):
            since = 0  # it has ended other files than the one before, in another order
        else:
            return job


def _is_known(mountpoint: str, runtime_dir: str) -> bool:
    """Whether the mount still exists, also while no daemon serves it."""
    try:
        return bool(mounts.find(mountpoint, runtime_dir))
    except MountNotFound:
        return False
