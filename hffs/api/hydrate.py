"""Hydrating: bringing a repo to this machine whole, through a mount that shows it or without one.

Used by programs (``hffs.hydrate``, ``Mount.hydrate``) and by ``hffs hydrate``. A target that is a path is a mount's:
its daemon does the work. Any other target is a repo, and the work is done in this process. One thread at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ..config import Settings
from ..control.messages import Job, JobError
from ..errors import HffsError, NotFound, UsageError
from ..model import RepoType
from . import jobs, mounts
from .jobs import JobFailed, Progress
from .options import settings_from

if TYPE_CHECKING:
    from ..cache import StoredBlob
    from ..engine.jobs import RunningJob
    from ..model import Commit, RemoteFile

__all__ = ["Hydrated", "HydrationFailed", "Progress", "follow", "hydrate"]
_MOST_NAMED: Final = 5  # missing files in an error's one line


@dataclass(frozen=True, slots=True)
class Hydrated:
    """What a hydration came to: bytes in all, and those fetched for it."""

    files: int
    bytes_total: int
    bytes_fetched: int


class HydrationFailed(JobFailed):
    """Not all files could be fetched or exported; ``errors`` names each."""


def hydrate(
    target: str,
    *,
    to: str | os.PathLike[str] | None = None,
    to_hf_cache: bool = False,
    force: bool = False,
    progress: Callable[[Progress], None] | None = None,
    type: str | None = None,  # noqa: A002 - the word of the command line and of huggingface_hub
    revision: str | None = None,
    subfolder: str | None = None,
    **options: Any,
) -> Hydrated:
    """Fetches all files of a repo or mount, or those selected by ``include``/``exclude``, to the local disk, verified.

    ``to`` also exports plain files to a folder; ``to_hf_cache`` exports a repo to huggingface_hub's cache; ``force``
    fetches anew what is local; ``progress`` is called for each file that moved, and for the whole (``file`` empty),
    four times a second. Raises HydrationFailed, Cancelled, and what keeps it from starting.
    """
    reports = follow(
        target, type=type, revision=revision, subfolder=subfolder, to=None if to is None else os.fspath(to),
        to_hf_cache=to_hf_cache, force=force, **options,
    )  # fmt: skip
    return wait(reports, progress)


def wait(reports: Generator[Job], progress: Callable[[Progress], None] | None) -> Hydrated:
    """Follows a hydration to its end. Raises HydrationFailed, Cancelled, and what keeps it from starting."""
    last = jobs.wait(reports, progress)
    if last["state"] != "done":
        raise HydrationFailed(last["errors"])
    return Hydrated(last["files_done"], last["bytes_total"], last["bytes_fetched"])


def follow(
    target: str,
    *,
    type: str | None = None,  # noqa: A002 - as in hydrate
    revision: str | None = None,
    subfolder: str | None = None,
    to: str | None = None,
    to_hf_cache: bool = False,
    force: bool = False,
    fetch: bool = True,
    resolved: Callable[[Commit], None] = lambda _: None,
    interval: float = jobs.INTERVAL,
    **options: Any,
) -> Generator[Job]:
    """Starts a hydration and gives a report each ``interval`` seconds, the last with a state other than ``running``.

    Of a repo, ``resolved`` is called with its commit, and without ``fetch`` it fails when a file is not local.

    Closing it before cancels the work: what was fetched stays. Raises as ``hydrate``.
    """
    settings = settings_from(options)
    if to_hf_cache and not settings.hf_cache:
        raise UsageError("there is no Hugging Face cache to export to", "name one with --hf-cache")
    if not mounts.is_path(target):
        names = {"type": type, "revision": revision, "subfolder": subfolder}
        with contextlib.ExitStack() as stack:
            job = _job(target, settings, names, stack, to, to_hf_cache, force, fetch, resolved)
            yield from jobs.run(job, interval)
        return
    for name, given in (("type", type), ("revision", revision), ("subfolder", subfolder)):
        if given is not None:
            raise UsageError(f"--{name} says what to hydrate, and so does {target}", "name a repo, or a path alone")
    where, path = mounts.place(target, settings.runtime_dir)
    status = mounts.status_of(where, settings.runtime_dir)[0] if to or to_hf_cache else None
    if to_hf_cache and status:
        name = f"{RepoType(status['type']).prefix}{status['repo']}"  # which uses the same cache
        raise UsageError("--to-hf-cache is for a repo, not for a mount", f"name {name}")
    body: dict[str, object] = {
        "path": path, "include": settings.include, "exclude": settings.exclude, "force": force,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        more = {"export": _exporter(status["cache"]["dir"], status["endpoint"], to, stack)} if to and status else {}
        yield from jobs.request(target, where, "hydrate", body, settings.runtime_dir, interval, **more)


def _job(
    repo: str,
    settings: Settings,
    names: dict[str, str | None],
    stack: contextlib.ExitStack,
    to: str | None,
    to_hf_cache: bool,
    force: bool,
    fetch: bool,
    resolved: Callable[[Commit], None],
) -> RunningJob:
    """A job in this process, whose session ends with the ``stack``. The arguments are those of ``follow``."""
    from ..cache import HubCache
    from ..engine import output_files, session
    from ..engine.hydrate import HydrationWork, matching_files
    from ..engine.jobs import RunningJob
    from ..engine.sources import hub_source
    from ..sources.hub.repo_id import parse_repo
    from ..transfer import Hydration
    from ..vfs import MountedSnapshot, Patterns

    patterns = Patterns(settings.include, settings.exclude)
    if not (log := logging.getLogger("hffs")).handlers:
        log.addHandler(logging.NullHandler())  # what is wrong is raised; without a handler, Python would print it too
    hub = session.open_context(settings, stack, hub_source(settings))
    found, only = session.resolve_path(hub, parse_repo(repo, **names))
    if found.refused is not None:
        raise found.refused
    # To fetch all of it anew adopts nothing. No readers compete with this process: hashing is what is waited for in
    # the end, as much as bytes.
    wanted = replace(settings, hf_cache="") if force else settings
    parts = session.start(hub, found.listings, wanted, stack, adopting=False, hash_nice=0)
    commit, snapshot = found.commit, MountedSnapshot(parts.content, patterns)
    resolved(commit)
    folder = None if to is None else output_files.folder(to)
    shown = HubCache(settings.hf_cache).repo(commit.type, commit.id) if to_hf_cache else None

    def path_of(file: RemoteFile) -> str:
        return snapshot.mount_path(file.path)

    def plan() -> Iterable[tuple[RemoteFile, int]]:
        chosen = snapshot.select(snapshot.mount_path(only) if only else "")
        assert chosen is not None  # the snapshot is shown at ""
        files = matching_files([chosen], lambda: hydration.cancelled)
        return files if fetch else _all_local(files, repo)

    def export(file: RemoteFile, stored: StoredBlob) -> None:
        if folder is not None:
            output_files.put(stored, folder, path_of(file))
        if shown is not None:
            output_files.export(stored, file, shown)

    def complete() -> None:
        if shown is not None:
            output_files.conclude(shown, commit)

    exporting = export if folder is not None or shown is not None else None
    hydration = Hydration(parts.fetcher, plan, big_file=settings.big_file, force=force, export_file=exporting)
    return RunningJob(HydrationWork(hydration, parts.fetcher, path_of, complete=complete), repo, warning=found.warning)


def _all_local(files: Iterable[tuple[RemoteFile, int]], repo: str) -> list[tuple[RemoteFile, int]]:
    """Raises NotFound when any is missing."""
    every = list(files)
    missing = [file.path for file, local in every if local < file.blob.size]
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        names = ", ".join(missing[:_MOST_NAMED])
        raise NotFound(f"not all of {repo} is on this machine: {names}{more} missing", f"hffs hydrate {repo}")
    return every


def _exporter(cache_dir: str, endpoint: str, to: str, stack: contextlib.ExitStack) -> Callable[[Job], list[JobError]]:
    """Exports the files that have just become whole in a mount's cache, by this process; returns what failed."""
    from ..cache import BlobStore, Layout
    from ..engine import output_files
    from ..engine.jobs import job_error
    from ..model import Blob, Entry

    store = BlobStore(Layout(cache_dir))
    stack.callback(store.close)
    folder = output_files.folder(to)

    def export(job: Job) -> list[JobError]:
        errors: list[JobError] = []
        for file in job["finished"]:
            if file["state"] == "done" and file["etag"] is not None and file["size"] is not None:
                try:
                    entry = Entry(file["path"], "file", file["size"], file["etag"], lfs=len(file["etag"]) == 64)
                    # With its digest, by which a verified copy from another server is found, as the daemon found it.
                    stored = store.open(Blob(file["etag"], file["size"], endpoint, entry.digest()))
                    with contextlib.closing(stored):
                        output_files.put(stored, folder, file["path"])
                except HffsError as error:
                    errors.append(job_error(file["path"], error))
        return errors

    return export
