"""Room in a cache directory: what is to be stored is reserved first, and the least useful blocks go to make that room.

Three limits hold at once: this process's, the smallest of all living ones' (``Ledger``), and what the disk may still
give (its free space less ``min_free``, looked at once a second, other programs' use included). Which blocks go is
``policy.eviction``'s decision; pinned and linked blobs and those open for passthrough never do.

Made by the daemon, one a process; used by transfer: ``reserve`` before fetching, ``tend`` about once a second. Whoever
needs room makes it himself; one thread of a process at a time, and the others then find it made. Any thread.
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
from ...ranges import BLOCK_SIZE, block_count, block_length
from ..store.blob_files import allocated, is_shared
from ..store.blob_store import BlobStore
from ..store.layout import disk_error
from ..store.state_file import GROUP, Damaged, StateFile
from ..store.stored_blob import StoredBlob
from .ledger import Account, Ledger

_log = logging.getLogger(__name__)
_MIB: Final = 1 << 20
# Kept free unless something else is asked for: 2 GiB, but on a small disk a tenth of it, or it could not be a cache.
_MIN_FREE: Final = 2 << 30
_MIN_FREE_SHARE: Final = 10
_LOOK_S: Final = 1.0  # statvfs(2) is cheap, but other programs do not fill a disk in less
# How long a search that found nothing to give back is believed: as long as a file stays open, mostly.
_FRUITLESS_S: Final = 1.0
# What is lost by crashes or changed by hand shows after this. A walk over 20,000 blobs takes a third of a second.
_COUNT_S: Final = 600
_COUNT_AT_LAST_S: Final = 3600  # also while blocks are being stored, which may then be counted twice until next time
_TELL_S: Final = 60  # a cache that is full gives something back all the time: one line a minute
_EVICTING_S: Final = 10.0  # for others to make room; 10 GiB take them less than one
# So long what goes is hashed before, where that is due (``Hashing.leaving``), in one turn: 2 GiB on a usual processor.
# After that it goes unhashed, or a slow disk, or much that has to go, would keep others for longer than they wait.
_HASHING_S: Final = 2.0
_TURNS: Final = 64  # room that was made may be taken by others, but hardly by 16 workers four times over


def min_free_bytes(min_free: int | None, total: int) -> int:
    """Bytes of a disk of ``total`` bytes that stay free; ``min_free`` as the setting."""
    return min(_MIN_FREE, total // _MIN_FREE_SHARE) if min_free is None else min_free


class Reservation:
    """Bytes that may be stored. ``settle`` it once with those that were."""

    __slots__ = ("_room", "size")

    def __init__(self, room: CacheBudget, size: int) -> None:
        self._room = room
        self.size = size

    def settle(self, stored: int) -> None:
        """``stored`` bytes are on disk, the rest of the reservation is given up. Never raises."""
        size, self.size = self.size, 0
        if size or stored:
            self._room.settle(size, stored)


class CacheBudget:
    """The room of the cache that ``store`` keeps. ``limit`` is its size in bytes at most (None: no limit), ``min_free``
    how much of the disk stays free at least (None: 2 GiB, and a tenth of a small disk)."""

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
        self._looked: tuple[float, int, int] | None = None  # when; what the cache may come to on this disk; free bytes
        # Held while room is made: a few system calls a segment and _HASHING_S of hashing, never the network.
        self._evicting = threading.Lock()
        # guarded by _evicting
        self._victims: deque[Segment] = deque()
        self._fruitless = float("-inf")
        self._hash_until = float("-inf")
        self._evicted, self._tell_at = 0, float("-inf")  # bytes since the last line about them; when to write the next
        self._made = 0  # how often room was made; read without the lock
        self._account = Account(0, 0, limit, 0)  # as last seen; for those who only look
        store.on_change = self._changed

    # what is to be stored

    def reserve(self, size: int) -> Reservation | None:
        """Room for ``size`` bytes, made if need be; None when there is none. Raises CacheUnusable, NoSpace."""
        for _ in range(_TURNS):
            ceiling, made = self._ceiling(), self._made
            over = self._ledger.reserve(size, ceiling)
            if over is None:
                self._count()
            elif not over:
                return Reservation(self, size)
            elif not self._make(over, made):
                return None
        return None

    def settle(self, reserved: int, stored: int) -> None:
        """For ``Reservation``."""
        try:
            self._ledger.settle(reserved, stored)
        except HffsError as error:  # the bytes are stored; the next count finds them
            _log.debug("event=not-settled error=%s", error)

    def no_space_error(self) -> NoSpace:
        """Why nothing more can be stored, for a reservation that was refused."""
        limit = self._account.limit
        with self._lock:
            ceiling = None if self._looked is None else self._looked[1]
        if limit is not None and (ceiling is None or limit <= ceiling):
            return NoSpace(
                f"the cache may hold {limit // _MIB} MiB and nothing in it can go",
                "raise --cache-size, or close or unpin what is in use",
            )
        return NoSpace(
            f"the disk of the cache directory {self._root} is full but for what --min-free keeps",
            "free some disk space, lower --min-free or choose another --cache-dir",
        )

    def maintain(self) -> None:
        """Keep to the limits though nobody stores anything: other programs fill the disk, another process came with a
        smaller limit. Counts anew when that is due. Raises CacheUnusable, NoSpace."""
        account = self._account = self._ledger.read()
        age = self._clock() - account.counted
        due = age >= (_COUNT_AT_LAST_S if account.reserved else _COUNT_S) or age < 0  # a clock that was put back
        if due or self._ledger.stale or not account.counted:
            self._count()
        ceiling, made = self._ceiling(), self._made
        account = self._account = self._ledger.read()
        most = self._smallest(account.limit, ceiling)
        over = 0 if most is None else account.held + account.reserved - most
        if over > 0:
            self._make(over, made)

    def probe(self) -> None:
        """Whether the disk takes a block and gives it back: a file without a name, gone at once.

        Raises NoSpace, CacheUnusable."""
        try:
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._root, buffering=0) as file:
                fd, block = file.fileno(), bytes(BLOCK_SIZE)
                os.posix_fallocate(fd, 0, len(block))
                if os.pwrite(fd, block, 0) < len(block) or os.pread(fd, len(block), 0) != block:
                    raise CacheUnusable(f"the disk of {self._root} does not keep what is written", "check the disk")
        except OSError as error:
            raise disk_error(error, f"the cache directory {self._root}") from error

    def start(self) -> None:
        """At the start: count, if nobody else is here who has. Raises CacheUnusable, NoSpace."""
        if self._ledger.is_alone():
            self._count()
        self.maintain()

    def close(self) -> None:
        self._store.on_change = lambda _: None
        self._ledger.close()

    # looking

    @property
    def limit(self) -> int | None:
        """What ``--cache-size`` of the living processes allows, in bytes; the smallest counts."""
        self._glance()
        return self._account.limit

    @property
    def held(self) -> int:
        """Bytes of disk the cache directory takes."""
        self._glance()
        return max(0, self._account.held)

    @property
    def cached_capacity(self) -> int | None:
        """How many bytes the cache may come to, of whichever limit is the nearest, as last seen."""
        with self._lock:
            ceiling = None if self._looked is None else self._looked[1]
        return self._smallest(self._account.limit, ceiling)

    def capacity(self) -> int | None:
        """As ``budget``, looked up now; None when nothing is known."""
        self._glance()
        with contextlib.suppress(HffsError):
            self._ceiling()
        return self.cached_capacity

    def free(self) -> int | None:
        """Bytes free on the disk a second ago at most; None where it cannot be known."""
        with contextlib.suppress(HffsError):
            self._ceiling()
        with self._lock:
            return None if self._looked is None else self._looked[2]

    def _glance(self) -> None:
        with contextlib.suppress(HffsError):
            self._account = self._ledger.read()

    def _ceiling(self) -> int | None:
        """What the cache may come to so that ``min_free`` stays. Raises CacheUnusable."""
        now = self._now()
        with self._lock:
            if self._looked is not None and now - self._looked[0] < _LOOK_S:
                return self._looked[1]
        try:
            disk = os.statvfs(self._root)
        except OSError as error:
            raise disk_error(error, f"the cache directory {self._root}") from error
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        account = self._account = self._ledger.read()
        ceiling = max(0, account.held + free - min_free_bytes(self._min_free, total))
        with self._lock:
            self._looked = now, ceiling, free
        return ceiling

    @staticmethod
    def _smallest(*limits: int | None) -> int | None:
        return min((each for each in limits if each is not None), default=None)

    def _changed(self, more: int) -> None:
        """Told by the store of what came to the disk unreserved, or left it."""
        try:
            self._ledger.adjust(more)
        except HffsError as error:
            _log.debug("event=not-counted error=%s", error)

    def _count(self) -> None:
        with self._turn():
            before = self._ledger.read()
            self._ledger.record_count(allocated(self._root), before, self._clock())
            self._account = self._ledger.read()

    # making room

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._evicting.acquire(timeout=_EVICTING_S):
            raise CacheUnusable("making room in the cache takes too long", "see whether its disk is stuck")
        try:
            yield
        finally:
            self._evicting.release()

    def _make(self, over: int, made: int) -> bool:
        """Give back ``over`` bytes or more; True when some room was made, by us or by another thread since ``made``."""
        with self._turn():
            if self._made != made:
                return True
            account = self._account = self._ledger.read()
            if over > account.held or self._now() < self._fruitless:
                return False
            needed = eviction.to_free(over, self.cached_capacity or account.held)
            began = self._now()
            self._hash_until = began + _HASHING_S
            freed = self._evict(self._victims, needed)
            if freed < needed:
                loose, protected = eviction.order(self._segments())
                self._victims = deque(loose)  # what is left of them goes next time; of the others there may be better
                freed += self._evict(self._victims, needed - freed)
                freed += self._evict(deque(protected), needed - freed)
            if freed:
                self._made += 1
                _log.debug("event=blocks-evicted bytes=%d seconds=%.3f", freed, self._now() - began)
                self._evicted += freed
                if self._now() >= self._tell_at:
                    _log.info(
                        "event=evicted bytes=%d held=%d limit=%s", self._evicted, account.held, self.cached_capacity
                    )
                    self._evicted, self._tell_at = 0, self._now() + _TELL_S
            else:
                self._fruitless = self._now() + _FRUITLESS_S
            return bool(freed)

    def _evict(self, victims: deque[Segment], needed: int) -> int:
        """Give back what is next of the victims, until ``needed`` bytes are or there are no more."""
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
                        gone = self._take(blob, segment, needed - freed)
                        if 0 < gone < segment.held:
                            victims.appendleft(replace(segment, held=segment.held - gone))
                    except (OSError, HffsError) as error:
                        _log.debug("event=not-evicted blob=%s error=%s", segment.blob, error)
                        gone = 0
                    if not gone:
                        refused.add(segment.blob)
                    freed += max(gone, 0)
        return freed

    def _take(self, blob: StoredBlob, segment: Segment, needed: int) -> int:
        """Bytes given back of a segment; negative when it was used since it was chosen, and stays."""
        used, _ = blob.last_use(segment.group)
        if used > segment.used:
            return -1
        first = segment.group * GROUP
        going = range(first, min(first + GROUP, block_count(blob.size)))
        return blob.evict(going, needed, tell=self._now() < self._hash_until)

    def _segments(self) -> list[Segment]:
        """All that could go."""
        found: list[Segment] = []
        for path in self._store.state_files():
            with contextlib.suppress(OSError, Damaged, CacheUnusable):
                found += self._segments_of(path)
        return found

    def _segments_of(self, path: str) -> list[Segment]:
        state, header = StateFile.open(path, writing=False)
        try:
            seen = os.lstat(path.removesuffix(".state") + ".data")
            if header.pinned or is_shared(seen) or stat.S_ISLNK(seen.st_mode):  # a link is of another cache's file
                return []
            presence = state.presence(0, state.blocks)
            uses = state.last_uses()
        finally:
            state.close()
        blob = self._store.find_open(path)
        found = []
        try:
            for group, at in enumerate(uses):
                here = presence[group * GROUP : (group + 1) * GROUP]
                held = (len(here) - here.count(0)) * BLOCK_SIZE
                if not held:
                    continue
                if len(here) + group * GROUP == state.blocks and here[-1]:
                    held -= BLOCK_SIZE - block_length(state.blocks - 1, header.size)
                used, again = (float(at & ~1), bool(at & 1)) if blob is None else blob.last_use(group)
                found.append(Segment(path, group, held, used, again))
        finally:
            if blob is not None:
                blob.close()
        return found
