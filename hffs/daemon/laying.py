"""Hydrated files laid as plain ones into a folder of the user's.

A seam between what names files (the Hub) and what lays them (the cache): the path of each is made safe here.
"""

from __future__ import annotations

import os

from ..cache import StoredBlob, lay, safe_below
from ..errors import HffsError


def folder(path: str) -> str:
    """The folder after ``--to``, made if missing. Raises HffsError when there can be none."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as wrong:
        raise HffsError(f"{path} cannot be made ({wrong.strerror})", "name another folder after --to") from wrong
    return os.path.abspath(path)


def put(stored: StoredBlob, below: str, path: str) -> None:
    """Lay a file that is whole and right at ``path``, a server's word, ``below`` a folder."""
    lay(stored, safe_below(below, path))
