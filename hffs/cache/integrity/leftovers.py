"""Files that killed processes left in a cache directory. They are not used, and can be removed.

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

from ..blob_info import list_paths
from ..store import blob_files
from ..store.layout import BlobPaths, Layout, disk_error
from ..store.locks import HEADER

# A temporary file lives for a few system calls only.
_LEFT_SECONDS: Final = 3600
_TEMPORARY: Final = re.compile(r"\.(version|CACHEDIR\.TAG|probe|mismatches)\..+")
_SET_ASIDE: Final = re.compile(r"cache\.db(-wal|-shm)?\.damaged-\d+")


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that is not used. ``blob``: its folder and locks are those of this blob."""

    path: str
    what: str
    blob: BlobPaths | None = None

    def remove(self) -> None:
        """Removes the file. Raises OSError."""
        with contextlib.ExitStack() as stack:
            if self.blob is not None:  # its writer holds HEADER
                locks = stack.enter_context(contextlib.closing(blob_files.open_locks(self.blob)))
                stack.enter_context(locks.holding(HEADER))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)


def leftovers(layout: Layout, now: float | None = None) -> Iterator[Leftover]:
    """Yields the files of killed processes, and databases that were set aside. Raises CacheUnusable."""
    for blob in list_paths(layout):
        if os.path.exists(blob.partial):
            yield Leftover(blob.partial, "a state file that was never finished", blob)
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
