"""The routes of a mount's control socket: method and path to the part that answers. Described in docs/openapi.yaml.

Made by ``app`` from a mount's parts. Routes answer from memory and disk; the one that sends a request to the Hub runs
once at a time, so that the others have a thread whatever the Hub does.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from ..control import messages
from ..control.http import HttpError
from ..control.messages import API
from ..control.server import Request, Route
from ..engine import session
from ..errors import MountFailed, UsageError
from ..model import RepoRef
from ..system import mount_table
from ..transfer import Fetcher
from . import launcher
from .events import Feed
from .file_routes import FileRoutes
from .jobs import Jobs
from .mount_spec import MountSpec
from .status import Reporter
from .supervisor_link import SupervisorLink

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ControlRoutes:
    """The parts of one mount that answer; ``where`` is its mountpoint, ``commit`` the one it shows."""

    spec: MountSpec
    where: str
    commit: str
    ref: RepoRef
    hub: session.HubContext
    fetcher: Fetcher
    reporter: Reporter
    jobs: Jobs
    files: FileRoutes
    feed: Feed
    link: SupervisorLink | None
    _refreshing: threading.Lock = field(default_factory=threading.Lock)

    def routes(self) -> dict[tuple[str, str], Route]:
        return {
            ("GET", f"{API}/status"): lambda _: self.reporter.status(),
            ("GET", f"{API}/files"): self.files.files,
            ("GET", f"{API}/files/*/blocks"): self.files.blocks,
            ("POST", f"{API}/hydrate"): self.jobs.hydrate,
            ("POST", f"{API}/verify"): self.jobs.verify,
            ("GET", f"{API}/jobs"): lambda _: self.jobs.every(),
            ("GET", f"{API}/jobs/*"): self.jobs.get,
            ("DELETE", f"{API}/jobs/*"): self.jobs.cancel,
            ("POST", f"{API}/evict"): self.files.evict,
            ("POST", f"{API}/pin"): self.files.pin,
            ("POST", f"{API}/refresh"): lambda _: self.refresh(),
            ("POST", f"{API}/bandwidth"): self.bandwidth,
            ("POST", f"{API}/unmount"): self.unmount,
            ("POST", f"{API}/restart"): lambda _: self.restart(),
            ("GET", f"{API}/events"): self.feed.subscribe,
            ("GET", "/metrics"): lambda _: self.metrics(),
            ("GET", "/healthz"): lambda _: {"state": self.reporter.state},
        }

    def refresh(self) -> messages.RefreshReply:
        """Resolves the revision again and records its commit for the next mount of it: this mount keeps its commit.
        Raises what a request to the Hub raises."""
        if not self._refreshing.acquire(blocking=False):
            raise HttpError(409, "a refresh is running already", {"Retry-After": "5"})
        try:
            self.hub.connectivity.end_rest()
            newest = session.refresh(self.hub, self.ref)
        finally:
            self._refreshing.release()
        log.info("event=refreshed revision=%s newest=%s commit=%s", newest.revision, newest.sha, self.commit)
        return {
            "revision": newest.revision,
            "commit": self.commit,
            "newest": newest.sha,
            "moved": newest.sha != self.commit,
        }

    def bandwidth(self, request: Request) -> dict[str, object]:
        """``{"bytes_per_s": N}``: a new limit; null: no limit."""
        rate = request.json().get("bytes_per_s")
        if rate is not None and (not isinstance(rate, int) or isinstance(rate, bool) or rate <= 0):
            raise UsageError("bytes_per_s must be a number of at least 1, or null for no limit")
        self.fetcher.throttle.set_rate(rate)
        return {"bytes_per_s": rate}

    def unmount(self, request: Request) -> dict[str, object]:
        lazy = bool(request.json().get("lazy", False))
        mount_table.detach(self.where, lazy=lazy)
        if not lazy:  # no file is open; but a killed process may have left a read behind, and libfuse waits for it
            self.fetcher.cancel_waiters()
        return {"unmounted": self.where}

    def restart(self) -> dict[str, object]:
        """Has this worker replaced by the installed version, if that one can start; else raises MountFailed."""
        if self.link is None:
            raise MountFailed("only a mount of the kernel binding can be restarted", "unmount it and mount it again")
        if self.link.supervisor() is not None:
            launcher.preflight(self.spec, self.link.handover_json)
        self.link.request_restart()
        return {"restarting": self.where}

    def metrics(self) -> Any:
        from . import metrics  # takes 20 ms and 3 MiB, which only a mount that is scraped pays

        return metrics.text(self.reporter.status(), self.feed.problems)
