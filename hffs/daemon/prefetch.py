"""Prefetch of a mount's small files, within half of the requests that the Hub still allows.

``app`` makes a Prefetch when the mount answers and stops it at its end. The Hub sends how many requests are left with
its first answer about a file; so the few most useful files are requested first, and a thread requests the others when
that answer has arrived, and ends. The fetcher fetches them after everything that readers want.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Final

from ..errors import HffsError
from ..model import Entry
from ..policy import small_files
from ..sources.base import Access
from ..vfs import MountedSnapshot, View

log = logging.getLogger(__name__)

# Fetched whatever the quota: what a loader opens first.
FIRST: Final = 4
# A server that does not answer within this time sends no quota in time either.
QUOTA_SECONDS: Final = 10.0
STOP_SECONDS: Final = 5.0

SnapshotEntry = tuple[MountedSnapshot, Entry]


class Prefetch:
    """``begin`` and ``stop`` once each."""

    def __init__(self, view: View, access: Access) -> None:
        self._view = view
        self._access = access
        self._answered = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Considers only the first page of the listing: a prefetch must not list a repo of a million files."""
        left = self._access.requests_left()
        chosen = [(snapshot, entry) for snapshot in self._view.snapshots() for entry in _absent(snapshot, left)]
        chosen = chosen if left is None else chosen[: max(left, 0) // 2]  # of all snapshots together
        if left is not None or len(chosen) <= FIRST:
            self._fetch(chosen)
            return
        self._access.on_next_answer(self._answered.set)
        self._fetch(chosen[:FIRST])
        thread = threading.Thread(target=self._fetch_rest, args=(chosen,), name="hffs-prefetch", daemon=True)
        thread.start()
        self._thread = thread  # only now: ``stop``, on another thread, cannot join one that has not started

    def stop(self) -> None:
        self._stopping = True
        self._answered.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _fetch_rest(self, chosen: Sequence[SnapshotEntry]) -> None:
        self._answered.wait(QUOTA_SECONDS)
        left = self._access.requests_left()
        most = len(chosen) if left is None else left // 2  # of what was left after the first answer
        self._fetch(chosen[FIRST : max(most, FIRST)])

    def _fetch(self, entries: Iterable[SnapshotEntry]) -> None:
        for snapshot, entry in entries:
            if self._stopping:
                return
            try:
                snapshot.files.prefetch(entry)
            except HffsError as error:
                log.warning("event=prefetch-failed path=%s error=%s", entry.path, error)
                return
            except Exception as bug:  # nothing waits for these files
                log.error("event=prefetch-bug path=%s", entry.path, exc_info=bug)
                return


def _absent(snapshot: MountedSnapshot, requests_left: int | None) -> list[Entry]:
    """The small files of a snapshot that are not local, the most useful ones first."""
    files = snapshot.files
    absent = [entry for entry in snapshot.visible_files() if files.local_bytes(entry) < (entry.size or 0)]
    return small_files(absent, repo_type=files.commit.type, requests_left=requests_left)
