"""A mount's life: the rooms put together, started and stopped in order. One process, one mountpoint.

``run`` is called on the main thread by ``worker``, and by ``hffs mount --foreground`` where nobody supervises; it
returns when the mount is gone, or is left to the next worker. Everything that may fail before the mount answers is
raised as one of our errors. A worker that goes on where another stopped asks no server to come up, and never looks at
the mountpoint.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from .. import protocol
from ..cache import BlobStore, Index, Layout
from ..errors import AccessDenied, HffsError, MountFailed, MountNotFound, NotFound
from ..fuse import Binding, make_binding
from ..model import Commit, Entry
from ..policy import small_files
from ..remote import Auth, Catalog, Locator, Transport, parse_repo
from ..transfer import Content, Fetcher, Listings, Timers
from ..vfs import Filesystem, Patterns, Tree
from . import mountpoint, readahead, records
from .control import ControlServer, Occupied, Request
from .spec import MountSpec
from .status import Reporter
from .supervised import Handover, Link
from .supervisor import LEFT

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]

# For workers that wait for a server that does not answer: whoever unmounts waits for the process to end. What they were
# bringing is lost as at a kill, that is, asked for again; more than a block each it is not.
STOP_SECONDS: Final = 2.0


def run(spec: MountSpec, report: Report, link: Link | None = None) -> int:
    """Mounts as ``spec`` says, or goes on with what ``link`` was handed by a worker before; tells ``report`` once it
    answers; serves until unmounted. The exit code: LEFT when the mount is left to the next worker.

    Raises HffsError for whatever keeps the mount from coming up.
    """
    settings = spec.settings
    before = None if link is None else link.handover
    where = spec.mountpoint if before else mountpoint.check(spec.mountpoint, settings.runtime_dir)
    _allow_many_files()
    with contextlib.ExitStack() as stack:
        layout = Layout(settings.cache_dir)
        layout.prepare()
        index = Index(layout.index)
        stack.callback(index.close)
        auth = Auth(settings.token_file)
        catalog = Catalog(settings.endpoint, auth)
        refused: AccessDenied | None = None
        if before is None:
            ref = parse_repo(spec.repo, type=spec.type, revision=spec.revision, subfolder=spec.subfolder)
            about = catalog.info(ref)
            commit, subfolder = about.commit, ref.subfolder
            refused = _refused(catalog, commit) if about.gated else None
            name = str(replace(ref, id=commit.id))
            listings = _listings(catalog, index, commit, subfolder)
            log.info("event=resolved repo=%s revision=%s commit=%s", commit.id, commit.revision, commit.sha)
        else:
            commit, subfolder, name = before.commit, before.subfolder, before.commit.id
            listings = Listings(catalog, index, commit, root=subfolder)
            listings.restore()

        store = BlobStore(layout)
        stack.callback(store.close)
        transport = Transport(Locator(auth), auth)
        timers = Timers()
        timers.start()
        stack.callback(timers.stop)
        fetcher = Fetcher(store, transport, timers, workers=settings.workers, fetch_size=settings.fetch_size)
        fetcher.start()
        stack.callback(fetcher.stop, STOP_SECONDS)
        stack.callback(transport.close)  # first of all: a worker that waits for a byte is let go at once

        content = Content(listings, store, fetcher, read_timeout=settings.read_timeout)
        tree = Tree(content, Patterns(settings.include, settings.exclude))
        filesystem = Filesystem(tree, content)
        stack.callback(filesystem.release_all)
        binding = make_binding(
            settings.binding,
            filesystem,
            where,
            device=f"hffs:{commit.type.prefix}{commit.id}",
            allow_other=settings.allow_other,
            journal=None if link is None else protocol.journal_path(settings.runtime_dir, where),
            resumption=None if link is None else link.resumption(),
        )

        reporter = Reporter(spec, where, binding, content, tree, filesystem, fetcher, store, catalog, transport, link)
        control = ControlServer(
            protocol.socket_path(settings.runtime_dir, where),
            {
                ("GET", f"{protocol.API}/status"): lambda _: reporter.status(),
                ("GET", f"{protocol.API}/files"): reporter.files,
                ("GET", "/healthz"): lambda _: {"state": reporter.state},
                ("POST", f"{protocol.API}/unmount"): lambda request: _unmount(where, request, fetcher),
                ("POST", f"{protocol.API}/restart"): lambda _: _restart(where, link),
            },
        )

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
            warning = f"{refused.what}, its files cannot be read yet: {refused.remedy}" if refused else ""
            report({"ready": True, "pid": reporter.pid, "commit": commit.sha, "repo": name, "warning": warning})
            event = "mounted" if before is None else "resumed"
            log.info("event=%s mountpoint=%s repo=%s commit=%s", event, where, commit.id, commit.sha)
            if settings.prefetch == "small" and refused is None:
                _prefetch_small(content, tree, commit)

        def ended() -> None:
            """What the next worker goes on with stays where it is."""
            left = link is not None and link.left
            control.stop(keep=left)
            if link is not None:
                link.close()
            if not left:
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
        if link is not None and link.left:
            log.info("event=left mountpoint=%s", where)
            return LEFT
        log.info("event=unmounted mountpoint=%s", where)
        return 0 if ready.is_set() else 1


def _hand_over(
    link: Link, binding: Binding, commit: Commit, subfolder: str, reporter: Reporter, control: ControlServer
) -> None:
    connection = binding.connection
    if connection is None or not connection.may_be_resumed:
        log.info("event=unsupervised why=this kernel cannot send requests again (Linux 6.9 is the first)")
        return
    handover = Handover(connection, commit, subfolder, reporter.started, reporter.started_at)
    link.hand_over(handover, control.fileno())


def _refused(catalog: Catalog, commit: Commit) -> AccessDenied | None:
    """Why the files of a gated repo may not be read. Its listing is public, and access may be granted while it is
    mounted; but who mounts it is told at once, not only by EACCES. Whatever else is wrong, the first read will tell."""
    try:
        # In nearly every repo; and who has no access is refused before the Hub looks whether there is such a file.
        catalog.complete_size(commit, Entry(".gitattributes", "file"))
    except AccessDenied as refused:
        return refused
    except HffsError as error:
        log.debug("event=access-not-known error=%s", error)
    return None


def _listings(catalog: Catalog, index: Index, commit: Commit, subfolder: str) -> Listings:
    listings = Listings(catalog, index, commit, root=subfolder)
    try:
        listings.load()
    except NotFound:
        if not subfolder:
            raise
        at = "" if commit.revision == "main" else f"@{commit.revision}"
        name = f"{commit.type.prefix}{commit.id}{at}"
        if any(entry.kind == "file" for entry in catalog.lookup(commit, [subfolder])):
            above = subfolder.rpartition("/")[0]
            raise NotFound(
                f"{subfolder!r} of {name} is a file, not a folder",
                f"mount {f'{name}/{above}' if above else name}",
            ) from None
        raise NotFound(f"{name} has no folder {subfolder!r}", f"see hffs ls {name}") from None
    return listings


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


def _restart(where: str, link: Link | None) -> dict[str, object]:
    if link is None:
        raise MountFailed("only a mount of the kernel binding can be restarted", "unmount it and mount it again")
    link.ask_restart()
    return {"restarting": where}


def _allow_many_files() -> None:
    """An open blob takes three descriptors and a small-file prefetch opens up to 256 blobs; the soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
