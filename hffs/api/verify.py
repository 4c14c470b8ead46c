"""Verifying: local files checked against what the Hub says they are, of a mount, repos in the cache, or any folder.

Used by programs (``hffs.verify``, ``Mount.verify``) and by ``hffs verify``. A path in a mount is its daemon's work;
another path is a folder; anything else is a repo in the cache, or else in huggingface_hub's. The Hub is asked only for
folders and to mend. One thread at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from ..config import Settings
from ..control.messages import Job
from ..errors import HffsError, HubUnreachable, MountNotFound, NotFound, UsageError
from . import inventory, jobs, mounts
from .jobs import JobFailed, Progress
from .options import settings_from

if TYPE_CHECKING:
    from ..engine.verify import FileSource
    from ..engine.verify_cache import CacheSource, KnownFile
    from ..engine.verify_folder import FolderSource
    from ..model import Commit, Entry, RepoRef

_MAIN: Final = "main"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a verification found. ``damage`` stays unless it was ``mended``; a ``warning`` is to be known, and
    nothing that hffs could mend. ``expected`` and ``got`` are hex digests where hashes were compared."""

    path: str
    kind: str
    severity: Literal["damage", "warning"]
    what: str
    remedy: str
    expected: str
    got: str
    mended: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification came to, in files: ``right`` by their hash; ``plausible``, where there was none to compare
    with; ``partial``, of which the blocks that are here are as they were written; ``absent``; ``wrong``, damaged or
    required and missing; ``others``, not of the repo, in a folder. Bytes looked at, and fetched to mend."""

    right: int
    plausible: int
    partial: int
    absent: int
    wrong: int
    others: int
    bytes_checked: int
    bytes_fetched: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no damage stays, and nothing that was required is missing."""
        return all(each.mended or each.severity == "warning" for each in self.findings)


class VerificationFailed(JobFailed):
    """It could not be done to its end; ``errors`` names each reason."""


def verify(
    target: str | os.PathLike[str] | None,
    *,
    require: str | Sequence[str] = (),
    fix: bool = False,
    progress: Callable[[Progress], None] | None = None,
    repo: str | None = None,
    type: str | None = None,  # noqa: A002 - the word of the command line and of huggingface_hub
    revision: str | None = None,
    subfolder: str | None = None,
    **options: Any,
) -> Verified:
    """Checks a mountpoint or path in one, a repo in the cache, a folder, or (None) every repo held, as it is local.

    ``require`` names patterns of files that must be there, whole and right. ``fix`` drops and fetches again what is
    bad. ``repo`` says what a folder is of, where that does not show. ``progress`` is as for ``hydrate``. Damage is
    no exception: look at ``ok``. Raises NotFound (nothing of that name), VerificationFailed (it could not be done),
    HubUnreachable, UsageError, CacheUnusable."""
    name = None if target is None else os.fspath(target)
    patterns = (require,) if isinstance(require, str) else tuple(require)
    reports = follow(
        name, require=patterns, fix=fix, repo=repo, type=type, revision=revision, subfolder=subfolder, **options
    )
    last = jobs.wait(reports, progress)
    result = _result(last)
    if last["state"] == "failed" and result.ok:
        raise VerificationFailed(last["errors"])
    return result


def _result(job: Job) -> Verified:
    counts = {key: value for key, value in job["checked"].items() if key not in ("bytes", "blocks")}
    return Verified(
        **counts,  # type: ignore[arg-type]
        bytes_checked=job["checked"]["bytes"],
        bytes_fetched=job["bytes_fetched"],
        findings=tuple(
            Finding(**{key: value for key, value in each.items() if key != "exit_code"})  # type: ignore[arg-type]
            for each in job.get("findings", [])
        ),
    )


def follow(
    target: str | None,
    *,
    require: Sequence[str] = (),
    fix: bool = False,
    repo: str | None = None,
    type: str | None = None,  # noqa: A002 - as in verify
    revision: str | None = None,
    subfolder: str | None = None,
    blocks: bool = False,
    interval: float = jobs.INTERVAL,
    **options: Any,
) -> Generator[Job]:
    """Starts a verification and gives a report each ``interval`` seconds, the last with a state other than
    ``running``. ``blocks`` (without a target) checks every block by its CRC alone; ``fix`` then drops damage without
    fetching it. Closing it before cancels the work. Raises as ``verify``."""
    settings = settings_from(options)
    names = {"type": type, "revision": revision, "subfolder": subfolder}
    mounted = None if target is None else _mount_of(target, settings)
    if target is not None and mounted is not None:
        _refuse_names(target, {**names, "repo": repo})
        body: dict[str, object] = {
            "path": mounted[1], "include": settings.include, "exclude": settings.exclude,
            "fix": fix, "require": list(require),
        }  # fmt: skip
        yield from jobs.request(target, mounted[0], "verify", body, settings.runtime_dir, interval)
        return
    from ..engine import session
    from ..engine.jobs import RunningJob
    from ..engine.verify import VerificationWork

    source: FileSource
    if blocks:
        from ..cache import Layout
        from ..engine.verify_blocks import BlockSource

        if target is not None or require or any(names.values()) or settings.include or settings.exclude:
            raise UsageError("--blocks checks the whole cache", "use it with --all alone")
        source, warning = BlockSource(Layout(settings.cache_dir), fix=fix), ""
    else:
        source, warning = _source(target, settings, names, repo, tuple(require))
    with contextlib.ExitStack() as stack:
        # To mend nothing is adopted from huggingface_hub's cache, of which a file may be what is to be mended.
        work = VerificationWork(
            source,
            fix=fix,
            fetcher=lambda commit: session.start_fetcher(replace(settings, hf_cache=""), commit, stack),
            big_file=settings.big_file,
        )
        yield from jobs.run(RunningJob(work, target or "all repos", warning=warning), interval)


def _mount_of(target: str, settings: Settings) -> tuple[str, str] | None:
    """The mountpoint that a path is below, and the path in the mount; None for anything else."""
    if not mounts.is_path(target):
        return None
    try:
        return mounts.place(target, settings.runtime_dir)
    except MountNotFound as error:
        if os.path.lexists(target):
            return None
        raise NotFound(f"{target} does not exist", "name a mountpoint, a folder, or a repo as ORG/NAME") from error


def _refuse_names(target: str, names: dict[str, str | None]) -> None:
    for name, given in names.items():
        if given is not None:
            raise UsageError(f"--{name} says what to verify, and so does {target}", "name one of them")


def _source(
    target: str | None, settings: Settings, names: dict[str, str | None], repo: str | None, require: Sequence[str]
) -> tuple[CacheSource | FolderSource, str]:
    """The files to check, and what the user should know of them."""
    if target is None:
        _refuse_names("--all", {**names, "repo": repo})
        return _whole_cache(settings, require), ""
    if mounts.is_path(target) or (repo is not None and os.path.isdir(target)):
        return _folder(target, settings, names, repo, require)
    from ..sources.hub.repo_id import parse_repo

    _refuse_names(target, {"repo": repo})
    ref = parse_repo(target, **names)
    try:
        return _cached_repo(target, ref, settings, require), ""
    except NotFound:
        elsewhere = _in_hub_cache(ref, settings) or (target if os.path.isdir(target) else None)
        if elsewhere is None:
            raise
        return _folder(elsewhere, settings, {}, None, require)


def _cached_repo(target: str, ref: RepoRef, settings: Settings, require: Sequence[str]) -> CacheSource:
    """The files of a repo in the cache, at all commits that its name stands for. Asks no server."""
    from ..cache import Layout
    from ..engine.verify_cache import CacheSource, KnownFile
    from ..vfs import Patterns

    commits, inside = inventory.known_of(target, ref, settings)
    wanted = Patterns(settings.include, settings.exclude)
    named = [each for each in commits if ref.revision is None and _MAIN in each.revisions]
    current = named or [each for each in commits if each.revisions] or commits

    def files() -> Iterator[KnownFile]:
        for listed in sorted(commits, key=lambda each: each not in current):
            for entry in listed.files:
                if inside(entry.path) and wanted.match(entry.path):
                    yield KnownFile(entry.path, listed.commit, entry, requirable=listed in current)

    return CacheSource(target, Layout(settings.cache_dir), files, require)


def _whole_cache(settings: Settings, require: Sequence[str]) -> CacheSource:
    """Every blob of the cache, by the listings that are known."""
    from ..cache import Layout
    from ..engine.verify_cache import CacheSource, KnownFile
    from ..model import Entry
    from ..vfs import Patterns

    blobs, commits = inventory.scan(settings)
    wanted = Patterns(settings.include, settings.exclude)

    def files() -> Iterator[KnownFile]:
        named = set()
        for listed in commits:
            name = f"{listed.commit.type.prefix}{listed.commit.id}"
            named |= blobs.all_copies(listed)
            for entry in listed.files:
                if wanted.match(entry.path):
                    yield KnownFile(f"{name}/{entry.path}", listed.commit, entry)
        for each in blobs.blobs:
            if each.paths not in named and not settings.include:
                entry = Entry(each.etag, "file", each.size, each.etag)
                yield KnownFile(f"content {each.etag[:12]} of no known repo", None, entry, each, requirable=False)

    return CacheSource("the cache", Layout(settings.cache_dir), files, require)


def _folder(
    target: str, settings: Settings, names: dict[str, str | None], repo: str | None, require: Sequence[str]
) -> tuple[FolderSource, str]:
    from urllib.parse import urlsplit

    from ..cache.hf_cache import local_folder
    from ..engine.verify_folder import FolderListing, FolderSource
    from ..model import RepoRef
    from ..sources.hub.repo_id import parse_repo
    from ..vfs import Patterns

    if repo is None and any(names.values()):
        raise UsageError(f"{target} is a folder: --type, --revision and --subfolder need --repo", "name its repo")
    given = parse_repo(repo, **names) if repo is not None else None
    listings, warnings = list[FolderListing](), list[str]()
    for folder in local_folder.detect(target, urlsplit(settings.endpoint).netloc):
        ref = given
        if ref is None and folder.repo is not None:
            ref = RepoRef(*folder.repo, folder.commit)
        elif ref is not None and ref.revision is None and folder.kind in ("snapshot", "local-dir"):
            ref = replace(ref, revision=folder.commit)
        try:
            listings.append(FolderListing(folder, *(_listed(settings, ref) if ref is not None else ())))
        except HffsError as error:
            if given is not None:
                raise
            warnings.append(f"{error.what}: nothing was compared with the Hub in {folder.root}")
            listings.append(FolderListing(folder))
    if given is None and not any(each.commit for each in listings) and not warnings:
        warnings.append(f"it is not known which repo {target} is of: name it with --repo to compare it with the Hub")
    patterns = Patterns(settings.include, settings.exclude)
    return FolderSource(target, listings, require, wanted=patterns.match), "; ".join(warnings)


def _listed(settings: Settings, ref: RepoRef) -> tuple[Commit, dict[str, Entry]]:
    """What the Hub lists, or listed when it was asked last; paths as they are below the folder that was named."""
    from . import repo_info

    every = replace(settings, include=(), exclude=())
    try:
        found = repo_info.list_ref(every, ref)
    except HubUnreachable as unreachable:
        try:
            found = repo_info.list_ref(replace(every, offline=True), ref)
        except HffsError:
            raise unreachable from None
    skip = len(ref.subfolder) + 1 if ref.subfolder else 0
    return found.commit, {entry.path[skip:]: entry for entry in found.entries if entry.kind == "file"}


def _in_hub_cache(ref: RepoRef, settings: Settings) -> str | None:
    """The folder of a repo in huggingface_hub's cache, where no revision is named."""
    from ..cache import HubCache

    if not settings.hf_cache:
        return None
    repo = HubCache(settings.hf_cache).repo(ref.type, ref.id)
    return repo.folder if repo.exists() and ref.revision is None else None
