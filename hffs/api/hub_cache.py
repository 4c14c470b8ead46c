"""huggingface_hub's cache and ours: what lies there taken over, what is here shown there.

Used by programs and by ``hffs cache adopt`` and ``hffs cache export``. Neither ever changes a file that is in
huggingface_hub's cache. The rooms that know the Hub and the disk are imported when first needed. Any thread.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import Settings
from ..errors import NotFound, UsageError
from .hydrate import Progress, follow, wait
from .options import settings_from

if TYPE_CHECKING:
    from ..cache import BlobStore, HubRepo, Outcome
    from ..model import Commit


@dataclass(frozen=True, slots=True)
class Adopted:
    """What came of the blobs that huggingface_hub's cache has of one repo. ``in_place`` are read where they lie,
    ``reflinked`` share their blocks, ``held`` were here already, ``skipped`` are being fetched at this moment, and
    ``wrong`` (paths) are not what their names say. ``bytes_adopted`` of those that were not here."""

    repo: str
    in_place: int = 0
    reflinked: int = 0
    held: int = 0
    skipped: int = 0
    bytes_adopted: int = 0
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exported:
    """A snapshot in huggingface_hub's cache: its folder, what is in it, and how much was fetched for it."""

    path: str
    commit: str
    files: int
    bytes_total: int
    bytes_fetched: int


def adopt(
    repos: Iterable[str] = (),
    *,
    type: str | None = None,  # noqa: A002 - the word of the command line and of huggingface_hub
    progress: Callable[[str, int], None] | None = None,
    **options: Any,
) -> list[Adopted]:
    """Takes over what huggingface_hub's cache (``hf_cache``) has of these repos, or of all: hashed, and used from now
    on without fetching it. Asks no server. ``progress`` hears of each blob: its repo, and bytes.

    Raises NotFound for a repo that is not there, UsageError, CacheUnusable, NoSpace.
    """
    settings = settings_from(options)
    from ..cache import BlobStore, HubCache, Layout
    from ..sources.hub import parse_repo

    cache = HubCache(_root(settings))
    chosen = []
    for name in repos:
        ref = parse_repo(name, type=type)
        repo = cache.repo(ref.type, ref.id)
        if not repo.exists():
            raise NotFound(f"{ref.type.prefix}{ref.id} is not in {cache.root}", "see hf cache ls")
        chosen.append(repo)
    layout = Layout(settings.cache_dir)
    layout.prepare()
    with contextlib.closing(BlobStore(layout)) as store:
        told = progress or (lambda _repo, _size: None)
        every = chosen or cache.repos()
        return [_adopted(store, repo, settings.endpoint, told) for repo in every]


def export(
    repo: str,
    *,
    type: str | None = None,  # noqa: A002 - as in adopt
    revision: str | None = None,
    fetch: bool = True,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Exported:
    """Shows a repo, or the part of it that its name and ``include``/``exclude`` leave, in huggingface_hub's cache
    (``hf_cache``), where ``from_pretrained`` finds it offline. What is not here is fetched first, unless ``fetch`` is
    False: then HydrationFailed says what is missing.

    Raises as ``hydrate``.
    """
    from ..cache import HubCache

    settings = settings_from(options)
    root = _root(settings)
    commits: list[Commit] = []
    followed = follow(
        repo, type=type, revision=revision, to_hf_cache=True, fetch=fetch, resolved=commits.append, **options
    )
    done = wait(followed, progress)
    (commit,) = commits
    path = os.path.join(HubCache(root).repo(commit.type, commit.id).folder, "snapshots", commit.sha)
    return Exported(path, commit.sha, done.files, done.bytes_total, done.bytes_fetched)


def _root(settings: Settings) -> str:
    if not settings.hf_cache:
        raise UsageError("there is no Hugging Face cache to work with", "name one with --hf-cache, or set HF_HUB_CACHE")
    return settings.hf_cache


def _adopted(store: BlobStore, repo: HubRepo, origin: str, progress: Callable[[str, int], None]) -> Adopted:
    outcomes: Counter[Outcome] = Counter()
    size, wrong = 0, []
    for blob in repo.blobs(origin):
        outcome = store.adopt(blob, repo)
        outcomes[outcome] += 1
        if outcome in ("in place", "reflink"):
            size += blob.size
        elif outcome == "wrong":
            wrong.append(os.path.join(repo.folder, "blobs", blob.etag))
        progress(repo.title, blob.size)
    return Adopted(
        repo=repo.title,
        in_place=outcomes["in place"],
        reflinked=outcomes["reflink"],
        held=outcomes["held"],
        skipped=outcomes["busy"] + outcomes["absent"],
        bytes_adopted=size,
        wrong=tuple(wrong),
    )
