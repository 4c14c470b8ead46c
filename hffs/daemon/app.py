"""A mount's life: its parts are made, started and stopped in order. One process, one mountpoint.

``run`` is called on the main thread by ``worker``, and by ``hffs mount --foreground`` without a supervisor; it returns
when the mount is gone, or is left to the next worker. Everything that can fail before the mount answers is raised as
one of our errors. A worker that takes over a mount needs no server to come up, and never accesses the mountpoint.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from ..config import Settings
from ..control import messages, mount_records
from ..control.server import ControlServer, SocketInUse
from ..engine import session
from ..engine.sources import hub_source
from ..errors import MountFailed, MountNotFound
from ..fuse import make_binding
from ..sources.hub.repo_id import parse_repo
from ..system import bdi_readahead, mount_table, mountpoint
from ..system.sd_notify import ServiceManager
from ..vfs import Filesystem, Patterns
from ..vfs.views import RepoView
from .events import Feed
from .file_routes import FileRoutes
from .jobs import Jobs
from .mount_spec import MountSpec
from .prefetch import Prefetch
from .routes import ControlRoutes
from .status import Reporter
from .supervisor import LEFT
from .supervisor_link import Handover, SupervisorLink
from .watchdog import StatusNotifier

log = logging.getLogger(__name__)

# Background work waits this long for a new token where an earlier one had worked: overnight. Then it fails with the
# reason.
LAPSE_SECONDS: Final = 12 * 3600.0

Report = Callable[[Mapping[str, Any]], None]


def run(
    spec: MountSpec, report: Report, link: SupervisorLink | None = None, manager: ServiceManager | None = None
) -> int:
    """Mounts as ``spec`` says, or takes over the mount that an earlier worker handed to ``link``; reports once the
    mount answers, and to ``manager`` from then on; serves until it is unmounted. Returns the exit code: LEFT when the
    mount is left to the next worker.

    Raises HffsError for whatever keeps the mount from coming up.
    """
    with contextlib.ExitStack() as stack:
        return _Mount(spec, report, link, manager, stack).serve(stack)


class _Mount:
    """The parts of one mount. Making one makes them, each after those it needs; what ``stack`` closes ends in the
    opposite order. ``serve`` starts, in this order, the control socket, the events and the binding; then ``_on_ready``
    runs; in the end ``_stop``."""

    def __init__(
        self,
        spec: MountSpec,
        report: Report,
        link: SupervisorLink | None,
        manager: ServiceManager | None,
        stack: contextlib.ExitStack,
    ) -> None:
        settings = self._settings = _settings(spec)
        self._report, self._link, self._manager = report, link, manager
        self._handover = None if link is None else link.handover  # of the worker whose mount this one takes over
        self._where = where = (
            spec.mountpoint if self._handover else mountpoint.check(spec.mountpoint, settings.runtime_dir)
        )
        self._ready = False

        hub = self._hub = session.open_context(settings, stack, hub_source(settings, lapse_seconds=LAPSE_SECONDS))
        ref = self._ref = parse_repo(spec.repo, type=spec.type, revision=spec.revision, subfolder=spec.subfolder)
        found = self._found = _restored(hub, self._handover) if self._handover else session.resolve(hub, ref)
        parts = session.start(hub, found.listings, settings, stack)

        view = RepoView(parts.content, Patterns(settings.include, settings.exclude))
        filesystem = Filesystem(view)
        stack.callback(filesystem.release_all)
        self._binding = make_binding(
            settings.binding,
            filesystem,
            where,
            device=spec.source or spec.repo,
            allow_other=settings.allow_other,
            journal=None if link is None else messages.journal_path(settings.runtime_dir, where),
            resumption=None if link is None else link.resumption(),
        )

        self._jobs = Jobs(
            messages.jobs_path(settings.runtime_dir, where),
            where,
            view,
            parts.fetcher,
            hub.layout,
            settings.big_file,
            refused=lambda: str(hub.source.access.refused or ""),
        )
        self._prefetch = Prefetch(view, hub.source.access)
        stack.callback(self._prefetch.stop)
        self._reporter = Reporter(spec, where, self._binding, parts, filesystem, hub, self._jobs, link)
        self._feed = Feed(self._reporter.progress)
        files = FileRoutes(view, parts.store, parts.fetcher)
        routes = ControlRoutes(
            spec, where, found.commit.sha, ref, hub, parts.fetcher, self._reporter, self._jobs, files, self._feed, link
        )
        self._control = ControlServer(messages.socket_path(settings.runtime_dir, where), routes.routes())
        self._notifier = StatusNotifier(where, self._reporter.summary, manager)

    def serve(self, stack: contextlib.ExitStack) -> int:
        self._listen()
        stack.callback(self._stop)
        if self._handover is None:
            self._jobs.forget()  # of an earlier mount that was killed
        logging.getLogger("hffs").addHandler(self._feed)
        try:
            self._binding.serve(self._on_ready, self._unmount)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # it is ending already, and what is left to do is short
            if self._manager is not None and self._link is None:  # a supervisor sends it itself, and earlier
                self._manager.send("stopping")
        if self._link is not None and self._link.left:
            log.info("event=left mountpoint=%s", self._where)
            return LEFT
        log.info("event=unmounted mountpoint=%s", self._where)
        return 0 if self._ready else 1

    def _listen(self) -> None:
        try:
            self._control.start(None if self._link is None else self._link.listener)
        except SocketInUse:
            raise MountFailed(
                f"another hffs has just begun to mount at {self._where}",
                "hffs status shows it, or name another directory",
            ) from None

    def _on_ready(self) -> None:
        """Runs once the mount answers, on the main thread."""
        self._ready = True
        link, found, settings = self._link, self._found, self._settings
        if link is not None:
            if self._handover is None:
                self._hand_over(link)
            link.listen(self._binding.leave)
        self._reporter.state = "serving"
        self._reporter.read_ahead = bdi_readahead.raise_to(self._where)
        mount_records.write(settings.runtime_dir, self._reporter.record())
        commit, refused = found.commit, found.refused
        warning = f"{refused.what}, its files cannot be read yet: {refused.remedy}" if refused else found.warning
        self._report(
            {"ready": True, "pid": self._reporter.pid, "commit": commit.sha, "repo": found.name, "warning": warning}
        )
        self._notifier.start()
        if self._handover is not None:
            log.info("event=resumed mountpoint=%s repo=%s commit=%s", self._where, commit.id, commit.sha)
            self._jobs.resume()
            return
        log.info("event=mounted mountpoint=%s repo=%s commit=%s", self._where, commit.id, commit.sha)
        fetch_ahead = settings.prefetch != "none" and refused is None
        self._once_reachable(self._prefetch.begin if fetch_ahead else lambda: None)

    def _hand_over(self, link: SupervisorLink) -> None:
        """Gives the supervisor what the next worker takes this mount over with, where the kernel permits that."""
        connection = self._binding.connection
        if connection is None or not connection.may_be_resumed:
            log.info("event=unsupervised why=%s", "this kernel cannot send requests again (Linux 6.9 is the first)")
            return
        found, reporter = self._found, self._reporter
        handover = Handover(connection, found.commit, found.subfolder, reporter.started, reporter.started_at)
        link.hand_over(handover, self._control.fileno())

    def _once_reachable(self, action: Callable[[], None]) -> None:
        """Runs ``action`` now where the Hub answers; else once it does, which is probed for; never when offline."""
        hub, ref = self._hub, self._ref
        if not hub.connectivity.offline:
            action()
        elif not hub.connectivity.disabled:
            hub.connectivity.probe(lambda: session.refresh(hub, ref), action)

    def _unmount(self) -> None:
        """On SIGTERM, SIGINT and SIGHUP."""
        with contextlib.suppress(MountNotFound):  # it is unmounted already: a second signal, or umount(8)
            mount_table.detach(self._where, lazy=True)

    def _stop(self) -> None:
        """Ends what talks to others first. What the next worker takes over stays."""
        left = self._link is not None and self._link.left
        self._notifier.stop()
        self._hub.connectivity.stop()
        self._control.stop(keep=left)
        logging.getLogger("hffs").removeHandler(self._feed)
        self._feed.close()
        self._jobs.stop()
        if self._link is not None:
            self._link.close()
        if not left:
            self._jobs.forget()
            mount_records.remove(self._settings.runtime_dir, self._where)


def _restored(hub: session.HubContext, handover: Handover) -> session.Resolved:
    """The commit that the earlier worker showed; sends no request."""
    listings = hub.listings(handover.commit, handover.subfolder)
    listings.restore()
    hub.source.access.assume_granted(handover.commit)
    return session.Resolved(handover.commit, handover.subfolder, listings, handover.commit.id, None)


def _settings(spec: MountSpec) -> Settings:
    """The settings without a Hugging Face cache below the mountpoint: reading there, a daemon would wait for itself."""
    settings = spec.settings
    inside = f"{settings.hf_cache}/".startswith(f"{spec.mountpoint}/")
    return replace(settings, hf_cache="") if inside else settings
