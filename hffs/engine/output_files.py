"""Hydrated files exported as plain ones to a folder of the user's, or to huggingface_hub's cache.

File names come from a server: each path is made safe here, before the cache writes to it.
"""

from __future__ import annotations

import os

from ..cache import HubRepo, StoredBlob, export_file, safe_below
from ..errors import HffsError
from ..model import Commit, RemoteFile


def folder(path: str) -> str:
    """The folder of ``--to``, created if missing. Raises HffsError where it cannot be created."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as wrong:
        raise HffsError(f"{path} cannot be created ({wrong.strerror})", "name another folder after --to") from wrong
    return os.path.abspath(path)


def put(stored: StoredBlob, below: str, path: str, *, copied: bool = False) -> None:
    """Exports a whole, verified file to ``path``, which a server chose, ``below`` a folder; ``copied``: never as a hard
    link to the cache's file."""
    where = safe_below(below, path)
    if copied:
        export_file(stored, where, copy_below=stored.size + 1)
    else:
        export_file(stored, where)


def export(stored: StoredBlob, file: RemoteFile, repo: HubRepo) -> bool:
    """Exports a whole, verified file to huggingface_hub's cache; returns whether its content was missing there."""
    written = repo.put_blob(file.blob, stored.mark(), lambda path: export_file(stored, path))
    repo.link(file.commit.sha, file.path, file.blob.etag, safe_below)
    return written


def conclude(repo: HubRepo, commit: Commit) -> None:
    """Points the commit's revision at it, once all its selected files were exported."""
    repo.write_ref(commit.revision, commit.sha, safe_below)
