"""What killed processes left in a cache directory. It does no harm: it is not used, and can be removed.

Blocks are checked by ``check_blob``. Any thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..blob_info import blob_locks, list_paths
from ..store.layout import BlobPaths, Layout, disk_error
from ..store.locks import HEADER

# A temporary file lives for a few system calls only.
_LEFT_SECONDS: Final = 3600
_TEMPORARY: Final = re.compile(r"\.(version|CACHEDIR\.TAG|probe)\..+")
_SET_ASIDE: Final = re.compile(r"cache\.db(-wal|-shm)?\.damaged-\d+")


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that is not used. ``blob``: its folder and locks are those of this blob."""

    path: str
    what: str
    blob: BlobPaths | None = None

    def remove(self) -> None:
        """Raises OSError."""
        with contextlib.ExitStack() as stack:
            if self.blob is not None:  # its writer holds HEADER
                stack.enter_context(stack.enter_context(blob_locks(self.blob)).holding(HEADER))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)


def leftovers(layout: Layout, now: float | None = None) -> Iterator[Leftover]:
    """Files of killed processes, and databases that were set aside. Raises CacheUnusable."""
    for blob in list_paths(layout):
        unfinished = f"{blob.folder}/{blob.origin_id}.new"
        if os.path.exists(unfinished):
            yield Leftover(unfinished, "a state file that was never finished", blob)
    now = time.time() if now is None else now
    for folder, pattern, what in (
        (str(layout.root), _TEMPORARY, "a temporary file"),
        (str(layout.index), _SET_ASIDE, "a damaged metadata index, set aside"),
    ):
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise disk_error(error, f"the cache directory {folder}") from error
        for name in filter(pattern.fullmatch, names):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if pattern is _SET_ASIDE or now - os.stat(path).st_mtime > _LEFT_SECONDS:
                    yield Leftover(path, what)
