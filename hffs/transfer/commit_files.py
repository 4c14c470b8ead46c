"""The files of one commit, as the file system needs them: look, open, how much of them is here.

It joins a commit's listing with the store and the fetcher, and is all of the lower rooms that ``vfs`` sees.
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
    """What ``statfs`` tells: bytes of the cache's disk."""

    total: int
    free: int


class CommitFiles:
    """One commit's files. Any thread. ``close`` it before the fetcher stops."""

    def __init__(
        self,
        listings: Listings,
        store: BlobStore,
        fetcher: Fetcher,
        *,
        read_timeout: float = 120.0,
        prefetch: str = "small",
    ) -> None:
        """``prefetch`` as the setting has it: with ``all`` the first read of a file has the rest of it fetched, too."""
        self.listings = listings
        self._store = store
        self._fetcher = fetcher
        self._timeout = read_timeout
        self._fill = prefetch == "all"
        self._planner = HeaderPrefetch()

    def close(self) -> None:
        """Ends what runs here, in seconds at most; files may still be open, and read."""
        self._planner.stop()

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
        """Every entry of the commit that anybody has learnt of; asks no server."""
        self.listings.restore()
        return self.listings.entries()

    def record_node(self, number: int, entry: Entry) -> None:
        self.listings.record_node(number, entry)

    def recorded_node(self, number: int) -> Entry | None:
        return self.listings.recorded_node(number)

    def on_local(self, told: Callable[[str], None]) -> None:
        """``told(path)`` when a file of this commit has become wholly local; on a worker's thread, so hand over."""
        others = self._fetcher.on_local  # commits that share the fetcher

        def local(file: RemoteFile) -> None:
            others(file)
            if file.commit == self.commit:
                told(file.path)

        self._fetcher.on_local = local

    def on_mismatch(self, told: Callable[[str], None]) -> None:
        """``told(etag)`` when content proved wrong and was dropped; on the hash worker's thread, so hand over."""
        others = self._fetcher.quarantine.on_mismatch

        def wrong(file: RemoteFile) -> None:
            others(file)
            told(file.validator)

        self._fetcher.quarantine.on_mismatch = wrong

    def sized(self, entry: Entry) -> Entry:
        return self.listings.sized(entry)

    def open(self, entry: Entry) -> BlobReader:
        """Raises CacheUnusable; the caller closes the reader."""
        return BlobReader(
            self._fetcher,
            self.remote_file(self.sized(entry)),
            read_timeout=self._timeout,
            planner=self._planner,
            fill=self._fill,
        )

    def local_bytes(self, entry: Entry) -> int:
        """How much of a file is on the local disk; asks no server."""
        if entry.size is None or entry.etag is None:
            return 0
        return self._store.local_bytes(self.remote_file(entry).blob)

    def adopt(self, entry: Entry, cancelled: Callable[[], bool]) -> None:
        """Take a file from huggingface_hub's cache, if it is there and not here; hashes all of it. Never raises."""
        try:
            self._store.adopt(self.remote_file(entry).blob, cancelled=cancelled)
        except HffsError as error:
            log.debug("event=not-adopted path=%s error=%s", entry.path, error)

    def state(self, entry: Entry) -> FileState:
        """How much of a file is here, in a word; asks no server. ``failed``: its content is in quarantine."""
        if entry.size is None or entry.etag is None:
            return "remote"
        blob = self.remote_file(entry).blob
        return "failed" if self._fetcher.quarantine.refuses(blob) else self._store.state(blob)

    def stream_verified(self, entry: Entry) -> bool:
        """Whether all of a file was hashed and right as it was read, though it is not all here."""
        if entry.size is None or entry.etag is None:
            return False
        return self._fetcher.hash_worker.stream_verified(blob_key(self.remote_file(entry).blob))

    def mismatch(self, entry: Entry) -> Mismatch | None:
        """What was wrong with a file when it was last hashed, if it was, and nobody has mended it since."""
        if entry.size is None or entry.etag is None:
            return None
        return self._fetcher.quarantine.record.find(self.remote_file(entry).blob)

    def retry(self, entry: Entry) -> bool:
        """Forget that a file proved wrong: it is fetched and read again at once. Whether anything was on record."""
        if entry.size is None or entry.etag is None:
            return False
        return self._fetcher.retry(self.remote_file(entry).blob)

    def prefetch(self, entry: Entry) -> None:
        """Have all of a file fetched in the background; nobody waits for it."""
        reader = self.open(entry)
        try:
            reader.prefetch()
        finally:
            reader.close()

    def disk_space(self) -> DiskSpace:
        disk = os.statvfs(self._store.layout.root)
        return DiskSpace(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)

    def remote_file(self, entry: Entry) -> RemoteFile:
        file = entry.remote(self.commit)
        if file is None:
            raise BadResponse(f"the server names neither size nor etag of {entry.path}")
        return file
