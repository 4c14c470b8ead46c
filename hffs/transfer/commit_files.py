"""The files of one commit, as the file system needs them: listed, opened, and how much of them is local.

Joins a commit's listing with the store and the fetcher. ``vfs``, the engine and the daemon use it, on any thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..cache import BlobStore
from ..cache.integrity.mismatches import Mismatch
from ..errors import BadResponse, HffsError
from ..model import Commit, Entry, RemoteFile
from .fetcher import Fetcher, blob_key
from .header_prefetch import HeaderPrefetch
from .listings import Listings
from .reader import BlobReader

FileState = Literal["remote", "partial", "local", "verified", "failed"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """What ``statfs`` answers: bytes of the cache's disk."""

    total: int
    free: int


class CommitFiles:
    """One commit's files. ``close`` it before the fetcher stops."""

    def __init__(
        self,
        listings: Listings,
        store: BlobStore,
        fetcher: Fetcher,
        *,
        read_timeout: float = 120.0,
        prefetch: str = "small",
    ) -> None:
        """``prefetch`` is the setting's value: with ``all`` the first read of a file has the rest fetched, too."""
        self.listings = listings
        self._store = store
        self._fetcher = fetcher
        self._timeout = read_timeout
        self._fill = prefetch == "all"
        self._header_prefetch = HeaderPrefetch()

    def close(self) -> None:
        """Ends the thread that makes read plans, in seconds at most; files may stay open, and be read."""
        self._header_prefetch.stop()

    @property
    def commit(self) -> Commit:
        return self.listings.commit

    @property
    def root(self) -> str:
        return self.listings.root

    def entry(self, path: str) -> Entry:
        return self.listings.entry(path)

    def directory(self, path: str) -> Mapping[str, Entry]:
        return self.listings.directory(path)

    def known_directory(self, path: str) -> Mapping[str, Entry] | None:
        return self.listings.known(path)

    def known_entries(self) -> Iterable[Entry]:
        """Every entry of the commit that any process has listed; no request."""
        self.listings.restore()
        return self.listings.entries()

    def record_node(self, number: int, entry: Entry) -> None:
        self.listings.record_node(number, entry)

    def recorded_node(self, number: int) -> Entry | None:
        return self.listings.recorded_node(number)

    def on_local(self, report: Callable[[str], None]) -> None:
        """``report(path)`` when a file of this commit has become wholly local; on a worker's thread, so hand over."""
        others = self._fetcher.on_local  # commits that share the fetcher

        def local(file: RemoteFile) -> None:
            others(file)
            if file.commit == self.commit:
                report(file.path)

        self._fetcher.on_local = local

    def on_mismatch(self, report: Callable[[str], None]) -> None:
        """``report(etag)`` when content proved wrong and was dropped; on the hash worker's thread, so hand over."""
        others = self._fetcher.quarantine.on_mismatch

        def mismatched(file: RemoteFile) -> None:
            others(file)
            report(file.validator)

        self._fetcher.quarantine.on_mismatch = mismatched

    def sized(self, entry: Entry) -> Entry:
        return self.listings.sized(entry)

    def open(self, entry: Entry) -> BlobReader:
        """Raises CacheUnusable; the caller closes the reader."""
        return BlobReader(
            self._fetcher,
            self.remote_file(self.sized(entry)),
            read_timeout=self._timeout,
            header_prefetch=self._header_prefetch,
            fill=self._fill,
        )

    def local_bytes(self, entry: Entry) -> int:
        """How many bytes of a file are local; no request."""
        blob = entry.blob(self.commit)
        return 0 if blob is None else self._store.local_bytes(blob)

    def adopt(self, entry: Entry, cancelled: Callable[[], bool]) -> None:
        """Takes a file from huggingface_hub's cache, if it is there and not local; hashes all of it. Never raises."""
        try:
            self._store.adopt(self.remote_file(entry).blob, cancelled=cancelled)
        except HffsError as error:
            log.debug("event=not-adopted path=%s error=%s", entry.path, error)

    def state(self, entry: Entry) -> FileState:
        """How much of a file is local, in a word; no request. ``failed``: its content is in quarantine."""
        blob = entry.blob(self.commit)
        if blob is None:
            return "remote"
        return "failed" if self._fetcher.quarantine.mismatch(blob) else self._store.state(blob)

    def stream_verified(self, entry: Entry) -> bool:
        """Whether all of a file was hashed and right as it was read, though it is not all local now."""
        blob = entry.blob(self.commit)
        return blob is not None and self._fetcher.hash_worker.stream_verified(blob_key(blob))

    def mismatch(self, entry: Entry) -> Mismatch | None:
        """What was wrong with a file when it was last hashed, unless it has been mended since."""
        blob = entry.blob(self.commit)
        return None if blob is None else self._fetcher.quarantine.record.find(blob)

    def prefetch(self, entry: Entry) -> None:
        """Has all of a file fetched in the background."""
        reader = self.open(entry)
        try:
            reader.prefetch()
        finally:
            reader.close()

    def disk_space(self) -> DiskSpace:
        disk = os.statvfs(self._store.layout.root)
        return DiskSpace(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)

    def remote_file(self, entry: Entry) -> RemoteFile:
        """Raises BadResponse for an entry without size or etag."""
        file = entry.remote(self.commit)
        if file is None:
            raise BadResponse(f"the server names neither size nor etag of {entry.path}")
        return file
