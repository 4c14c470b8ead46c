"""huggingface_hub's cache: adopting its files into ours, exporting ours to it.

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
    from ..cache import AdoptOutcome, BlobStore, HubRepo
    from ..model import Commit


@dataclass(frozen=True, slots=True)
class Adopted:
    """The blobs of one repo in huggingface_hub's cache, by what became of them: ``in_place`` are read where they are,
    ``reflinked`` share their disk blocks, ``held`` were in our cache already, ``skipped`` are being fetched at this
    moment, and ``wrong`` (paths) do not match the hash in their names. ``bytes_adopted`` were not in our cache."""

    repo: str
    in_place: int = 0
    reflinked: int = 0
    held: int = 0
    skipped: int = 0
    bytes_adopted: int = 0
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exported:
    """A snapshot in huggingface_hub's cache: its folder, files and bytes, and the bytes fetched for it."""

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
    """Adopts what huggingface_hub's cache (``hf_cache``) has of these repos, or of all: hashes it, and uses it from now
    on without fetching it. Asks no server. ``progress`` is called for each blob with its repo and bytes.

    Raises NotFound for a repo that is not there, UsageError, CacheUnusable, NoSpace.
    """
    settings = settings_from(options)
    from ..cache import BlobStore, HubCache, Layout
    from ..sources.hub.repo_id import parse_repo

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
        return [_adopt(store, repo, settings.endpoint, progress) for repo in chosen or cache.repos()]


def export(
    repo: str,
    *,
    type: str | None = None,  # noqa: A002 - as in adopt
    revision: str | None = None,
    fetch: bool = True,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Exported:
    """Exports a repo, or the files that its name and ``include``/``exclude`` select, to huggingface_hub's cache
    (``hf_cache``), where ``from_pretrained`` finds it offline. What is not local is fetched first, unless ``fetch`` is
    False: then HydrationFailed names what is missing.

    Raises as ``hydrate``.
    """
    from ..cache import HubCache

    settings = settings_from(options)
    root = _root(settings)
    commits: list[Commit] = []
    reports = follow(
        repo, type=type, revision=revision, to_hf_cache=True, fetch=fetch, resolved=commits.append, **options
    )
    done = wait(reports, progress)
    (commit,) = commits
    path = os.path.join(HubCache(root).repo(commit.type, commit.id).folder, "snapshots", commit.sha)
    return Exported(path, commit.sha, done.files, done.bytes_total, done.bytes_fetched)


def _root(settings: Settings) -> str:
    if not settings.hf_cache:
        raise UsageError("there is no Hugging Face cache to work with", "name one with --hf-cache, or set HF_HUB_CACHE")
    return settings.hf_cache


def _adopt(store: BlobStore, repo: HubRepo, origin: str, progress: Callable[[str, int], None] | None) -> Adopted:
    outcomes: Counter[AdoptOutcome] = Counter()
    adopted, wrong = 0, []
    for blob in repo.hashed_blobs(origin):
        outcome = store.adopt(blob, repo)
        outcomes[outcome] += 1
        if outcome in ("in place", "reflink"):
            adopted += blob.size
        elif outcome == "wrong":
            wrong.append(os.path.join(repo.folder, "blobs", blob.etag))
        if progress is not None:
            progress(repo.title, blob.size)
    return Adopted(
        repo=repo.title,
        in_place=outcomes["in place"],
        reflinked=outcomes["reflink"],
        held=outcomes["held"],
        skipped=outcomes["busy"] + outcomes["absent"],
        bytes_adopted=adopted,
        wrong=tuple(wrong),
    )
