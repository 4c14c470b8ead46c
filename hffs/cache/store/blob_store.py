"""The blobs of one cache directory: opening them, and how much of them is here.

One BlobStore per process and cache directory; any thread. ``open`` gives everybody who has a blob open the same
StoredBlob. Blocks belong to (origin, etag) until the whole is verified; a verified copy serves every origin whose
listing promises the same digest. What huggingface_hub's cache holds of a repo (``hf_repo``) is taken for ours once it
was hashed (``adopting``). It fetches, evicts and waits for nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, Literal

from ...errors import CacheUnusable, NoSpace
from ...model import Blob
from ...ranges import block_count
from ..hf_cache.hub_cache import HubRepo
from . import adopt, blob_files
from .adopt import AdoptOutcome, is_unchanged
from .layout import BlobPaths, Layout, disk_error, etag_name
from .locks import HEADER, OPEN_FLAGS, RangeLocks
from .state_file import Damaged, FileMark, StateFile, StateHeader, current_boot_id
from .stored_blob import StoredBlob

_log = logging.getLogger(__name__)
# What other processes publish shows within this; what this one does, at once. `ls -l` of 20,000 files then costs at
# most 256 directory listings a minute for those that are not here, and one look at a state file for each that is.
_FRESH_S: Final = 60
# What the folder of a new blob takes on most disks: a block. That of its first two letters it shares with others.
_FOLDERS: Final = 4096
# What lies in huggingface_hub's cache is hashed by its first reader up to this size: 10 to 30 ms, less than the first
# block takes to come from a server. Bigger files somebody else has to have adopted; until then readers fetch them.
ADOPT_INLINE_MAX: Final = 16 << 20
# What was hashed for a minute is not given up for a fetch that is under way; of a reader who reads on, the fetches end
# within seconds.
ADOPT_WAIT_S: Final = 30.0
# Files there that were not what their names say, by their marks: each is hashed and told of once.
_MOST_REFUSED: Final = 1024


class BlobStore:
    """Opens blobs, and answers how much is held. ``prepare`` the layout first."""

    def __init__(
        self,
        layout: Layout,
        *,
        clock: Callable[[], float] = time.time,
        boot_id: str | None = None,
        hf_repo: HubRepo | None = None,
    ) -> None:
        self.layout = layout
        # Told of bytes that came to the disk, or (negative) left it; what was published is not among them.
        self.on_change: Callable[[int], None] = lambda _: None
        self.hf_repo = hf_repo
        self.on_adoptable: Callable[[Blob], None] = lambda _: None  # told of a big blob that is opened and lies there
        self._clock = clock
        self._boot_id = current_boot_id() if boot_id is None else boot_id
        self._lock = threading.Lock()
        # guarded by _lock; what was looked up on disk carries the time of the look
        self._open: dict[tuple[str, str, int], StoredBlob] = {}  # by etag, origin, size
        self._by_path: dict[str, StoredBlob] = {}  # the same by their state files
        self._epoch = 0  # of openings and closings: what was looked up in an earlier one is not kept
        self._shares: dict[tuple[str, str], tuple[int, float]] = {}  # local bytes of blobs not open here
        self._folders: dict[str, tuple[frozenset[str], float]] = {}  # two first letters of etags → etags
        self._used: tuple[int, float] | None = None
        self._refused: dict[FileMark, None] = {}

    def open(self, blob: Blob) -> StoredBlob:
        """The blob, for the caller to close: as it is open already, else a verified copy, else its own (made if new).

        On a full disk a blob that is not here yet opens as one that holds nothing and takes nothing: its ``publish``
        raises NoSpace, for its reader must get the bytes all the same. Raises CacheUnusable."""
        try:
            stored = self._find_open(blob)
            if stored is None:
                place, blob = self._choose(blob)
                told = self.hf_repo is not None and self._check_hf_repo(self.hf_repo, blob, place)
                stored = self._find_open(blob) or self._opened(blob, place)
                if told:  # not before: what is adopted is exchanged in what is open
                    self.on_adoptable(blob)
        except OSError as error:
            raise disk_error(error, f"the cache folder {self.layout.folder(blob.etag)}") from error
        return stored

    def adopt(
        self,
        blob: Blob,
        repo: HubRepo | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        patience: float = ADOPT_WAIT_S,
    ) -> AdoptOutcome:
        """Take the blob from huggingface_hub's cache (``repo``, else ``hf_repo``), if it is there, right, and not here.

        Hashes all of it; ``cancelled`` is asked before each MiB. Waits ``patience`` seconds until nobody
        fetches any of it. Raises CacheUnusable, NoSpace."""
        repo = repo or self.hf_repo
        if repo is None or blob.digest is None:
            return "absent"
        found = repo.open(blob.etag, blob.size)
        if found is None:
            return "absent"
        try:
            place, blob = self._choose(blob)
            if blob.digest is None or self._peek(place, blob)[1] == blob.size:
                return "held"
            if found.mark in self._refused:
                return "wrong"
            owner = blob
            outcome = adopt.adopt(
                place, blob, blob.digest, found, boot_id=self._boot_id, now=self._clock(),
                held=lambda: self._find_open(owner), cancelled=cancelled, patience=patience,
            )  # fmt: skip
        except OSError as error:
            raise disk_error(error, f"the cache folder {self.layout.folder(blob.etag)}") from error
        finally:
            os.close(found.fd)
        with self._lock:
            self._forget(blob)
            if outcome == "wrong":
                self._refused[found.mark] = None
                if len(self._refused) > _MOST_REFUSED:
                    del self._refused[next(iter(self._refused))]
        if outcome == "wrong":
            _log.warning(
                "event=not-adopted path=%s why=%s",
                found.path,
                "it does not have the content that its name promises",
            )
        return outcome

    def _check_hf_repo(self, repo: HubRepo, blob: Blob, place: BlobPaths) -> bool:
        """Before a blob is opened: adopt it, if it is small; True for a big one that is there and not wholly here. What
        keeps us from it there is no reason not to open it."""
        if blob.digest is None or self._peek(place, blob)[1] == blob.size:
            return False
        if blob.size > ADOPT_INLINE_MAX:
            return repo.has(blob.etag, blob.size)
        try:
            self.adopt(blob, repo, patience=0)
        except (CacheUnusable, NoSpace) as error:
            _log.debug("event=not-adopted etag=%s error=%s", blob.etag, error)
        return False

    def local_bytes(self, blob: Blob) -> int:
        """Bytes of the blob that are here; what cannot be read counts as not here, as reading it would tell the same.

        Costs no system call for most blobs that are not here. Other processes' work shows within a minute."""
        now = self._clock()
        with self._lock:
            stored = self._open.get((blob.etag, blob.origin, blob.size))
            share, at = self._shares.get((blob.etag, blob.origin), (0, -_FRESH_S))
            epoch = self._epoch
        if stored is not None and stored.hold():
            try:
                return stored.local_bytes
            except CacheUnusable:
                return 0
            finally:
                stored.close()
        if 0 <= now - at < _FRESH_S:
            return share
        if not self._has_folder(etag_name(blob.etag), now, epoch):
            return 0
        try:
            place, owner = self._choose(blob)
            share = self._peek(place, owner)[1]
        except OSError:
            share = 0
        with self._lock:
            if epoch == self._epoch:
                self._shares[blob.etag, blob.origin] = share, now
        return share

    def state(self, blob: Blob) -> Literal["remote", "partial", "local", "verified"]:
        """How much of a blob is here, in one word; as ``local_bytes``, and ``verified`` when the whole was hashed."""
        share = self.local_bytes(blob)
        if share < blob.size:
            return "partial" if share else "remote"
        try:
            stored = self._find_open(blob)
            if stored is not None:
                try:
                    verified = stored.verified
                finally:
                    stored.close()
            else:
                verified = self._verified(*self._choose(blob)) is not None
        except (OSError, CacheUnusable):
            verified = False
        return "verified" if verified else "local"

    def missing(self, blob: Blob) -> list[range]:
        """The runs of blocks that are not here; as ``local_bytes``, and makes nothing."""
        everything = range(block_count(blob.size))
        try:
            stored = self._find_open(blob)
            if stored is not None:
                try:
                    return stored.missing(everything)
                finally:
                    stored.close()
            place, owner = self._choose(blob)
            if not self._peek(place, owner)[1]:
                return [everything] if everything else []
            state, _ = StateFile.open(place.state, writing=False)
            try:
                return state.missing(everything)
            finally:
                state.close()
        except (OSError, Damaged, CacheUnusable):
            return [everything] if everything else []

    def invalidate(self, blob: Blob, freed: int) -> None:
        """Somebody has taken blocks of it from the disk, past this store: so many bytes."""
        with self._lock:
            self._forget(blob)
        if freed:
            self._changed(-freed)

    def used_bytes(self) -> int:
        """Bytes the blobs take on disk, folders included: counted once a minute, own changes added at once."""
        now = self._clock()
        with self._lock:
            if self._used is not None and 0 <= now - self._used[1] < _FRESH_S:
                return self._used[0]
        used = blob_files.allocated(str(self.layout.blobs))
        with self._lock:
            self._used = used, now
        return used

    def disk_free(self) -> int:
        """Bytes that may still be written to the cache's file system. Raises CacheUnusable."""
        try:
            disk = os.statvfs(self.layout.root)
        except OSError as error:
            raise disk_error(error, f"the cache directory {self.layout.root}") from error
        return disk.f_bavail * disk.f_frsize

    def state_files(self) -> Iterator[str]:
        """The paths of all state files, each of which names a blob of the directory; unreadable folders have none."""
        folders = [str(self.layout.blobs)]
        while folders:
            with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.endswith(".state"):
                        yield entry.path
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)

    def find_open(self, path: str) -> StoredBlob | None:
        """The blob of this state file for the caller to close, if it is open here."""
        with self._lock:
            found = self._by_path.get(path)
        return found if found is not None and found.hold() else None

    def open_path(self, path: str) -> StoredBlob | None:
        """As ``opened``, else opened for the caller alone; None when there is no such blob (any more).

        Raises OSError."""
        found = self.find_open(path)
        if found is not None:
            return found
        stem = path.removesuffix(".state")
        place = BlobPaths(os.path.dirname(path), os.path.basename(stem))
        fds: list[int] = []
        try:
            state, header = StateFile.open(path)
            fds.append(state.fd)
            fds.append(os.open(place.lock, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600))
            seen = os.lstat(place.data)
            if stat.S_ISLNK(seen.st_mode):  # read where huggingface_hub has it: nothing here takes any room
                raise FileNotFoundError(place.data)
            fds.append(blob_files.open_data(place, seen, elsewhere=False))
        except (FileNotFoundError, Damaged, CacheUnusable):
            for fd in fds:
                os.close(fd)
            return None
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        blob = Blob(header.etag, header.size, header.origin)
        return StoredBlob(
            blob, state, fds[2], RangeLocks(fds[1]), clock=self._clock, changed=self._changed, closed=self._visited
        )

    def _visited(self, stored: StoredBlob) -> None:
        with self._lock:
            self._forget(stored.blob)

    def close(self) -> None:
        """Close every blob that is still open; their users have ended."""
        with self._lock:
            left = list(self._open.values())
            self._open.clear()
            self._by_path.clear()
        for stored in left:
            stored.force_close()

    def _find_open(self, blob: Blob) -> StoredBlob | None:
        with self._lock:
            stored = self._open.get((blob.etag, blob.origin, blob.size))
        if stored is None or not stored.hold():
            return None
        if stored.blob.digest is None:  # opened by somebody whose listing named none
            stored.blob = blob
        return stored

    def _choose(self, blob: Blob) -> tuple[BlobPaths, Blob]:
        """Where to look for a blob: its own place, or a verified copy's (and that copy's blob). Raises OSError."""
        own = self.layout.paths(blob.etag, blob.origin)
        if blob.digest is not None:
            others = [place for place in self.layout.copies(blob.etag) if place != own]
            if others and not self._verified(own, blob):
                for place in others:
                    header = self._verified(place, blob)
                    if header is not None:
                        return place, replace(blob, origin=header.origin)
        return own, blob

    def _verified(self, place: BlobPaths, blob: Blob) -> StateHeader | None:
        """The header of a copy whose whole content was found to have this blob's digest."""
        header, share = self._peek(place, None)
        record = header.verification if header else None
        if header is None or record is None or record.digest != blob.digest or not share == header.size == blob.size:
            return None
        return header if is_unchanged(place, header) else None

    def _peek(self, place: BlobPaths, blob: Blob | None) -> tuple[StateHeader | None, int]:
        """Header and local bytes of a blob that is not open; nothing where there is nothing to rely on."""
        try:
            state, header = StateFile.open(place.state, writing=False)
        except (OSError, Damaged, CacheUnusable):
            return None, 0
        try:
            if blob is not None and not header.matches(blob):
                return None, 0
            share = state.local_bytes()
            if share and os.path.islink(place.data) and not is_unchanged(place, header):
                share = 0  # it lies in somebody else's cache, who has changed or removed it
            return header, share
        except OSError:
            return None, 0
        finally:
            state.close()

    def _opened(self, blob: Blob, place: BlobPaths) -> StoredBlob:
        """Open a blob's files; if another thread did the same meanwhile, the first one's count. Raises OSError."""
        key = (blob.etag, blob.origin, blob.size)
        try:
            opened = self._open_files(blob, place)
        except OSError as error:
            failure = disk_error(error, f"the cache file {place.state}")
            if not isinstance(failure, NoSpace):
                raise failure from error
            opened = self._holding_nothing(blob, place, failure)
        with self._lock:
            self._forget(blob)
            rival = self._open.get(key)
            if rival is None or not rival.hold():
                self._open[key] = self._by_path[opened.path] = opened
                return opened
        opened.force_close()
        return rival

    def _open_files(self, blob: Blob, place: BlobPaths) -> StoredBlob:
        os.makedirs(place.folder, mode=0o700, exist_ok=True)
        locks = RangeLocks(os.open(place.lock, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600))
        state: StateFile | None = None
        try:
            with locks.holding(HEADER):
                found = blob_files.open_existing(blob, place, self._boot_id)
                state, data = found or blob_files.create(blob, place, self._boot_id)
        except BaseException:
            locks.close()
            raise
        if found is None:
            self.on_change(-(-state.length // 4096) * 4096 + _FOLDERS)
        return StoredBlob(
            blob, state, data, locks, clock=self._clock, changed=self._changed, closed=self._forget_stored
        )

    def _holding_nothing(self, blob: Blob, place: BlobPaths, full: NoSpace) -> StoredBlob:
        """A blob whose files are in memory and stay empty."""
        fds: list[int] = []
        try:
            for name in ("state", "data", "lock"):
                fds.append(os.memfd_create(f"hffs-{name}"))  # noqa: PERF401 - to close those made when one fails
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        state, data, lock = StateFile(fds[0], place.state, blob.size), fds[1], RangeLocks(fds[2])
        return StoredBlob(
            blob, state, data, lock, clock=self._clock, changed=self._changed, closed=self._forget_stored, full=full
        )

    def _has_folder(self, name: str, now: float, epoch: int) -> bool:
        """Whether any copy of an etag may be here: by a listing of the folder of all that begin like it."""
        with self._lock:
            names, at = self._folders.get(name[:2], (frozenset(), -_FRESH_S))
        if not 0 <= now - at < _FRESH_S:
            try:
                names = frozenset(os.listdir(f"{self.layout.blobs}/{name[:2]}"))
            except OSError:
                names = frozenset()
            with self._lock:
                if epoch == self._epoch:
                    self._folders[name[:2]] = names, now
        return name in names

    def _forget(self, blob: Blob) -> None:
        """What was known of a blob from outside is no longer sure; the caller holds the lock."""
        self._epoch += 1
        self._shares.pop((blob.etag, blob.origin), None)
        self._folders.pop(etag_name(blob.etag)[:2], None)

    def _forget_stored(self, stored: StoredBlob) -> None:
        key = (stored.blob.etag, stored.blob.origin, stored.size)
        with self._lock:
            self._forget(stored.blob)
            if self._open.get(key) is stored:
                del self._open[key]
            if self._by_path.get(stored.path) is stored:
                del self._by_path[stored.path]

    def _changed(self, bytes_more: int) -> None:
        with self._lock:
            if self._used is not None:
                self._used = max(self._used[0] + bytes_more, 0), self._used[1]
        if bytes_more < 0:
            self.on_change(bytes_more)
