"""Hydrated files laid as plain ones into a folder of the user's, or shown in huggingface_hub's cache.

A seam between what names files (the Hub) and what lays them (the cache): the path of each is made safe here.
"""

from __future__ import annotations

import os

from ..cache import HubRepo, StoredBlob, export_file, safe_below
from ..errors import HffsError
from ..model import Commit, RemoteFile


def folder(path: str) -> str:
    """The folder after ``--to``, made if missing. Raises HffsError when there can be none."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as wrong:
        raise HffsError(f"{path} cannot be made ({wrong.strerror})", "name another folder after --to") from wrong
    return os.path.abspath(path)


def put(stored: StoredBlob, below: str, path: str, *, copied: bool = False) -> None:
    """Lay a file that is whole and right at ``path``, a server's word, ``below`` a folder; ``copied``: never as one
    more name of the cache's own."""
    where = safe_below(below, path)
    if copied:
        export_file(stored, where, copy_below=stored.size + 1)
    else:
        export_file(stored, where)


def export(stored: StoredBlob, file: RemoteFile, repo: HubRepo) -> bool:
    """Show a file that is whole and right in huggingface_hub's cache; whether its content was not there yet."""
    put_it = repo.blob(file.blob, stored.mark(), lambda path: export_file(stored, path))
    repo.link(file.commit.sha, file.path, file.blob.etag, safe_below)
    return put_it


def conclude(repo: HubRepo, commit: Commit) -> None:
    """Every file of the commit that was wanted is there: its revision may stand for it."""
    repo.refer(commit.revision, commit.sha, safe_below)
