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
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .. import protocol
from ..config import Settings
from ..errors import HffsError, MountFailed, MountNotFound, UsageError
from ..fuse import Binding, make_binding
from ..model import Commit, RepoRef
from ..policy import small_files
from ..remote import parse_repo
from ..transfer import Content, Fetcher
from ..vfs import Filesystem, Patterns, Tree
from . import background, engine, mountpoint, readahead, records
from .control import ControlServer, Occupied, Request
from .jobs import Jobs
from .notify import Manager
from .spec import MountSpec
from .status import Reporter
from .supervised import Handover, Link
from .supervisor import LEFT
from .telling import Teller

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]


def run(spec: MountSpec, report: Report, link: Link | None = None, manager: Manager | None = None) -> int:
    """Mounts as ``spec`` says, or goes on with what ``link`` was handed by a worker before; tells ``report`` once it
    answers, and ``manager``, of services, from then on; serves until unmounted. The exit code: LEFT when the mount is
    left to the next worker.

    Raises HffsError for whatever keeps the mount from coming up.
    """
    settings = _apart(spec)
    before = None if link is None else link.handover
    where = spec.mountpoint if before else mountpoint.check(spec.mountpoint, settings.runtime_dir)
    with contextlib.ExitStack() as stack:
        hub = engine.open_hub(settings, stack)
        ref = parse_repo(spec.repo, type=spec.type, revision=spec.revision, subfolder=spec.subfolder)
        found = engine.resolve(hub, ref) if before is None else _as_before(hub, before)
        commit, subfolder, listings, name = found.commit, found.subfolder, found.listings, found.name
        parts = engine.start(hub, listings, settings, stack)
        content, fetcher = parts.content, parts.fetcher
        tree = Tree(content, Patterns(settings.include, settings.exclude))
        filesystem = Filesystem(tree, content)
        stack.callback(filesystem.release_all)
        binding = make_binding(
            settings.binding,
            filesystem,
            where,
            device=spec.source or spec.repo,
            allow_other=settings.allow_other,
            journal=None if link is None else protocol.journal_path(settings.runtime_dir, where),
            resumption=None if link is None else link.resumption(),
        )

        kept = protocol.jobs_path(settings.runtime_dir, where)
        jobs = Jobs(kept, where, content, tree, fetcher, hub.layout, settings.big_file)
        reporter = Reporter(spec, where, binding, parts, tree, filesystem, hub, jobs, link)
        control = ControlServer(
            protocol.socket_path(settings.runtime_dir, where),
            {
                ("GET", f"{protocol.API}/status"): lambda _: reporter.status(),
                ("GET", f"{protocol.API}/files"): reporter.files,
                ("GET", "/healthz"): lambda _: {"state": reporter.state},
                ("POST", f"{protocol.API}/hydrate"): jobs.hydrate,
                ("POST", f"{protocol.API}/verify"): jobs.verify,
                ("GET", f"{protocol.API}/jobs/*"): jobs.get,
                ("DELETE", f"{protocol.API}/jobs/*"): jobs.cancel,
                ("POST", f"{protocol.API}/bandwidth"): lambda request: _bandwidth(request, fetcher),
                ("POST", f"{protocol.API}/unmount"): lambda request: _unmount(where, request, fetcher),
                ("POST", f"{protocol.API}/restart"): lambda _: _restart(spec, link),
            },
        )

        teller = Teller(where, reporter.summary, manager)
        ready = threading.Event()

        def on_ready() -> None:
            ready.set()
            if before is None and link is not None:
                _hand_over(link, binding, commit, subfolder, reporter, control)
            if link is not None:
                link.listen(binding.leave)
            reporter.state = "serving"
            reporter.read_ahead = readahead.raise_to(where)
            records.write(settings.runtime_dir, reporter.record())
            said = {"pid": reporter.pid, "commit": commit.sha, "repo": name, "warning": _warning(found)}
            report({"ready": True, **said})
            teller.start()
            event = "mounted" if before is None else "resumed"
            log.info("event=%s mountpoint=%s repo=%s commit=%s", event, where, commit.id, commit.sha)
            if before is not None:
                jobs.resume()
            elif settings.prefetch != "none" and found.refused is None:
                _when_reached(hub, ref, lambda: _prefetch_small(content, tree, commit))
            else:
                _when_reached(hub, ref, lambda: None)

        def ended() -> None:
            """What the next worker goes on with stays where it is."""
            left = link is not None and link.left
            teller.stop()
            hub.reach.stop()
            control.stop(keep=left)
            jobs.stop()
            if link is not None:
                link.close()
            if not left:
                jobs.forget()
                records.remove(settings.runtime_dir, where)

        try:
            control.start(None if link is None else link.listener)
        except Occupied:
            raise MountFailed(
                f"another hffs has just begun to mount at {where}", "hffs status shows it, or name another directory"
            ) from None
        stack.callback(ended)
        try:
            binding.serve(on_ready, lambda: _told_to_end(where))
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # it is ending; what is left to tidy up is short
            if manager is not None and link is None:  # a supervisor says so itself, and earlier
                manager.say("stopping")
        if link is not None and link.left:
            log.info("event=left mountpoint=%s", where)
            return LEFT
        log.info("event=unmounted mountpoint=%s", where)
        return 0 if ready.is_set() else 1


def _as_before(hub: engine.Hub, before: Handover) -> engine.Resolved:
    """What the worker before us showed; asks no server."""
    listings = hub.listings(before.commit, before.subfolder)
    listings.restore()
    return engine.Resolved(before.commit, before.subfolder, listings, before.commit.id, None)


def _warning(found: engine.Resolved) -> str:
    refused = found.refused
    return f"{refused.what}, its files cannot be read yet: {refused.remedy}" if refused else found.warning


def _when_reached(hub: engine.Hub, ref: RepoRef, act: Callable[[], None]) -> None:
    """Now where the Hub answers; else once it does, which is looked for; never where it is not to be asked."""
    if not hub.reach.offline:
        act()
    elif not hub.reach.switched:
        hub.reach.look_for(lambda: engine.ask_again(hub, ref), act)


def _apart(spec: MountSpec) -> Settings:
    """The settings without a Hugging Face cache below the mountpoint: looking there, a daemon would wait for itself."""
    settings = spec.settings
    inside = f"{settings.hf_cache}/".startswith(f"{spec.mountpoint}/")
    return replace(settings, hf_cache="") if inside else settings


def _hand_over(
    link: Link, binding: Binding, commit: Commit, subfolder: str, reporter: Reporter, control: ControlServer
) -> None:
    connection = binding.connection
    if connection is None or not connection.may_be_resumed:
        log.info("event=unsupervised why=this kernel cannot send requests again (Linux 6.9 is the first)")
        return
    handover = Handover(connection, commit, subfolder, reporter.started, reporter.started_at)
    link.hand_over(handover, control.fileno())


def _prefetch_small(content: Content, tree: Tree, commit: Commit) -> None:
    """Only what the first page of the listing told: a prefetch must not list a repo of a million files."""
    visible = [entry for entry in content.listings.files() if tree.visible(entry.path)]
    for entry in small_files(visible, repo_type=commit.type):
        try:
            content.prefetch(entry)
        except HffsError as error:
            log.warning("event=prefetch-failed path=%s error=%s", entry.path, error)
            return


def _told_to_end(where: str) -> None:
    with contextlib.suppress(MountNotFound):  # told twice, or somebody took it off already: it is ending
        mountpoint.detach(where, lazy=True)


def _unmount(where: str, request: Request, fetcher: Fetcher) -> dict[str, object]:
    lazy = bool(request.json().get("lazy", False))
    mountpoint.detach(where, lazy=lazy)
    if not lazy:  # no file is open; but a process that was killed may have left a read behind, and libfuse waits for it
        fetcher.dismiss()
    return {"unmounted": where}


def _bandwidth(request: Request, fetcher: Fetcher) -> dict[str, object]:
    """``{"bytes_per_s": N}``: from now on; null: no limit."""
    rate = request.json().get("bytes_per_s")
    if rate is not None and (not isinstance(rate, int) or isinstance(rate, bool) or rate <= 0):
        raise UsageError("bytes_per_s is a number of at least 1, or null for no limit")
    fetcher.throttle.set_rate(rate)
    return {"bytes_per_s": rate}


def _restart(spec: MountSpec, link: Link | None) -> dict[str, object]:
    """Replaced by the version that is installed now, when that one can start; else this worker stays."""
    if link is None:
        raise MountFailed("only a mount of the kernel binding can be restarted", "unmount it and mount it again")
    if link.supervisor() is not None:
        background.rehearse(spec, link.handed)
    link.ask_restart()
    return {"restarting": spec.mountpoint}
