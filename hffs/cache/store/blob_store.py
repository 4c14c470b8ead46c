"""The blobs of one cache directory: opening them, and how much of each is local.

One BlobStore per process and cache directory; any thread. ``open`` returns the same StoredBlob to all users of a blob.
Blocks belong to (origin, etag) until the whole is verified; a verified copy serves every origin whose listing names the
same digest. Blobs in huggingface_hub's cache of the repo (``hf_repo``) are adopted once they were hashed (``adopt``).
It fetches and evicts nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, Literal

from ...errors import CacheUnusable, NoSpace
from ...model import Blob
from ...ranges import block_count
from . import adopt, blob_files
from .adopt import AdoptOutcome, ForeignRepo, is_unchanged
from .layout import BlobPaths, Layout, disk_error, disk_errors, etag_name
from .locks import HEADER, RangeLocks
from .state_file import Damaged, FileMark, StateFile, StateHeader, current_boot_id
from .stored_blob import StoredBlob

_log = logging.getLogger(__name__)
# What other processes publish shows within this; what this one does, at once. `ls -l` of 20,000 files then costs at
# most 256 directory listings a minute for those that are not local, and one read of a state file for each that is.
_FRESH_S: Final = 60
# What the folder of a new blob takes on most disks: a block. That of its first two letters it shares with others.
_FOLDERS: Final = 4096
# A blob in huggingface_hub's cache is hashed by its first reader up to this size: 10 to 30 ms, less than the first
# block takes to come from a server. Bigger files are adopted in the background; until then readers fetch them.
ADOPT_INLINE_MAX: Final = 16 << 20
# A hash that took a minute is not discarded because a fetch is under way: those of a reader that reads on end within
# seconds.
ADOPT_WAIT_S: Final = 30.0
# Marks of files that did not match their names: each is hashed and logged once.
_MOST_REFUSED: Final = 1024


class BlobStore:
    """Opens blobs, and reports how much of them is local. ``prepare`` the layout first."""

    def __init__(
        self,
        layout: Layout,
        *,
        clock: Callable[[], float] = time.time,
        boot_id: str | None = None,
        hf_repo: ForeignRepo | None = None,
    ) -> None:
        self.layout = layout
        # Called with bytes that came to the disk, or (negative) left it; published blocks are not among them.
        self.on_change: Callable[[int], None] = lambda _: None
        self.hf_repo = hf_repo
        self.on_adoptable: Callable[[Blob], None] = lambda _: None  # called with a big blob of hf_repo that is opened
        self._clock = clock
        self._boot_id = current_boot_id() if boot_id is None else boot_id
        self._lock = threading.Lock()
        # guarded by _lock; what was looked up on disk carries the time of that
        self._open: dict[tuple[str, str, int], StoredBlob] = {}  # by etag, origin, size
        self._by_path: dict[str, StoredBlob] = {}  # the same by their state files
        self._epoch = 0  # of openings and closings: what was looked up in an earlier one is not kept
        self._local: dict[tuple[str, str], tuple[int, float]] = {}  # local bytes of blobs not open here
        self._folders: dict[str, tuple[frozenset[str], float]] = {}  # two first letters of etags → etags
        self._refused: dict[FileMark, None] = {}

    def open(self, blob: Blob) -> StoredBlob:
        """Returns the blob for the caller to close: as it is open already, else a verified copy, else its own files,
        created where there are none.

        On a full disk a blob without files opens as one that holds nothing and stores nothing: its ``publish`` raises
        NoSpace, while its reader still gets the bytes. Raises CacheUnusable."""
        with disk_errors(f"the cache folder {self.layout.folder(blob.etag)}"):
            stored = self._find_open(blob)
            if stored is None:
                paths, blob = self._choose(blob)
                adoptable = self.hf_repo is not None and self._check_hf_repo(self.hf_repo, blob, paths)
                stored = self._find_open(blob) or self._open_blob(blob, paths)
                if adoptable:  # not before: adopting swaps the files of the blob that is open
                    self.on_adoptable(blob)
        return stored

    def adopt(
        self,
        blob: Blob,
        repo: ForeignRepo | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        patience: float = ADOPT_WAIT_S,
    ) -> AdoptOutcome:
        """Adopts the blob from huggingface_hub's cache (``repo``, else ``hf_repo``) if it is there, right, and not
        complete here.

        Hashes all of it; ``cancelled`` is called before each MiB. Waits ``patience`` seconds for a moment at which no
        process fetches any of it. Raises CacheUnusable, NoSpace."""
        repo = repo or self.hf_repo
        found = repo.open(blob.etag, blob.size) if repo is not None and blob.digest is not None else None
        if found is None:
            return "absent"
        try:
            paths, owner = self._choose(blob)
            if owner.digest is None or self._peek(paths, owner)[1] == owner.size:
                return "held"
            if found.mark in self._refused:
                return "wrong"
            outcome = adopt.adopt(
                paths, owner, owner.digest, found, boot_id=self._boot_id, now=self._clock(),
                held=lambda: self._find_open(owner), cancelled=cancelled, patience=patience,
            )  # fmt: skip
        except OSError as error:
            raise disk_error(error, f"the cache folder {self.layout.folder(blob.etag)}") from error
        finally:
            os.close(found.fd)
        with self._lock:
            self._forget(owner)
            if outcome == "wrong":
                self._refused[found.mark] = None
                if len(self._refused) > _MOST_REFUSED:
                    del self._refused[next(iter(self._refused))]
        if outcome == "wrong":
            _log.warning("event=not-adopted path=%s why=%s", found.path, "its content does not match its name")
        return outcome

    def _check_hf_repo(self, repo: ForeignRepo, blob: Blob, paths: BlobPaths) -> bool:
        """Before a blob is opened: adopts it, if it is small; True for a big one that could be adopted. A failure to
        adopt does not prevent opening it."""
        if blob.digest is None or self._peek(paths, blob)[1] == blob.size:
            return False
        if blob.size > ADOPT_INLINE_MAX:
            return repo.has(blob.etag, blob.size)
        try:
            self.adopt(blob, repo, patience=0)
        except (CacheUnusable, NoSpace) as error:
            _log.debug("event=not-adopted etag=%s error=%s", blob.etag, error)
        return False

    def local_bytes(self, blob: Blob) -> int:
        """Returns the local bytes of the blob; what cannot be read counts as absent, as reading it would find.

        Costs no system call for most blobs that are not local. Other processes' work shows within a minute."""
        now = self._clock()
        try:
            with self._if_open(blob) as stored:
                if stored is not None:
                    return stored.local_bytes
        except CacheUnusable:
            return 0
        with self._lock:
            local, at = self._local.get((blob.etag, blob.origin), (0, -_FRESH_S))
            epoch = self._epoch
        if 0 <= now - at < _FRESH_S:
            return local
        if not self._has_folder(etag_name(blob.etag), now, epoch):
            return 0
        try:
            local = self._peek(*self._choose(blob))[1]
        except OSError:
            local = 0
        with self._lock:
            if epoch == self._epoch:
                self._local[blob.etag, blob.origin] = local, now
        return local

    def state(self, blob: Blob) -> Literal["remote", "partial", "local", "verified"]:
        """Returns how much of a blob is local, as ``local_bytes``; ``verified`` when the whole was hashed."""
        local = self.local_bytes(blob)
        if local < blob.size:
            return "partial" if local else "remote"
        try:
            with self._if_open(blob) as stored:
                verified = stored.verified if stored is not None else self._verified(*self._choose(blob)) is not None
        except (OSError, CacheUnusable):
            verified = False
        return "verified" if verified else "local"

    def missing(self, blob: Blob) -> list[range]:
        """Returns the runs of blocks that are not local; as ``local_bytes``, and creates nothing."""
        everything = range(block_count(blob.size))
        try:
            with self._if_open(blob) as stored:
                if stored is not None:
                    return stored.missing(everything)
            paths, owner = self._choose(blob)
            if self._peek(paths, owner)[1]:
                with contextlib.closing(StateFile.open(paths.state, writing=False)[0]) as state:
                    return state.missing(everything)
        except (OSError, Damaged, CacheUnusable):
            pass
        return [everything] if everything else []

    def invalidate(self, blob: Blob, freed: int) -> None:
        """Forgets what was known of a blob of which another one freed so many bytes of disk, without this store."""
        with self._lock:
            self._forget(blob)
        if freed:
            self._changed(-freed)

    def disk_free(self) -> int:
        """Returns the bytes that may still be written to the cache's file system. Raises CacheUnusable."""
        with disk_errors(f"the cache directory {self.layout.root}"):
            disk = os.statvfs(self.layout.root)
        return disk.f_bavail * disk.f_frsize

    def state_files(self) -> Iterator[str]:
        """Yields the paths of all state files, each of which identifies a blob; unreadable folders have none."""
        folders = [str(self.layout.blobs)]
        while folders:
            with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.endswith(".state"):
                        yield entry.path
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)

    def find_open(self, path: str) -> StoredBlob | None:
        """Returns the blob of this state file, for the caller to close, if it is open here."""
        with self._lock:
            found = self._by_path.get(path)
        return found if found is not None and found.hold() else None

    def open_path(self, path: str) -> StoredBlob | None:
        """As ``find_open``, else opened for the caller alone; None when there is no such blob any more, or its data is
        in another cache and takes no space here. Raises OSError."""
        found = self.find_open(path)
        if found is not None:
            return found
        paths = BlobPaths(os.path.dirname(path), os.path.basename(path).removesuffix(".state"))
        if os.path.islink(paths.data):
            return None
        try:
            return StoredBlob.open(paths, clock=self._clock, changed=self._changed, closed=self._forget_stored)
        except (FileNotFoundError, Damaged, CacheUnusable):
            return None

    def close(self) -> None:
        """Closes every blob that is still open; their users have ended."""
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
        if stored.blob.digest is None:  # opened by a user whose listing named none
            stored.blob = blob
        return stored

    @contextlib.contextmanager
    def _if_open(self, blob: Blob) -> Iterator[StoredBlob | None]:
        """Yields the blob if it is open here, and closes it."""
        stored = self._find_open(blob)
        try:
            yield stored
        finally:
            if stored is not None:
                stored.close()

    def _choose(self, blob: Blob) -> tuple[BlobPaths, Blob]:
        """Returns the paths to use for a blob: its own, or a verified copy's (and that copy's blob). Raises OSError."""
        own = self.layout.paths(blob.etag, blob.origin)
        if blob.digest is not None:
            others = [paths for paths in self.layout.copies(blob.etag) if paths != own]
            if others and not self._verified(own, blob):
                for paths in others:
                    header = self._verified(paths, blob)
                    if header is not None:
                        return paths, replace(blob, origin=header.origin)
        return own, blob

    def _verified(self, paths: BlobPaths, blob: Blob) -> StateHeader | None:
        """Returns the header of a copy that was verified to have this blob's digest."""
        header, local = self._peek(paths, None)
        record = header.verification if header else None
        if header is None or record is None or record.digest != blob.digest or not local == header.size == blob.size:
            return None
        return header if is_unchanged(paths, header) else None

    def _peek(self, paths: BlobPaths, blob: Blob | None) -> tuple[StateHeader | None, int]:
        """Returns header and local bytes of a blob that is not open; None and 0 where they cannot be relied on."""
        try:
            state, header = StateFile.open(paths.state, writing=False)
            with contextlib.closing(state):
                if blob is not None and not header.matches(blob):
                    return None, 0
                local = state.local_bytes()
                if local and os.path.islink(paths.data) and not is_unchanged(paths, header):
                    local = 0  # its owner has changed or removed the file in the other cache
                return header, local
        except (OSError, Damaged, CacheUnusable):
            return None, 0

    def _open_blob(self, blob: Blob, paths: BlobPaths) -> StoredBlob:
        """Opens a blob's files; if another thread did the same meanwhile, the first one's count. Raises OSError."""
        key = (blob.etag, blob.origin, blob.size)
        try:
            opened = self._open_files(blob, paths)
        except OSError as error:
            failure = disk_error(error, f"the cache file {paths.state}")
            if not isinstance(failure, NoSpace):
                raise failure from error
            opened = self._open_in_memory(blob, paths, failure)
        with self._lock:
            self._forget(blob)
            rival = self._open.get(key)
            if rival is None or not rival.hold():
                self._open[key] = self._by_path[opened.path] = opened
                return opened
        opened.force_close()
        return rival

    def _open_files(self, blob: Blob, paths: BlobPaths) -> StoredBlob:
        os.makedirs(paths.folder, mode=0o700, exist_ok=True)
        locks = blob_files.open_locks(paths)
        try:
            with locks.holding(HEADER):
                found = blob_files.open_existing(blob, paths, self._boot_id)
                state, data = found or blob_files.create(blob, paths, self._boot_id)
        except BaseException:
            locks.close()
            raise
        if found is None:
            self.on_change(-(-state.length // 4096) * 4096 + _FOLDERS)
        return self._stored(blob, state, data, locks)

    def _open_in_memory(self, blob: Blob, paths: BlobPaths, no_space: NoSpace) -> StoredBlob:
        """A blob whose files are in memory and stay empty."""
        with contextlib.ExitStack() as stack:
            fds = []
            for name in ("state", "data", "lock"):
                fds.append(os.memfd_create(f"hffs-{name}"))
                stack.callback(os.close, fds[-1])
            stack.pop_all()
        return self._stored(blob, StateFile(fds[0], paths.state, blob.size), fds[1], RangeLocks(fds[2]), no_space)

    def _stored(
        self, blob: Blob, state: StateFile, data: int, locks: RangeLocks, no_space: NoSpace | None = None
    ) -> StoredBlob:
        return StoredBlob(
            blob, state, data, locks, clock=self._clock, changed=self._changed, closed=self._forget_stored,
            no_space=no_space,
        )  # fmt: skip

    def _has_folder(self, name: str, now: float, epoch: int) -> bool:
        """Whether any copy of an etag may exist: by listing the folder of its first two letters."""
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
        """Discards what was looked up of a blob; the caller holds the lock."""
        self._epoch += 1
        self._local.pop((blob.etag, blob.origin), None)
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
        if bytes_more < 0:
            self.on_change(bytes_more)
