"""Work that somebody asked a mount for and watches: hydrations and verifications by id, told as ``messages.Job``, gone
on with by the next worker when this one dies.

The control socket's routes call this, on any thread. What is asked for lies in a small file beside the socket until the
job has ended, so that a worker started behind a killed one finds it; what was fetched is in the cache anyway.
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
from ..engine.hydrate import hydration_report, matching_files, relative_path
from ..engine.verify import Verification
from ..engine.verify_cache import CacheSource, of_mount
from ..errors import NotFound, UsageError
from ..model import RemoteFile
from ..transfer import NICE, CommitFiles, Fetcher, Hydration
from ..vfs import Patterns, Tree
from .job_requests import JobRequest, kept, wish_of

log = logging.getLogger(__name__)

# Ended jobs that can still be asked about; whoever started one asks within the second.
REMEMBERED: Final = 16
STOP_SECONDS: Final = 5.0


@dataclass(slots=True)
class Running:
    wish: JobRequest
    work: Hydration | Verification
    started_at: float
    fetched_before: int
    ended_at: float | None = None


class Jobs:
    """The jobs of one mount. ``path`` is where those that have not ended are kept."""

    def __init__(
        self,
        path: str,
        where: str,
        content: CommitFiles,
        tree: Tree,
        fetcher: Fetcher,
        layout: Layout,
        big_file: int,
        *,
        refused: Callable[[], str] = lambda: "",
    ) -> None:
        """``refused`` tells why the Hub does not let us in, where it does not."""
        self._path = path
        self._where = where
        self._content = content
        self._tree = tree
        self._fetcher = fetcher
        self._layout = layout
        self._big_file = big_file
        self._refused = refused
        self._writing = threading.Lock()  # taken before the other: the newest is written last
        self._lock = threading.Lock()
        # guarded by _lock
        self._jobs: dict[str, Running] = {}
        self._left = False  # what is on disk is the next worker's

    def resume(self) -> None:
        """Go on with what a worker before us was asked for."""
        try:
            with open(self._path, encoding="utf-8") as file:
                wishes = kept(json.load(file), time.time())
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as wrong:
            log.warning("event=jobs-lost error=%r", wrong)
            return
        for wish in wishes:
            self._start(wish)

    def hydrate(self, request: Request) -> messages.Job:
        """``POST /v1/hydrate``: ``path``, ``include``, ``exclude``, ``force``, all optional. Raises UsageError."""
        return self._asked("hydrate", request)

    def verify(self, request: Request) -> messages.Job:
        """``POST /v1/verify``: ``path``, ``include``, ``exclude``, ``fix``, ``require``, all optional. Raises
        UsageError."""
        return self._asked("verify", request)

    def _asked(self, kind: Literal["hydrate", "verify"], request: Request) -> messages.Job:
        asked = request.json()
        try:
            wish = wish_of(id=secrets.token_hex(8), target=self._where, kind=kind, **asked)
        except TypeError:
            raise UsageError(f"not a wish to {kind}: {json.dumps(asked)[:200]}") from None
        return self._told(self._start(wish), 0)

    def get(self, request: Request) -> messages.Job:
        """``GET /v1/jobs/ID``. Raises NotFound."""
        since = request.query.get("since", "0")
        return self._told(self._find(request), int(since) if since.isdecimal() and len(since) < 10 else 0)

    def every(self) -> messages.JobList:
        """``GET /v1/jobs``: those that run and those that ended lately, the oldest first, without files that ended."""
        with self._lock:
            jobs = list(self._jobs.values())
        return {"jobs": [self._told(job, since=sys.maxsize) for job in jobs]}

    def cancel(self, request: Request) -> messages.Job:
        """``DELETE /v1/jobs/ID``: what was fetched is kept. Raises NotFound."""
        job = self._find(request)
        job.work.cancel()
        job.work.join(STOP_SECONDS)
        return self._told(job, 0)

    def stop(self) -> None:
        """Ends all; those that were running are still kept for a next worker."""
        with self._lock:
            self._left = True
            jobs = list(self._jobs.values())
        for job in jobs:
            job.work.cancel()
        ends = time.monotonic() + STOP_SECONDS
        for job in jobs:
            job.work.join(max(0.0, ends - time.monotonic()))

    def forget(self) -> None:
        """The mount ends for good; or begins, and what lies here is of one before it that could not end."""
        with self._writing:
            for path in (self._path, f"{self._path}.new"):
                with suppress(FileNotFoundError):
                    os.unlink(path)

    def hydration(self) -> messages.HydrationStatus:
        """All that runs, else the last that ended, as status tells it."""
        with self._lock:
            every = [job.work for job in self._jobs.values()]
        jobs = [work.snapshot() for work in every if isinstance(work, Hydration)]
        running = [each for each in jobs if each.state == "running"]
        counted = running or jobs[-1:]
        etas = [each.eta_s for each in running if each.eta_s is not None]
        return {
            "state": counted[-1].state if counted else "idle",
            "bytes_done": sum(each.bytes_done for each in counted),
            "bytes_total": sum(each.bytes_total for each in counted) if counted else None,
            "bytes_per_s": sum(each.bytes_per_s for each in counted),
            "eta_s": max(etas, default=None),
            "files_done": sum(each.files_done for each in counted),
            "files_total": sum(each.files_total for each in counted) if counted else None,
        }

    def _start(self, wish: JobRequest) -> Running:
        work = self._verification(wish) if wish.kind == "verify" else self._hydration(wish)
        job = Running(wish, work, time.time(), self._fetcher.bytes_fetched)
        with self._lock:
            over = [each for each, old in self._jobs.items() if old.work.state != "running"]
            for each in over[:-REMEMBERED]:
                del self._jobs[each]
            work.start()  # before it is known of: a thread that cannot be had leaves no job behind
            self._jobs[wish.id] = job
        self._keep()
        if wish.kind == "verify":
            log.info("event=verification-started id=%s path=%s", wish.id, wish.path or "/")
        else:
            log.info("event=hydration-started id=%s path=%s", wish.id, wish.path or "/")
        return job

    def _hydration(self, wish: JobRequest) -> Hydration:
        def plan() -> Iterator[tuple[RemoteFile, int]]:
            return matching_files(
                self._content,
                self._below(wish),
                self._wanted(wish),
                None if wish.force else lambda: hydration.cancelled,
            )

        hydration = Hydration(
            self._fetcher, plan, big_file=self._big_file, force=wish.force, ended=lambda: self._ended(wish.id)
        )
        return hydration

    def _verification(self, wish: JobRequest) -> Verification:
        root = self._content.root
        held = CacheSource(
            self._where,
            self._layout,
            lambda: of_mount(
                self._content,
                self._below(wish),
                self._wanted(wish),
                lambda path: relative_path(path, root),
                everything=bool(wish.require),
            ),
            wish.require,
            fetcher=lambda _: self._fetcher,
            dropped=self._fetcher.distrust.on_mismatch,
            big_file=self._big_file,
        )
        return Verification(held, fix=wish.fix, nice=NICE, ended=lambda: self._ended(wish.id))

    def _below(self, wish: JobRequest) -> str:
        return "/".join(part for part in (self._content.root, wish.path.strip("/")) if part)

    def _wanted(self, wish: JobRequest) -> Callable[[str], bool]:
        patterns = Patterns(wish.include, wish.exclude)
        return lambda path: self._tree.visible(path) and patterns.match(path)

    def _ended(self, name: str) -> None:
        with self._lock:
            job = self._jobs[name]
            job.ended_at = time.time()
        self._keep()
        if isinstance(job.work, Hydration):
            _tell_hydrated(name, job.work, job.ended_at - job.started_at)
        else:
            _tell_verified(name, job.work)

    def _keep(self) -> None:
        """On disk: what runs now, and what has ended of itself."""
        with self._writing:
            with self._lock:
                if self._left:
                    return
                left = [
                    {"wish": asdict(job.wish), "ended_at": job.ended_at}
                    for job in self._jobs.values()
                    if job.work.state != "cancelled"
                ]
            try:
                with open(f"{self._path}.new", "w", encoding="utf-8") as file:
                    json.dump(left, file)
                os.replace(f"{self._path}.new", self._path)
            except OSError as wrong:
                log.warning("event=jobs-not-kept error=%s", wrong)

    def _find(self, request: Request) -> Running:
        name = request.name
        with self._lock:
            job = self._jobs.get(name)
        if job is None:
            raise NotFound(f"there is no job {name!r}", "it may have ended long ago")
        return job

    def _told(self, job: Running, since: int) -> messages.Job:
        if isinstance(job.work, Verification):
            found = job.work.told(job.wish.id, job.wish.target, job.started_at, since)
            asks = any(each["state"] in ("waiting", "fetching") for each in found["active"])  # else it only reads
            return self._waits(found) if asks else found
        found = hydration_report(
            job.wish.id,
            job.wish.target,
            job.work,
            job.started_at,
            self._fetcher,
            job.fetched_before,
            self._content.root,
            since,
        )
        return self._waits(found)

    def _waits(self, found: messages.Job) -> messages.Job:
        """The same, with what it waits for where the Hub does not let us in."""
        if found["state"] == "running" and (why := self._refused()):
            found["waits"] = why
        return found


def _tell_hydrated(name: str, hydration: Hydration, seconds: float) -> None:
    now = hydration.snapshot()
    if now.state == "failed":
        # Each file that failed has its own WARNING; who asked for what cannot be done hears it.
        log.info("event=hydration-failed id=%s files=%d of=%d", name, now.files_done, now.files_total)
    elif now.state == "cancelled":
        log.info("event=hydration-cancelled id=%s bytes=%d of=%d", name, now.bytes_done, now.bytes_total)
    else:
        log.info(
            "event=hydration-done id=%s files=%d bytes=%d seconds=%.1f",
            name, now.files_done, now.bytes_total, seconds,
        )  # fmt: skip


def _tell_verified(name: str, verification: Verification) -> None:
    now = verification.told(name, "", 0.0, 0)
    damage = [each for each in now["findings"] if each["severity"] == "damage"]
    mended = sum(each["mended"] for each in damage)
    if now["state"] == "failed":
        log.info("event=verification-failed id=%s damage=%d mended=%d", name, len(damage), mended)
    elif now["state"] == "cancelled":
        log.info("event=verification-cancelled id=%s files=%d of=%d", name, now["files_done"], now["files_total"])
    else:
        log.info("event=verification-done id=%s files=%d mended=%d", name, now["files_done"], mended)
