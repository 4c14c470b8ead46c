"""The budget of a cache directory: bytes are reserved before they are stored, and the least useful blocks are evicted.

Three limits hold at once: this process's, the smallest of all living ones' (``Ledger``), and what the disk can still
take (its free space less ``min_free``, looked up once a second, so other programs' use counts). Which blocks are
evicted is decided by ``policy.eviction``; pinned and linked blobs and those open for passthrough never are.

One per process: ``reserve`` before fetching, ``maintain`` about once a second. reserve() evicts synchronously; one
thread of a process evicts, the others wait and retry. Any thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from ...errors import CacheUnusable, HffsError, NoSpace
from ...policy import eviction
from ...policy.eviction import Segment
from ...ranges import BLOCK_SIZE, block_count
from ..store.blob_files import allocated, is_shared
from ..store.blob_store import BlobStore
from ..store.layout import disk_errors
from ..store.state_file import GROUP, Damaged, StateFile
from ..store.stored_blob import StoredBlob
from .ledger import Account, Ledger

_log = logging.getLogger(__name__)
_MIB: Final = 1 << 20
# Kept free by default: 2 GiB, but on a small disk a tenth of it, or it could not hold a cache.
_MIN_FREE: Final = 2 << 30
_MIN_FREE_SHARE: Final = 10
_STATVFS_S: Final = 1.0  # statvfs(2) is cheap, but other programs do not fill a disk in less
# No new search for this long after one that could free nothing: about as long as a file stays open.
_FRUITLESS_S: Final = 1.0
# What crashes lost or users changed shows after this. A walk over 20,000 blobs takes a third of a second.
_COUNT_S: Final = 600
_COUNT_AT_LAST_S: Final = 3600  # also while blocks are being stored, which may be counted twice until the next count
_LOG_S: Final = 60  # a full cache evicts all the time: one line a minute
_EVICTING_S: Final = 10.0  # to wait for another thread's eviction; 10 GiB take less than one
# One eviction spends at most 2 s hashing blocks before dropping them (``IncrementalHash.hash_before_evict``): 2 GiB on
# a usual processor. After that they are dropped unhashed, or a slow disk would keep others for longer than they wait.
_HASHING_S: Final = 2.0
_ATTEMPTS: Final = 64  # other threads may take what was freed, but hardly 16 workers four times over


def min_free_bytes(min_free: int | None, total: int) -> int:
    """Returns how many bytes of a disk of ``total`` bytes stay free; ``min_free`` is the setting."""
    return min(_MIN_FREE, total // _MIN_FREE_SHARE) if min_free is None else min_free


class Reservation:
    """Bytes that may be stored. ``settle`` it once with those that were."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: CacheBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    def settle(self, stored: int) -> None:
        """Ends the reservation: ``stored`` bytes are on disk, the rest is released. Never raises."""
        size, self.size = self.size, 0
        if size or stored:
            self._budget.settle(size, stored)


class CacheBudget:
    """The budget of the cache of ``store``. ``limit`` is its largest size in bytes (None: no limit), ``min_free`` how
    much of the disk stays free at least (None: 2 GiB, or a tenth of a small disk)."""

    def __init__(
        self,
        store: BlobStore,
        limit: int | None = None,
        min_free: int | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._root = str(store.layout.root)
        self._ledger = Ledger(f"{self._root}/ledger", limit)
        self._limit = limit
        self._min_free = min_free
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        # guarded by _lock
        self._disk: tuple[float, int, int] | None = None  # when; the cache's largest size on this disk; free bytes
        # Held during an eviction: a few system calls a segment and _HASHING_S of hashing, never the network.
        self._evicting = threading.Lock()
        # guarded by _evicting
        self._victims: deque[Segment] = deque()
        self._fruitless = float("-inf")
        self._hash_until = float("-inf")
        self._evicted, self._log_at = 0, float("-inf")  # bytes since the last log line; when to write the next
        self._evictions = 0  # that freed space; read without the lock
        self._account = Account(0, 0, limit, 0)  # as last read, for properties
        store.on_change = self._changed

    # reservations

    def reserve(self, size: int) -> Reservation | None:
        """Reserves ``size`` bytes, evicting others if needed; None when that frees too little. Raises CacheUnusable,
        NoSpace."""
        for _ in range(_ATTEMPTS):
            ceiling, evictions = self._ceiling(), self._evictions
            over = self._ledger.reserve(size, ceiling)
            if over is None:
                self._count()
            elif not over:
                return Reservation(self, size)
            elif not self._evict_bytes(over, evictions):
                return None
        return None

    def settle(self, reserved: int, stored: int) -> None:
        """For ``Reservation``."""
        try:
            self._ledger.settle(reserved, stored)
        except HffsError as error:  # the bytes are stored; the next count finds them
            _log.debug("event=not-settled error=%s", error)

    def no_space_error(self) -> NoSpace:
        """Returns why nothing more can be stored, after a refused reservation."""
        limit = self._account.limit
        with self._lock:
            ceiling = None if self._disk is None else self._disk[1]
        if limit is not None and (ceiling is None or limit <= ceiling):
            return NoSpace(
                f"cache limit ({limit // _MIB} MiB) reached; everything in it is pinned or in use",
                "raise --cache-size, or close or unpin something",
            )
        return NoSpace(
            f"the disk of the cache directory {self._root} is full, except for what --min-free keeps free",
            "free some disk space, lower --min-free or choose another --cache-dir",
        )

    def maintain(self) -> None:
        """Keeps to the limits while nothing is stored: other programs fill the disk, or another process with a smaller
        limit has started. Counts again when due. Raises CacheUnusable, NoSpace."""
        account = self._account = self._ledger.read()
        age = self._clock() - account.counted
        due = age >= (_COUNT_AT_LAST_S if account.reserved else _COUNT_S) or age < 0  # the clock was set back
        if due or self._ledger.stale or not account.counted:
            self._count()
        ceiling, evictions = self._ceiling(), self._evictions
        account = self._account = self._ledger.read()
        most = self._smallest(account.limit, ceiling)
        over = 0 if most is None else account.held + account.reserved - most
        if over > 0:
            self._evict_bytes(over, evictions)

    def probe(self) -> None:
        """Writes a block to an unnamed file and reads it back. Raises NoSpace, CacheUnusable."""
        with disk_errors(f"the cache directory {self._root}"):
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._root, buffering=0) as file:
                fd, block = file.fileno(), bytes(BLOCK_SIZE)
                os.posix_fallocate(fd, 0, len(block))
                if os.pwrite(fd, block, 0) < len(block) or os.pread(fd, len(block), 0) != block:
                    raise CacheUnusable(
                        f"the disk of {self._root} returns other bytes than were written", "check the disk"
                    )

    def start(self) -> None:
        """Counts if no other process uses the cache, then as ``maintain``. Raises CacheUnusable, NoSpace."""
        if self._ledger.is_alone():
            self._count()
        self.maintain()

    def close(self) -> None:
        self._store.on_change = lambda _: None
        self._ledger.close()

    # state

    @property
    def limit(self) -> int | None:
        """The smallest ``--cache-size`` of all living processes, in bytes."""
        self._refresh()
        return self._account.limit

    @property
    def held(self) -> int:
        """Bytes of disk that the cache directory takes."""
        self._refresh()
        return max(0, self._account.held)

    @property
    def cached_capacity(self) -> int | None:
        """The largest size the cache may reach, by the tightest limit as last read, in bytes."""
        with self._lock:
            ceiling = None if self._disk is None else self._disk[1]
        return self._smallest(self._account.limit, ceiling)

    def capacity(self) -> int | None:
        """As ``cached_capacity``, looked up now; None when nothing is known."""
        self._refresh()
        with contextlib.suppress(HffsError):
            self._ceiling()
        return self.cached_capacity

    def free(self) -> int | None:
        """Returns the free bytes of the disk, at most a second old; None where they are unknown."""
        with contextlib.suppress(HffsError):
            self._ceiling()
        with self._lock:
            return None if self._disk is None else self._disk[2]

    def _refresh(self) -> None:
        with contextlib.suppress(HffsError):
            self._account = self._ledger.read()

    def _ceiling(self) -> int | None:
        """Returns the largest size of the cache that leaves ``min_free``. Raises CacheUnusable."""
        now = self._now()
        with self._lock:
            if self._disk is not None and now - self._disk[0] < _STATVFS_S:
                return self._disk[1]
        with disk_errors(f"the cache directory {self._root}"):
            disk = os.statvfs(self._root)
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        account = self._account = self._ledger.read()
        ceiling = max(0, account.held + free - min_free_bytes(self._min_free, total))
        with self._lock:
            self._disk = now, ceiling, free
        return ceiling

    @staticmethod
    def _smallest(*limits: int | None) -> int | None:
        return min((each for each in limits if each is not None), default=None)

    def _changed(self, more: int) -> None:
        """The store's ``on_change``."""
        try:
            self._ledger.adjust(more)
        except HffsError as error:
            _log.debug("event=not-counted error=%s", error)

    def _count(self) -> None:
        with self._exclusively():
            before = self._ledger.read()
            self._ledger.record_count(allocated(self._root), before, self._clock())
            self._account = self._ledger.read()

    # eviction

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        if not self._evicting.acquire(timeout=_EVICTING_S):
            raise CacheUnusable("eviction from the cache takes too long", "check whether its disk hangs")
        try:
            yield
        finally:
            self._evicting.release()

    def _evict_bytes(self, over: int, evictions: int) -> bool:
        """Frees ``over`` bytes or more; True when any were freed, here or by another thread since ``evictions``."""
        with self._exclusively():
            if self._evictions != evictions:
                return True
            account = self._account = self._ledger.read()
            if over > account.held or self._now() < self._fruitless:
                return False
            needed = eviction.bytes_over(over, self.cached_capacity or account.held)
            began = self._now()
            self._hash_until = began + _HASHING_S
            freed = self._evict(self._victims, needed)
            if freed < needed:
                unprotected, protected = eviction.order(self._segments())
                self._victims = deque(
                    unprotected
                )  # the rest of them serves the next eviction; for the protected ones there may be better
                freed += self._evict(self._victims, needed - freed)
                freed += self._evict(deque(protected), needed - freed)
            if freed:
                self._evictions += 1
                _log.debug("event=blocks-evicted bytes=%d seconds=%.3f", freed, self._now() - began)
                self._evicted += freed
                if self._now() >= self._log_at:
                    _log.info(
                        "event=evicted bytes=%d held=%d limit=%s", self._evicted, account.held, self.cached_capacity
                    )
                    self._evicted, self._log_at = 0, self._now() + _LOG_S
            else:
                self._fruitless = self._now() + _FRUITLESS_S
            return bool(freed)

    def _evict(self, victims: deque[Segment], needed: int) -> int:
        """Evicts the next victims until ``needed`` bytes are freed or none are left; returns the bytes freed."""
        freed = 0
        refused: set[str] = set()
        with contextlib.ExitStack() as stack:
            opened: dict[str, StoredBlob] = {}
            while freed < needed and victims:
                for segment in eviction.choose(victims, needed - freed):
                    victims.popleft()
                    if segment.blob in refused:
                        continue
                    try:
                        blob = opened.get(segment.blob)
                        if blob is None:
                            found = self._store.open_path(segment.blob)
                            if found is None:
                                continue
                            stack.callback(found.close)
                            blob = opened[segment.blob] = found
                        dropped = self._evict_segment(blob, segment, needed - freed)
                        if 0 < dropped < segment.held:
                            victims.appendleft(replace(segment, held=segment.held - dropped))
                    except (OSError, HffsError) as error:
                        _log.debug("event=not-evicted blob=%s error=%s", segment.blob, error)
                        dropped = 0
                    if not dropped:
                        refused.add(segment.blob)
                    freed += max(dropped, 0)
        return freed

    def _evict_segment(self, blob: StoredBlob, segment: Segment, needed: int) -> int:
        """Returns the bytes freed of a segment; negative when it was used since it was chosen, and stays."""
        used, _ = blob.last_use(segment.group)
        if used > segment.used:
            return -1
        first = segment.group * GROUP
        blocks = range(first, min(first + GROUP, block_count(blob.size)))
        return blob.evict(blocks, needed, report=self._now() < self._hash_until)

    def _segments(self) -> list[Segment]:
        """Returns everything that could be evicted."""
        found: list[Segment] = []
        for path in self._store.state_files():
            with contextlib.suppress(OSError, Damaged, CacheUnusable):
                found += self._segments_of(path)
        return found

    def _segments_of(self, path: str) -> list[Segment]:
        state, header = StateFile.open(path, writing=False)
        with contextlib.closing(state):
            seen = os.lstat(path.removesuffix(".state") + ".data")
            if header.pinned or is_shared(seen) or stat.S_ISLNK(seen.st_mode):  # a link is of another cache's file
                return []
            presence, uses = state.presence(0, state.blocks), state.last_uses()
        found = []
        with contextlib.ExitStack() as stack:
            blob = self._store.find_open(path)
            if blob is not None:
                stack.callback(blob.close)
            for group, at in enumerate(uses):
                first = group * GROUP
                held = state.bytes_of(first, presence[first : first + GROUP])
                if held:
                    used, again = (float(at & ~1), bool(at & 1)) if blob is None else blob.last_use(group)
                    found.append(Segment(path, group, held, used, again))
        return found
