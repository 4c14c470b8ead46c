"""A mount's life: the rooms put together, started and stopped in order. One process, one mountpoint.

``run`` is called on the main thread by ``worker``, and by ``hffs mount --foreground`` where nobody supervises; it
returns when the mount is gone, or is left to the next worker. Everything that may fail before the mount answers is
raised as one of our errors. A worker that goes on where another stopped asks no server to come up, and never looks at
the mountpoint.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..config import Settings
from ..control import messages, mount_records
from ..control.server import ControlServer, SocketInUse
from ..engine import session
from ..engine.sources import hub_source
from ..errors import MountFailed, MountNotFound
from ..fuse import Binding, make_binding
from ..model import Commit, RepoRef
from ..sources.hub.repo_id import parse_repo
from ..system import bdi_readahead, mountpoint
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

# So long what a mount does in the background waits for another token where one had worked: over night. Then it fails,
# and says why.
LAPSE_SECONDS = 12 * 3600.0

Report = Callable[[Mapping[str, Any]], None]


def run(
    spec: MountSpec, report: Report, link: SupervisorLink | None = None, manager: ServiceManager | None = None
) -> int:
    """Mounts as ``spec`` says, or goes on with what ``link`` was handed by a worker before; tells ``report`` once it
    answers, and ``manager``, of services, from then on; serves until unmounted. The exit code: LEFT when the mount is
    left to the next worker.

    Raises HffsError for whatever keeps the mount from coming up.
    """
    settings = _apart(spec)
    before = None if link is None else link.handover
    where = spec.mountpoint if before else mountpoint.check(spec.mountpoint, settings.runtime_dir)
    with contextlib.ExitStack() as stack:
        hub = session.open_context(settings, stack, hub_source(settings, lapse_seconds=LAPSE_SECONDS))
        ref = parse_repo(spec.repo, type=spec.type, revision=spec.revision, subfolder=spec.subfolder)
        found = session.resolve(hub, ref) if before is None else _as_before(hub, before)
        commit, subfolder, listings, name = found.commit, found.subfolder, found.listings, found.name
        parts = session.start(hub, listings, settings, stack)
        fetcher = parts.fetcher
        view = RepoView(parts.content, Patterns(settings.include, settings.exclude))
        filesystem = Filesystem(view)
        stack.callback(filesystem.release_all)
        binding = make_binding(
            settings.binding,
            filesystem,
            where,
            device=spec.source or spec.repo,
            allow_other=settings.allow_other,
            journal=None if link is None else messages.journal_path(settings.runtime_dir, where),
            resumption=None if link is None else link.resumption(),
        )

        jobs = Jobs(
            messages.jobs_path(settings.runtime_dir, where),
            where,
            view,
            fetcher,
            hub.layout,
            settings.big_file,
            refused=lambda: str(hub.source.access.refused or ""),
        )
        prefetch = Prefetch(view, hub.source.access)
        stack.callback(prefetch.stop)
        reporter = Reporter(spec, where, binding, parts, filesystem, hub, jobs, link)
        feed = Feed(reporter.progress)
        keeper = FileRoutes(view, parts.store, fetcher)
        answers = ControlRoutes(spec, where, commit.sha, ref, hub, fetcher, reporter, jobs, keeper, feed, link)
        control = ControlServer(
            messages.socket_path(settings.runtime_dir, where),
            answers.routes(),
        )

        teller = StatusNotifier(where, reporter.summary, manager)
        ready = threading.Event()

        def on_ready() -> None:
            ready.set()
            if before is None and link is not None:
                _hand_over(link, binding, commit, subfolder, reporter, control)
            if link is not None:
                link.listen(binding.leave)
            reporter.state = "serving"
            reporter.read_ahead = bdi_readahead.raise_to(where)
            mount_records.write(settings.runtime_dir, reporter.record())
            said = {"pid": reporter.pid, "commit": commit.sha, "repo": name, "warning": _warning(found)}
            report({"ready": True, **said})
            teller.start()
            if before is None:
                log.info("event=mounted mountpoint=%s repo=%s commit=%s", where, commit.id, commit.sha)
            else:
                log.info("event=resumed mountpoint=%s repo=%s commit=%s", where, commit.id, commit.sha)
            if before is not None:
                jobs.resume()
            elif settings.prefetch != "none" and found.refused is None:
                _when_reached(hub, ref, prefetch.begin)
            else:
                _when_reached(hub, ref, lambda: None)

        def ended() -> None:
            """What the next worker goes on with stays where it is."""
            left = link is not None and link.left
            teller.stop()
            hub.connectivity.stop()
            control.stop(keep=left)
            logging.getLogger("hffs").removeHandler(feed)
            feed.close()
            jobs.stop()
            if link is not None:
                link.close()
            if not left:
                jobs.forget()
                mount_records.remove(settings.runtime_dir, where)

        _listen(control, None if link is None else link.listener, where)
        stack.callback(ended)
        if before is None:
            jobs.forget()
        logging.getLogger("hffs").addHandler(feed)
        try:
            binding.serve(on_ready, lambda: _told_to_end(where))
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # it is ending; what is left to tidy up is short
            if manager is not None and link is None:  # a supervisor says so itself, and earlier
                manager.send("stopping")
        if link is not None and link.left:
            log.info("event=left mountpoint=%s", where)
            return LEFT
        log.info("event=unmounted mountpoint=%s", where)
        return 0 if ready.is_set() else 1


def _as_before(hub: session.HubContext, before: Handover) -> session.Resolved:
    """What the worker before us showed; asks no server."""
    listings = hub.listings(before.commit, before.subfolder)
    listings.restore()
    hub.source.access.assume_granted(before.commit)
    return session.Resolved(before.commit, before.subfolder, listings, before.commit.id, None)


def _listen(control: ControlServer, listener: socket.socket | None, where: str) -> None:
    try:
        control.start(listener)
    except SocketInUse:
        raise MountFailed(
            f"another hffs has just begun to mount at {where}", "hffs status shows it, or name another directory"
        ) from None


def _warning(found: session.Resolved) -> str:
    refused = found.refused
    return f"{refused.what}, its files cannot be read yet: {refused.remedy}" if refused else found.warning


def _when_reached(hub: session.HubContext, ref: RepoRef, act: Callable[[], None]) -> None:
    """Now where the Hub answers; else once it does, which is looked for; never where it is not to be asked."""
    if not hub.connectivity.offline:
        act()
    elif not hub.connectivity.disabled:
        hub.connectivity.probe(lambda: session.refresh(hub, ref), act)


def _apart(spec: MountSpec) -> Settings:
    """The settings without a Hugging Face cache below the mountpoint: looking there, a daemon would wait for itself."""
    settings = spec.settings
    inside = f"{settings.hf_cache}/".startswith(f"{spec.mountpoint}/")
    return replace(settings, hf_cache="") if inside else settings


def _hand_over(
    link: SupervisorLink, binding: Binding, commit: Commit, subfolder: str, reporter: Reporter, control: ControlServer
) -> None:
    connection = binding.connection
    if connection is None or not connection.may_be_resumed:
        log.info("event=unsupervised why=%s", "this kernel cannot send requests again (Linux 6.9 is the first)")
        return
    handover = Handover(connection, commit, subfolder, reporter.started, reporter.started_at)
    link.hand_over(handover, control.fileno())


def _told_to_end(where: str) -> None:
    with contextlib.suppress(MountNotFound):  # told twice, or somebody took it off already: it is ending
        mountpoint.detach(where, lazy=True)
