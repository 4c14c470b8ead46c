"""What is local checked against what the Hub says it is: of a mount, a repo in the cache, all repos, or any folder.

Used by programs (``hffs.verify``, ``Mount.verify``) and by ``hffs verify``, which follow the same snapshots
(``protocol.Job``). A path in a mount is its daemon's work; another path is a folder; anything else is a repo, of which
the cache has something, or else huggingface_hub's. Only folders ask the Hub, and whoever wants something mended. One
thread at a time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from ..config import Settings
from ..control.messages import Job
from ..errors import Cancelled, HffsError, HubUnreachable, MountNotFound, NotFound, UsageError, worst
from . import inventory, mounts
from .hydrate import Progress, follow_job, progress_of
from .options import settings_from

if TYPE_CHECKING:
    from ..engine.verify import FileSource
    from ..engine.verify_cache import KnownFile
    from ..model import Commit, Entry, RepoRef, RepoType
    from ..transfer import Fetcher

_STOP_SECONDS: Final = 5.0
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


class VerificationFailed(HffsError):
    """It could not be done to its end, for the first of these reasons."""

    def __init__(self, job: Job) -> None:
        code = worst(error["exit_code"] for error in job["errors"])
        first = next((error for error in job["errors"] if error["exit_code"] == code), None)
        super().__init__(first["what"] if first else "it failed, and did not say why", first["remedy"] if first else "")
        self.exit_code = code


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
    followed = follow(
        name, require=patterns, fix=fix, repo=repo, type=type, revision=revision, subfolder=subfolder, **options
    )
    last: Job | None = None
    with contextlib.closing(followed):
        for last in followed:
            if progress is not None:
                for each in progress_of(last):
                    progress(each)
    assert last is not None, "there is always a last snapshot"
    if last["state"] == "cancelled":
        raise Cancelled("the verification was cancelled", "run it again")
    result = verified_of(last)
    if last["state"] == "failed" and result.ok:
        raise VerificationFailed(last)
    return result


def verified_of(job: Job) -> Verified:
    """The result in a last snapshot."""
    findings = tuple(
        Finding(
            each["path"],
            each["kind"],
            each["severity"],
            each["what"],
            each["remedy"],
            each["expected"],
            each["got"],
            each["mended"],
        )
        for each in job.get("findings", [])
    )
    checked = job["checked"]
    return Verified(
        right=checked["right"],
        plausible=checked["plausible"],
        partial=checked["partial"],
        absent=checked["absent"],
        wrong=checked["wrong"],
        others=checked["others"],
        bytes_checked=checked["bytes"],
        bytes_fetched=job["bytes_fetched"],
        findings=findings,
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
    interval: float = 0.25,
    **options: Any,
) -> Generator[Job]:
    """Starts a verification and gives a snapshot each ``interval`` seconds, the last with a state other than
    ``running``. Closing it before cancels the work. Raises as ``verify``."""
    settings = settings_from(options)
    names = {"type": type, "revision": revision, "subfolder": subfolder}
    where = None if target is None else _mount_of(target, settings)
    if target is not None and where is not None:
        _alone(target, {**names, "repo": repo})
        wish: dict[str, object] = {
            "path": where[1], "include": settings.include, "exclude": settings.exclude,
            "fix": fix, "require": list(require),
        }  # fmt: skip
        yield from follow_job(target, where[0], "verify", wish, settings.runtime_dir, interval)
        return
    source = _source(target, settings, names, repo, require)
    yield from _here(source, target or "all repos", fix, interval)


def _here(source: FileSource, target: str, fix: bool, interval: float) -> Generator[Job]:
    """The work done in this process."""
    from ..engine.verify import Verification

    verification = Verification(source, fix=fix)
    started, since = time.time(), 0
    verification.start()
    try:
        while True:
            verification.join(interval)
            job = verification.told("", target, started, since)
            since = job["ended"]
            yield job
            if job["state"] != "running":
                return
    finally:
        verification.cancel()
        verification.join(_STOP_SECONDS)  # longer it takes where a server is silent


def _mount_of(target: str, settings: Settings) -> tuple[str, str] | None:
    """The mountpoint that a path lies in, and where in it; None for anything else."""
    if not mounts.is_path(target):
        return None
    try:
        return mounts.place(target, settings.runtime_dir)
    except MountNotFound as none:
        if os.path.lexists(target):
            return None
        raise NotFound(f"{target} is not there", "name a mountpoint, a folder, or a repo as ORG/NAME") from none


def _alone(target: str, names: dict[str, str | None]) -> None:
    for name, given in names.items():
        if given is not None:
            raise UsageError(f"--{name} says what to verify, and so does {target}", "name one of them")


def _source(
    target: str | None, settings: Settings, names: dict[str, str | None], repo: str | None, require: Sequence[str]
) -> FileSource:
    if target is None:
        _alone("--all", {**names, "repo": repo})
        return _all(settings, require)
    if mounts.is_path(target):
        return _folder(target, settings, names, repo, require)
    from ..sources.hub import parse_repo

    if repo is not None and os.path.isdir(target):
        return _folder(target, settings, names, repo, require)
    _alone(target, {"repo": repo})
    ref = parse_repo(target, **names)
    try:
        return _held(target, ref, settings, require)
    except NotFound:
        elsewhere = _in_hub_cache(ref, settings) or (target if os.path.isdir(target) else None)
        if elsewhere is None:
            raise
        return _folder(elsewhere, settings, {}, None, require)


def _held(target: str, ref: RepoRef, settings: Settings, require: Sequence[str]) -> FileSource:
    """What the cache has of a repo, at all commits that its name stands for. Asks no server."""
    from ..vfs import Patterns

    commits, inside = inventory.known_of(target, ref, settings)
    wanted = Patterns(settings.include, settings.exclude)
    named = [each for each in commits if ref.revision is None and _MAIN in each.revisions]
    asked = named or [each for each in commits if each.revisions] or commits
    return _of_cache(
        target,
        settings,
        require,
        lambda known: (
            known(entry.path, listed.commit, entry, asked=listed in asked)
            for listed in sorted(commits, key=lambda each: each not in asked)
            for entry in listed.files
            if inside(entry.path) and wanted.match(entry.path)
        ),
    )


def _all(settings: Settings, require: Sequence[str]) -> FileSource:
    """Every blob of the cache, by the listings that are known."""
    from ..model import Entry
    from ..vfs import Patterns

    shelf, commits = inventory.everything_known(settings)
    wanted = Patterns(settings.include, settings.exclude)

    def files(known: type[KnownFile]) -> Iterator[KnownFile]:
        named = set()
        for listed in commits:
            name = f"{listed.commit.type.prefix}{listed.commit.id}"
            named |= shelf.named(listed)
            for entry in listed.files:
                if wanted.match(entry.path):
                    yield known(f"{name}/{entry.path}", listed.commit, entry)
        for each in shelf.holdings:
            if each.place not in named and not settings.include:
                entry = Entry(each.etag, "file", each.size, each.etag)
                yield known(f"content {each.etag[:12]} of no known repo", None, entry, each, asked=False)

    return _of_cache("the cache", settings, require, files)


def _of_cache(
    target: str, settings: Settings, require: Sequence[str], files: Callable[[type[KnownFile]], Iterable[KnownFile]]
) -> FileSource:
    from ..cache import Layout
    from ..engine.verify_cache import CacheSource, KnownFile

    stack = contextlib.ExitStack()
    return CacheSource(
        target,
        Layout(settings.cache_dir),
        lambda: files(KnownFile),
        require,
        fetcher=_engine(settings, stack),
        big_file=settings.big_file,
        close=stack.close,
    )


def _folder(
    target: str, settings: Settings, names: dict[str, str | None], repo: str | None, require: Sequence[str]
) -> FileSource:
    from urllib.parse import urlsplit

    from ..cache.hf_cache import local_folder
    from ..engine.verify_folder import FolderListing, FolderSource
    from ..sources.hub import parse_repo
    from ..vfs import Patterns

    if repo is None and any(names.values()):
        raise UsageError(f"{target} is a folder: --type, --revision and --subfolder need --repo", "name its repo")
    ref = parse_repo(repo, **names) if repo is not None else None
    told, warnings = [], list[str]()
    for folder in local_folder.recognise(target, urlsplit(settings.endpoint).netloc):
        asked, named = ref, ref is not None
        if asked is None and folder.repo is not None:
            asked = _ref(*folder.repo, folder.commit)
        elif asked is not None and asked.revision is None and folder.made in ("snapshot", "local-dir"):
            asked = replace(asked, revision=folder.commit)
        try:
            commit, listed = _listed(settings, asked) if asked is not None else (None, None)
        except HffsError as wrong:
            if named:
                raise
            warnings.append(f"{wrong.what}: nothing was compared with the Hub in {folder.root}")
            commit, listed = None, None
        told.append(FolderListing(folder, commit, listed))
    if ref is None and not any(each.commit for each in told) and not warnings:
        warnings.append(f"it is not known which repo {target} is of: name it with --repo to compare it with the Hub")
    patterns = Patterns(settings.include, settings.exclude)
    stack = contextlib.ExitStack()
    return FolderSource(
        target,
        told,
        require,
        wanted=patterns.match,
        fetcher=_engine(settings, stack),
        big_file=settings.big_file,
        warning="; ".join(warnings),
        close=stack.close,
    )


def _listed(settings: Settings, ref: RepoRef) -> tuple[Commit, dict[str, Entry]]:
    """What the Hub lists, or listed when it was asked last; paths as they are below the folder that was named."""
    from . import repo_info

    names = ("cache_dir", "endpoint", "token_file", "offline")
    given: dict[str, Any] = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    given |= {"type": ref.type.value, "revision": ref.revision, "subfolder": ref.subfolder or None}
    try:
        found = repo_info.listing(ref.id, **given)
    except HubUnreachable as away:
        try:
            found = repo_info.listing(ref.id, **{**given, "offline": True})
        except HffsError:
            raise away from None
    skip = len(ref.subfolder) + 1 if ref.subfolder else 0
    return found.commit, {entry.path[skip:]: entry for entry in found.entries if entry.kind == "file"}


def _ref(kind: RepoType, name: str, commit: str | None) -> RepoRef:
    from ..model import RepoRef

    return RepoRef(kind, name, commit)


def _in_hub_cache(ref: RepoRef, settings: Settings) -> str | None:
    """The folder of a repo that huggingface_hub has, and of one revision where that is named."""
    from ..cache import HubCache

    if not settings.hf_cache:
        return None
    repo = HubCache(settings.hf_cache).repo(ref.type, ref.id)
    return repo.folder if repo.exists() and ref.revision is None else None


def _engine(settings: Settings, stack: contextlib.ExitStack) -> Callable[[Commit], Fetcher]:
    """What fetches for a mending, started when it is asked for. It takes nothing from huggingface_hub's cache, of which
    a file may be what is to be mended."""

    def start(commit: Commit) -> Fetcher:
        from ..engine import session

        hub = session.open_hub(settings, stack)
        wanted = replace(settings, hf_cache="")
        return session.start(hub, hub.listings(commit, ""), wanted, stack, adopting=False, verify_nice=0).fetcher

    return start
