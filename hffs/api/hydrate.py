"""Bringing a repo wholly to this machine: through a mount that shows it, or without one.

Used by programs (``hffs.hydrate``, ``Mount.hydrate``) and by ``hffs hydrate``, which all follow the same snapshots
(``messages.Job``). A target that is a path is a mount's: its daemon does the work, and another one goes on with it when
that one dies. Any other target is a repo, and the work is done in this process. One thread at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from ..config import Settings
from ..control import client, messages
from ..control.messages import Job, JobError
from ..errors import Cancelled, HffsError, MountFailed, MountNotFound, NotFound, UsageError, worst
from ..model import RepoType
from . import mounts
from .options import settings_from

if TYPE_CHECKING:
    from ..cache import HubRepo, StoredBlob
    from ..model import Commit, RemoteFile
    from ..transfer import Lay

_ASK_SECONDS: Final = 10.0
# A daemon that died is started again within a second or two; on a busy machine and after three deaths, later.
_GONE_SECONDS: Final = 30.0
_NAMED: Final = 5  # files that are missing, in an error's one line


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


@dataclass(frozen=True, slots=True)
class Hydrated:
    """What a hydration came to: bytes in all, and those fetched for it."""

    files: int
    bytes_total: int
    bytes_fetched: int


class HydrationFailed(HffsError):
    """Not all files could be brought or laid; ``errors`` names each."""

    def __init__(self, errors: list[JobError]) -> None:
        code = worst(error["exit_code"] for error in errors)
        first = next((error for error in errors if error["exit_code"] == code), None)
        path = f"{first['path']}: " if first and first["path"] else ""
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        what = f"{path}{first['what']}{more}" if first else "not everything could be brought"
        super().__init__(what, first["remedy"] if first else "run it again")
        self.exit_code = code
        self.errors = errors


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
    """Brings all files of a repo or mount, or those that ``include``/``exclude`` leave, to the local disk, verified.

    ``to`` also lays plain files below a folder; ``to_hf_cache`` shows a repo's in huggingface_hub's cache; ``force``
    fetches anew what is here; ``progress`` is called for each file that moved, and for the whole (``file`` empty), four
    times a second. Raises HydrationFailed, and what keeps it from starting.
    """
    followed = follow(
        target, type=type, revision=revision, subfolder=subfolder, to=None if to is None else os.fspath(to),
        to_hf_cache=to_hf_cache, force=force, **options,
    )  # fmt: skip
    return to_the_end(followed, progress)


def to_the_end(followed: Generator[Job], progress: Callable[[Progress], None] | None) -> Hydrated:
    """What a hydration comes to. Raises HydrationFailed, Cancelled, and what keeps it from starting."""
    last: Job | None = None
    with contextlib.closing(followed):
        for last in followed:
            if progress is not None:
                for each in progress_of(last):
                    progress(each)
    assert last is not None, "there is always a last snapshot"
    if last["state"] == "cancelled":
        raise Cancelled("the hydration was cancelled", "run it again to go on")
    if last["state"] != "done":
        raise HydrationFailed(last["errors"])
    return Hydrated(last["files_done"], last["bytes_total"], last["bytes_fetched"])


def progress_of(job: Job) -> Iterator[Progress]:
    """What moved, and the whole."""
    shared = job["bytes_per_s"], job["eta_s"]
    counted = job["files_done"], job["files_total"]
    for file in (*job["finished"], *job["active"]):
        yield Progress(file["path"], file["bytes_done"], file["size"] or 0, *shared, file["state"], *counted)
    yield Progress("", job["bytes_done"], job["bytes_total"], *shared, job["state"], *counted)


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
    interval: float = 0.25,
    **options: Any,
) -> Generator[Job]:
    """Starts a hydration and gives a snapshot each ``interval`` seconds, the last with a state other than ``running``.

    Of a repo, ``resolved`` hears which commit it is, and without ``fetch`` it fails when anything is missing here.

    Closing it before cancels the work: what was fetched is kept. Raises as ``hydrate``.
    """
    settings = settings_from(options)
    if to_hf_cache and not settings.hf_cache:
        raise UsageError("there is no Hugging Face cache to show files in", "name one with --hf-cache")
    if mounts.is_path(target):
        for name, given in (("type", type), ("revision", revision), ("subfolder", subfolder)):
            if given is not None:
                raise UsageError(f"--{name} says what to hydrate, and so does {target}", "name a repo, or a path alone")
        if to_hf_cache:
            raise UsageError("--to-hf-cache is for a repo, not for a mount", f"name {_shown_at(target, settings)}")
        yield from _through_mount(target, settings, to, force, interval)
    else:
        names = {"type": type, "revision": revision, "subfolder": subfolder}
        wish = _Wish(to, to_hf_cache, force, fetch, resolved)
        yield from _without_mount(target, settings, names, wish, interval)


def _shown_at(target: str, settings: Settings) -> str:
    """What to name instead of a mount, which uses the same cache."""
    status = mounts.status_of(mounts.place(target, settings.runtime_dir)[0], settings.runtime_dir)[0]
    return f"{RepoType(status['type']).prefix}{status['repo']}"


@dataclass(frozen=True, slots=True)
class _Wish:
    """As the arguments of ``follow``."""

    to: str | None
    to_hf_cache: bool
    force: bool
    fetch: bool
    resolved: Callable[[Commit], None]


def _without_mount(
    repo: str,
    settings: Settings,
    names: dict[str, str | None],
    wish: _Wish,
    interval: float,
) -> Generator[Job]:
    from ..cache import HubCache
    from ..engine import output_files, session
    from ..engine.hydrate import hydration_report, matching_files
    from ..sources.hub import parse_repo
    from ..transfer import Hydration
    from ..vfs import Patterns

    patterns = Patterns(settings.include, settings.exclude)
    if not (log := logging.getLogger("hffs")).handlers:
        log.addHandler(logging.NullHandler())  # what is wrong is raised; where nobody set up logging, Python prints it
    with contextlib.ExitStack() as stack:
        hub = session.open_hub(settings, stack)
        found, only = session.resolve_path(hub, parse_repo(repo, **names))
        if found.refused is not None:
            raise found.refused
        # Whoever wants all of it anew wants nothing of what lies about. Nobody reads through this process: hashing is
        # what is waited for in the end, as much as bytes.
        wanted = replace(settings, hf_cache="") if wish.force else settings
        parts = session.start(hub, found.listings, wanted, stack, adopting=False, verify_nice=0)
        root = found.subfolder
        below = only or root
        before = parts.fetcher.bytes_fetched
        commit = found.commit
        shown = HubCache(settings.hf_cache).repo(commit.type, commit.id) if wish.to_hf_cache else None
        wish.resolved(commit)
        layers: list[Lay] = []
        if wish.to is not None:
            layers.append(_into(output_files.folder(wish.to), root))
        if shown is not None:
            layers.append(_into_hf_cache(shown))

        def plan() -> Iterable[tuple[RemoteFile, int]]:
            files = matching_files(parts.content, below, patterns.match, lambda: hydration.cancelled)
            return files if wish.fetch else _all_here(files, repo)

        hydration = Hydration(
            parts.fetcher,
            plan,
            big_file=settings.big_file,
            force=wish.force,
            lay=_each(layers) if layers else None,
        )
        started, since = time.time(), 0
        hydration.start()
        stack.callback(hydration.join, session.STOP_SECONDS)  # longer it takes where a server is silent
        stack.callback(hydration.cancel)
        while True:
            hydration.join(interval)
            job = hydration_report("", repo, hydration, started, parts.fetcher, before, root, since)
            since = job["ended"]
            if job["state"] == "done" and shown is not None:
                output_files.conclude(shown, commit)
            yield {**job, "warning": found.warning} if found.warning else job
            if job["state"] != "running":
                return


def _into(folder: str, root: str) -> Lay:
    from ..engine import output_files
    from ..engine.hydrate import relative_path

    return lambda file, stored: output_files.put(stored, folder, relative_path(file.path, root))


def _all_here(files: Iterable[tuple[RemoteFile, int]], repo: str) -> list[tuple[RemoteFile, int]]:
    """Raises NotFound when any is missing."""
    every = list(files)
    missing = [file.path for file, local in every if local < file.blob.size]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        names = ", ".join(missing[:_NAMED])
        raise NotFound(f"not all of {repo} is on this machine: {names}{more} missing", f"hffs hydrate {repo}")
    return every


def _into_hf_cache(repo: HubRepo) -> Lay:
    from ..engine import output_files

    def show(file: RemoteFile, stored: StoredBlob) -> None:
        output_files.export(stored, file, repo)

    return show


def _each(layers: list[Lay]) -> Lay:
    def lay(file: RemoteFile, stored: StoredBlob) -> None:
        for each in layers:
            each(file, stored)

    return lay


def _through_mount(target: str, settings: Settings, to: str | None, force: bool, interval: float) -> Generator[Job]:
    where, path = mounts.place(target, settings.runtime_dir)
    wish = {"path": path, "include": settings.include, "exclude": settings.exclude, "force": force}
    with contextlib.ExitStack() as stack:
        lay = None if to is None else _layer(where, to, settings.runtime_dir, stack)
        yield from follow_job(target, where, "hydrate", wish, settings.runtime_dir, interval, lay)


def follow_job(
    target: str,
    where: str,
    kind: Literal["hydrate", "verify"],
    wish: dict[str, object],
    runtime_dir: str,
    interval: float,
    lay: Callable[[Job], list[JobError]] | None = None,
) -> Generator[Job]:
    """A job of the mount at ``where``, asked for and followed to its end, as ``follow``; ``lay`` is given each snapshot
    and says what went wrong with that."""
    socket = messages.socket_path(runtime_dir, where)
    job = cast(Job, client.ask(socket, "POST", f"{messages.API}/{kind}", _ASK_SECONDS, wish))
    name = job["id"]
    story = JobMerger(job)
    errors: list[JobError] = []
    try:
        while True:
            seen = story.told(job)
            if lay is not None:
                errors += lay(seen)
            seen = {**seen, "target": target, "errors": [*job["errors"], *errors]}
            if errors and job["state"] == "done":
                seen["state"] = "failed"
            yield seen
            if job["state"] != "running":
                return
            time.sleep(interval)
            job = _ask_again(socket, where, name, story, runtime_dir)
    except BaseException:
        with contextlib.suppress(HffsError):
            client.ask(socket, "DELETE", f"{messages.API}/jobs/{name}", _ASK_SECONDS)
        raise


class JobMerger:
    """A job as its followers see it, also when several daemons after one another have told of it: each counts from 0,
    and ends once more at once what had ended before."""

    def __init__(self, first: Job) -> None:
        self._first = first
        self._last = first
        self._fetched = 0  # by daemons before this one
        self._heard: set[str] = set()

    @property
    def doing(self) -> str:
        return "hydrated" if self._first["kind"] == "hydrate" else "verified"

    def since(self) -> int:
        return self._last["ended"]

    def is_of_another(self, job: Job) -> bool:
        return job["started_at"] != self._last["started_at"]

    def told(self, job: Job) -> Job:
        if self.is_of_another(job):
            self._fetched += self._last["bytes_fetched"]
        self._last = job
        finished = [file for file in job["finished"] if file["path"] not in self._heard]
        self._heard.update(file["path"] for file in finished)
        fetched = self._fetched + job["bytes_fetched"]
        return {**job, "started_at": self._first["started_at"], "finished": finished, "bytes_fetched": fetched}


def _layer(where: str, to: str, runtime_dir: str, stack: contextlib.ExitStack) -> Callable[[Job], list[JobError]]:
    """What lays the files that have just become whole in a mount's cache, by this process; what went wrong."""
    from ..cache import BlobStore, Layout
    from ..engine import output_files
    from ..model import Blob, Entry

    status = mounts.status_of(where, runtime_dir)[0]
    store = BlobStore(Layout(status["cache"]["dir"]))
    stack.callback(store.close)
    folder = output_files.folder(to)

    def lay(job: Job) -> list[JobError]:
        errors: list[JobError] = []
        for file in job["finished"]:
            if file["state"] == "done" and file["etag"] is not None and file["size"] is not None:
                try:
                    entry = Entry(file["path"], "file", file["size"], file["etag"], lfs=len(file["etag"]) == 64)
                    # With its digest, by which a verified copy from another server is found, as the daemon found it.
                    stored = store.open(Blob(file["etag"], file["size"], status["endpoint"], entry.digest()))
                    with contextlib.closing(stored):
                        output_files.put(stored, folder, file["path"])
                except HffsError as wrong:
                    told = {"what": wrong.what, "remedy": wrong.remedy, "exit_code": wrong.exit_code}
                    errors.append(cast(JobError, {"path": file["path"], **told}))
        return errors

    return lay


def _ask_again(socket: str, where: str, name: str, story: JobMerger, runtime_dir: str) -> Job:
    """The job as it is now, also when its daemon has just died: another one goes on with it."""
    ends = time.monotonic() + _GONE_SECONDS
    since = story.since()
    while True:
        try:
            job = cast(Job, client.ask(socket, "GET", f"{messages.API}/jobs/{name}?since={since}", _ASK_SECONDS))
        except (MountNotFound, client.Refused) as gone:
            if isinstance(gone, client.Refused) and gone.exit_code != NotFound.exit_code:
                raise
            if time.monotonic() >= ends or not _known(where, runtime_dir):
                remedy = "mount it and run this again"
                raise MountFailed(f"the mount at {where} ended while it was {story.doing}", remedy) from gone
            time.sleep(0.1)
            continue
        if since and story.is_of_another(job):
            since = 0  # it has ended other files than the one before, in another order
        else:
            return job


def _known(where: str, runtime_dir: str) -> bool:
    """Whether there is a mount still, be it one that nobody serves at this moment."""
    try:
        return bool(mounts.find(where, runtime_dir))
    except MountNotFound:
        return False
