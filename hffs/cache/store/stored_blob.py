"""One blob on disk: a sparse data file, the record of its present blocks, and whether the whole has been verified.

Present means written, checked, then announced. To publish a block, its data is written, then its CRC, then its presence
byte; to drop it, the presence byte is cleared, then the hole punched. Both happen under the block's lock, which the
kernel releases when its holder dies. Readers take no lock: they read the presence byte, the data, and the presence byte
again. Lock order: blocks, then PUNCHING, then HEADER.

Made by BlobStore. It fetches nothing, waits only for the last two locks (10 s at most), and decides no eviction. Any
thread may call it while the blob is open; every call ends before ``close``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Final, NamedTuple, Self

from ...errors import BlockAbsent, CacheUnusable, NoSpace
from ...files import write_all
from ...model import Blob, Digest
from ...ranges import BLOCK_SIZE, block_count, block_length, bytes_of
from . import blob_files
from .access_times import AccessTimes
from .blob_files import is_read_only, is_shared
from .block_lease import BlockLease
from .checksum import crc32
from .extents import punch
from .layout import BlobPaths, disk_errors
from .locks import CLOSED_FD, HEADER, PUNCHING, RangeLocks, poll, try_exclusive, try_share
from .state_file import Damaged, FileMark, StateFile, StateHeader, VerificationRecord

_log = logging.getLogger(__name__)
_PAGE: Final = 4096  # the unit in which file systems allocate and free
# Checking a damaged block takes a read of 256 KiB and a few system calls; 1 s also covers a very slow disk.
_LOOK_S: Final = 1.0
_ROUNDS: Final = 3  # that other processes change the very same blocks twice in a row has never been seen


class CheckedBlock(NamedTuple):
    """``publication`` is 0 for an absent block; ``data`` is None where the bytes are not those of the CRC, and then
    ``problem`` says why."""

    publication: int
    data: bytes | None
    problem: str = ""


def _ignore(_: object) -> None:
    """Default callback."""


class StoredBlob:
    """A blob that is held open; each user that opened it closes it once. ``size`` in bytes."""

    def __init__(
        self,
        blob: Blob,
        state: StateFile,
        data: int,
        locks: RangeLocks,
        *,
        clock: Callable[[], float] = time.time,
        changed: Callable[[int], None] = _ignore,
        closed: Callable[[StoredBlob], None] = _ignore,
        no_space: NoSpace | None = None,
    ) -> None:
        """``changed`` is called with the bytes that were stored, or (negative) dropped; ``closed`` after the last
        ``close``. ``no_space``: the files could not be created, and nothing can be stored."""
        self.blob = blob
        self.size = blob.size
        self._state = state
        self._data = data
        self._locks = locks
        self._changed = changed
        self._closed = closed
        # Called with blocks that are about to be evicted, while they can still be read; on the thread that evicts.
        self.on_evict: Callable[[range], None] = _ignore
        self.no_space = no_space
        # Per block the publication whose CRC this process has found right; bytes are stored atomically.
        self._checked = bytearray(state.blocks)
        self._warned = False
        self._uses = AccessTimes(state, clock)
        self._translating = disk_errors(f"the cache file {state.path}")
        self._guard = threading.Lock()
        self._users = 1  # guarded by _guard; stays 0 once it got there

    @classmethod
    def open(
        cls,
        paths: BlobPaths,
        *,
        clock: Callable[[], float] = time.time,
        changed: Callable[[int], None] = _ignore,
        closed: Callable[[StoredBlob], None] = _ignore,
    ) -> Self:
        """Opens the files of a blob as they are, for this caller alone.

        Raises FileNotFoundError, Damaged, CacheUnusable, OSError."""
        os.stat(paths.state)  # before a lock file is created for a blob that was removed
        locks = blob_files.open_locks(paths)
        try:
            with locks.holding(HEADER):
                state, header, data = blob_files.open_files(paths)
        except BaseException:
            locks.close()
            raise
        blob = Blob(header.etag, header.size, header.origin)
        return cls(blob, state, data, locks, clock=clock, changed=changed, closed=closed)

    @property
    def path(self) -> str:
        """The path of the state file, which identifies the blob in the cache directory."""
        return self._state.path

    # Reading

    def missing(self, blocks: range) -> list[range]:
        """Returns the runs of ``blocks`` that are not present: the one predicate. Raises CacheUnusable."""
        with self._translating:
            return self._state.missing(blocks)

    def read(self, offset: int, length: int) -> bytes:
        """Returns bytes [offset, offset + length), cut at the blob's end. Raises BlockAbsent, CacheUnusable.

        A block whose bytes do not match its CRC is made absent first, so that it is fetched again."""
        stop = min(offset + length, self.size)
        if offset < 0 or length < 0:
            raise ValueError(f"not a byte range: {length} bytes at {offset}")
        if offset >= stop:
            return b""
        data = self.bytes_at(offset, stop)
        self._uses.record(range(offset // BLOCK_SIZE, (stop - 1) // BLOCK_SIZE + 1), read=True)
        return data

    def bytes_at(self, offset: int, stop: int) -> bytes:
        """As ``read`` of [offset, stop), which is not recorded as a use."""
        first, last = offset // BLOCK_SIZE, (stop - 1) // BLOCK_SIZE + 1
        for _ in range(_ROUNDS):
            try:  # the most frequent call; the context manager costs a fifteenth of a read of 4 KiB
                before = self._state.presence(first, last - first)
            except OSError as error:
                raise self._translating.translate(error) from error
            if 0 in before:
                raise self._absent(first + before.index(0))
            try:
                data = os.pread(self._data, stop - offset, offset)
                known = before == self._checked[first:last]
                if len(data) < stop - offset or not (known or self._matches(first, before, offset, data)):
                    continue
                if self._state.presence(first, last - first) == before:
                    if not known:
                        self._checked[first:last] = before
                    return data
            except OSError:  # an unreadable sector; the check under the lock finds its block
                break
        return self._locked_bytes(offset, stop, range(first, last))

    def _matches(self, first: int, before: bytes, offset: int, data: bytes) -> bool:
        """Whether all blocks not yet checked in this process have their CRC; uses ``data`` where it holds them."""
        view, crcs = memoryview(data), self._state.crcs(first, len(before))
        for block, (count, crc) in enumerate(zip(before, crcs, strict=True), first):
            if self._checked[block] == count:
                continue
            start, length = block * BLOCK_SIZE, block_length(block, self.size)
            whole: bytes | memoryview = view[start - offset : start - offset + length] if start >= offset else b""
            if len(whole) < length:
                whole = os.pread(self._data, length, start)
            if len(whole) < length or crc32(whole) != crc:
                return False
        return True

    def _locked_bytes(self, offset: int, stop: int, span: range) -> bytes:
        """As ``bytes_at`` with the blocks locked; what does not match now is damaged, and made absent."""
        result, contended = b"", span.start

        def attempt() -> bool:
            nonlocal result, contended
            with self._locks.trying(span) as (_, busy):
                if not busy:
                    bad = [block for block in span if not self._is_sound(block)]
                    for block in bad:
                        self._changed(-self._drop(range(block, block + 1)))
                    if bad:
                        raise self._absent(bad[0])
                    result = os.pread(self._data, stop - offset, offset)
                    return True
            contended = busy[0].start
            if 0 in self._state.presence(span.start, len(span)):
                raise self._absent(contended)
            return False

        with self._translating:
            # Another one checks the blocks likewise, or drops them. After "absent" a reader would request a fetch,
            # find the block present, and be back before the check has ended.
            if not poll(attempt, _LOOK_S):
                raise self._absent(contended)
        return result

    def check_block(self, block: int) -> CheckedBlock:
        """Reads a block and compares it with its CRC, whatever was found before; changes nothing.

        A block that others keep changing counts as absent. Raises OSError."""
        length = block_length(block, self.size)
        for _ in range(_ROUNDS):
            before = self._state.presence(block, 1)
            if not before[0]:
                break
            problem = "is damaged"
            try:
                data = os.pread(self._data, length, block * BLOCK_SIZE)
            except OSError as error:  # an unreadable sector
                data, problem = b"", f"cannot be read ({error.strerror})"
            sound = len(data) == length and (crc32(data),) == self._state.crcs(block, 1)
            if self._state.presence(block, 1) == before:
                return CheckedBlock(before[0], data) if sound else CheckedBlock(before[0], None, problem)
        return CheckedBlock(0, None)

    def _is_sound(self, block: int) -> bool:
        """Whether a block, whose lock is held, is present and matches its CRC; logs where it does not."""
        checked = self.check_block(block)
        if checked.problem:
            level = logging.DEBUG if self._warned else logging.WARNING  # a bad disk would fill the log
            self._warned = True
            _log.log(level, "event=block-damaged etag=%s block=%d why=%s", self.blob.etag, block, checked.problem)
        return checked.data is not None

    def recheck(self, blocks: range) -> bool:
        """Whether a run of blocks is present and matches its CRCs, whatever was found before; damaged ones are made
        absent. Raises CacheUnusable."""
        self._checked[blocks.start : blocks.stop] = bytes(len(blocks))  # the number of no publication
        try:
            self.bytes_at(blocks.start * BLOCK_SIZE, min(blocks.stop * BLOCK_SIZE, self.size))
        except BlockAbsent:
            return False
        return True

    def last_use(self, group: int) -> tuple[float, bool]:
        """Returns when these 64 blocks were last used (seconds since the epoch; published counts as used), and whether
        repeatedly; uses by this process are finer than a second. Raises CacheUnusable."""
        with self._translating:
            return self._uses.last(group)

    # Writing

    def lease(self, blocks: range) -> BlockLease:
        """Returns the right to publish those of ``blocks`` that are missing and not leased to others; never waits.

        Release it, or use it in ``with``. Raises CacheUnusable."""
        self._check_range(blocks)
        if not self.hold():
            raise CacheUnusable(f"the cache file {self._state.path} is closed")
        lease = BlockLease(self._locks, self.close)
        try:
            with self._translating:
                for run in self._state.missing(blocks):
                    acquired, busy = self._locks.try_acquire(run)
                    lease.add(acquired)
                    lease.busy.extend(busy)
                # Another process may have published between the check and the lock.
                lease.keep_only([left for run in lease.blocks for left in self._state.missing(run)])
        except BaseException:
            lease.release()
            raise
        return lease

    def publish(self, lease: BlockLease, first: int, data: bytes | memoryview) -> None:
        """Makes leased blocks present, from ``first`` on as many as ``data`` holds: all their bytes, checked by the
        caller. They become present together, and the lease on them ends.

        Raises NoSpace, CacheUnusable; all of them are still absent and leased then."""
        run = range(first, first + block_count(len(data)))
        for block in run:
            if not lease.holds(block):
                raise ValueError(f"block {block} is not leased")
        if not run or len(data) != bytes_of(run, self.size).length:
            raise ValueError(f"{len(data)} bytes are not whole blocks from {first} on")
        if self.no_space is not None:
            raise NoSpace(self.no_space.what, self.no_space.remedy)
        with self._translating:
            # It cannot become shared between this check and the write: that takes a complete blob.
            if self._is_shared():
                raise CacheUnusable(
                    f"the data file of {self._state.path} is also a file of another folder and must not be changed",
                    "the blob is stored anew when it is opened next",
                )
            counts = self._state.next_counts(run)
            write_all(self._data, data, first * BLOCK_SIZE)
            self._state.set_crcs(first, [crc32(data[at : at + BLOCK_SIZE]) for at in range(0, len(data), BLOCK_SIZE)])
            self._state.set_present(first, counts)
            self._checked[run.start : run.stop] = counts
            lease.release_run(run)
        self._uses.record(run, read=False)
        self._changed(len(data))

    def discard(self, blocks: range) -> int:
        """Makes blocks absent and frees their space; leased ones are left alone. Returns the bytes freed.

        The space stays in use (0 is returned) while the data file is open for passthrough or has other names. Of a
        shared file the names are removed once nothing of it is present. Raises CacheUnusable."""
        self._check_range(blocks)
        with self._translating:
            with self._locks.trying(blocks) as (acquired, _):
                freed = sum(self._drop(run) for run in acquired)
            if self._is_shared() and not self._state.local_bytes():
                self.remove_files()
        self._changed(-freed)
        return freed

    def evict(self, blocks: range, needed: int, *, report: bool = True) -> int:
        """Makes present ones of ``blocks`` absent, from the first on, until ``needed`` bytes of disk are freed; returns
        the bytes freed. ``report``: calls ``on_evict`` before.

        Drops only what can and may be freed: returns 0 for a blob that is pinned, has or had another name, or is open
        for passthrough. Leased blocks are left alone. Raises CacheUnusable."""
        self._check_range(blocks)
        present = self._present(blocks)
        if not present:
            return 0
        # Whole pages, the unit of allocation: the last block of most files is a short one.
        totals = enumerate(accumulate(map(self._pages, present)), 1)
        count = next((number for number, total in totals if total >= needed), None)
        victims = present[:count]
        span = range(victims[0], victims[-1] + 1)
        if report:
            self.on_evict(span)
        with self._translating, self._locks.trying(span) as (acquired, _):
            freed = sum(self._evict_run(run) for run in acquired)
        if freed:
            self._uses.forget(victims)
            self._changed(-freed)
        return freed

    def _present(self, run: range) -> list[int]:
        with self._translating:
            return [at for at, count in enumerate(self._state.presence(run.start, len(run)), run.start) if count]

    def _pages(self, block: int) -> int:
        """The bytes of disk of a block."""
        return -(-block_length(block, self.size) // _PAGE) * _PAGE

    def _evict_run(self, run: range) -> int:
        """As ``_drop``, where the space can be freed; until the end the blob is neither lent nor linked."""
        with self._locks.holding(PUNCHING), try_exclusive(self._data) as alone:
            if not alone or is_shared(os.fstat(self._data)):
                return 0
            present = self._present(run)
            with self._locks.holding(HEADER):
                header = self._header()
                if header is None or header.pinned:
                    return 0
                self._state.set_absent(run)
                self._clear_verified(header)
            punch(self._data, run.start * BLOCK_SIZE, len(run) * BLOCK_SIZE)
        return sum(map(self._pages, present))

    def _drop(self, run: range) -> int:
        """Clears presence bytes, then the verification, then makes a hole, for a run whose locks are held. Returns the
        bytes freed."""
        present = self._present(run)
        self._state.set_absent(run)
        self.clear_verified()
        with self._locks.holding(PUNCHING), try_exclusive(self._data) as alone:
            if not alone or self._is_shared():
                return 0
            # Whole blocks also at the end: only then is the last, partial page of the file freed too.
            punch(self._data, run.start * BLOCK_SIZE, len(run) * BLOCK_SIZE)
        return sum(block_length(block, self.size) for block in present)

    def remove_files(self) -> None:
        """Removes the names of the files if nothing is present; the state file first, as it is created last.

        Files that another process created in their place stay. Raises CacheUnusable, OSError."""
        paths = self._state.path, self._state.path.removesuffix(".state") + ".data"
        with self._locks.holding(HEADER):
            if self._state.local_bytes():
                return
            for path, fd in zip(paths, (self._state.fd, self._data), strict=True):
                with contextlib.suppress(FileNotFoundError):
                    # A link belongs to this blob whatever became of its target; the state file was just compared.
                    if not os.path.islink(path) and not os.path.samestat(os.stat(path), os.fstat(fd)):
                        return
                    os.unlink(path)

    def _is_shared(self) -> bool:
        return is_read_only(self._data) or is_shared(os.fstat(self._data))

    # The whole

    @property
    def local_bytes(self) -> int:
        """Bytes in present blocks. Raises CacheUnusable."""
        with self._translating:
            return self._state.local_bytes()

    @property
    def complete(self) -> bool:
        """Whether every block is present. Raises CacheUnusable."""
        return not self.missing(range(self._state.blocks))

    @property
    def verified(self) -> bool:
        """Whether the whole was hashed and the data file is unchanged since. Raises CacheUnusable."""
        with self._translating:
            header = self._header()
            record = header.verification if header else None
            return record is not None and record.mark == FileMark.of(self._data) and self.complete

    @property
    def pinned(self) -> bool:
        """Whether the blob is protected from eviction. Raises CacheUnusable."""
        with self._translating:
            header = self._header()
            return header is not None and header.pinned

    @property
    def linked(self) -> bool:
        """Whether the data file still has any name. Raises CacheUnusable."""
        with self._translating:
            return os.fstat(self._data).st_nlink > 0

    def can_punch(self) -> bool:
        """Whether no process reads the data file by passthrough at this moment. Raises CacheUnusable."""
        with self._translating, try_exclusive(self._data) as alone:
            return alone

    def record_verified(self, digest: Digest, counts: bytes, mark: FileMark | None, now: float) -> bool:
        """Records that the blob has this digest, as hashed from the blocks of these publications. Returns False when
        they, or the file's times where ``mark`` gives them, have changed. Raises CacheUnusable."""
        with self._translating:
            os.fdatasync(self._data)
            os.fdatasync(self._state.fd)
            with self._locks.holding(HEADER):
                header, found = self._header(), FileMark.of(self._data)
                changed = self._state.counts(0, self._state.blocks) != counts or mark not in (None, found)
                if header is None or changed or not self.complete:
                    return self.verified  # by another process, which has linked the file since
                self._state.write_header(replace(header, verification=VerificationRecord(digest, int(now), found)))
        return True

    def clear_verified(self) -> None:
        """Ends the verification: the kernel may no longer read the file directly, and it is hashed at its next use.

        Raises CacheUnusable."""
        with self._translating, self._locks.holding(HEADER):
            self._clear_verified(self._header())

    def _clear_verified(self, header: StateHeader | None) -> None:
        if header is not None and header.verification is not None:
            self._state.write_header(replace(header, verification=None))

    def is_record_outdated(self, *, clear: bool) -> bool:
        """Whether the verification does not fit the data file any more; ``clear`` removes it. Raises CacheUnusable."""
        with self._translating, self._locks.holding(HEADER):
            header = self._header()
            if header is None or header.verification is None or header.verification.mark == FileMark.of(self._data):
                return False
            if clear:
                self._clear_verified(header)
        return True

    def mark(self) -> FileMark:
        """Returns what changes when another program writes to a complete blob. Raises CacheUnusable."""
        with self._translating:
            return FileMark.of(self._data)

    def publications(self, span: range) -> bytes:
        """Returns how often each of these blocks was published, modulo 250. Raises CacheUnusable."""
        with self._translating:
            return self._state.counts(span.start, len(span))

    def fingerprint(self) -> tuple[FileMark, bytes]:
        """Returns what differs once any byte was written, and not after a new name or mode. Raises CacheUnusable."""
        with self._translating:
            mark, counts = FileMark.of(self._data), self._state.counts(0, self._state.blocks)
        return replace(mark, ctime_ns=0), counts

    def dup_fd(self) -> int | None:
        """Returns a descriptor of the data file for the kernel to read from directly, for the caller to close; None
        when the blob is not complete and verified, or is being punched.

        It holds the shared flock that forbids punching while that open file exists anywhere: the kernel keeps it for a
        passthrough handle, also when this process is killed. Raises CacheUnusable."""
        with self._translating:
            # A new open file: with the one that publishes and punches, the flock would not exclude this process.
            fd = os.open(f"/proc/self/fd/{self._data}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if try_share(fd) and self.verified:
                    return fd
            except BaseException:
                os.close(fd)
                raise
        os.close(fd)
        return None

    @contextlib.contextmanager
    def linking(self) -> Iterator[int | None]:
        """Yields the data file's descriptor, for giving the file another name (and removing write permission) inside;
        None when the blob is not complete and verified.

        A new name and a mode change ctime, which the verification depends on, so the new ctime is recorded. This
        verifies nothing wrong. No process of hffs writes the file inside: one that publishes has an absent block, and
        making a block absent takes HEADER, which is held here, before that block can be punched or published. Other
        programs: the record must have fitted to the last before, and a write since then shows in mtime. If the process
        is killed before the record is written, or fails, the record does not fit, and the blob is hashed again. Raises
        CacheUnusable; OSErrors are not translated, since most come from the caller's own block."""
        with self._locks.holding(HEADER):
            header, before = self._header(), FileMark.of(self._data)
            record = header.verification if header else None
            if header is None or record is None or record.mark != before or not self.complete:
                yield None
                return
            try:
                yield self._data
            finally:
                after = FileMark.of(self._data)
                if after != before and replace(after, ctime_ns=before.ctime_ns) == before:
                    self._state.write_header(replace(header, verification=replace(record, mark=after)))

    def swap_files(self, state: int, data: int) -> None:
        """Continues with these files, which hold the complete blob; for ``adopt``, which closes its descriptors itself,
        and holds the blob open, HEADER, and the locks of all blocks: nothing is published, dropped, punched.

        Each descriptor is replaced atomically, data first: a reader with the old state then finds its bytes, which are
        the same, and one with the new state finds the new data. Raises OSError."""
        os.dup2(data, self._data, inheritable=False)
        os.dup2(state, self._state.fd, inheritable=False)

    def _header(self) -> StateHeader | None:
        """None when it is damaged (the next open stores the blob anew) or was read while another process wrote it."""
        try:
            return self._state.header()
        except Damaged:
            return None

    # Being open

    def hold(self) -> bool:
        """Adds a user; False when the last one has closed it."""
        with self._guard:
            self._users += bool(self._users)
            return bool(self._users)

    def close(self) -> None:
        """Removes a user; the last one closes the files."""
        with self._guard:
            self._users -= bool(self._users)
            if self._users:
                return
        self._closed(self)
        self.force_close()

    def force_close(self) -> None:
        """Closes the files despite other users; their reads and leases fail with CacheUnusable from then on."""
        with self._guard:
            self._users = 0
            data, self._data = self._data, CLOSED_FD
        self._state.close()
        self._locks.close()
        if data != CLOSED_FD:
            os.close(data)

    def _check_range(self, blocks: range) -> None:
        if blocks.step != 1 or not 0 <= blocks.start <= blocks.stop <= self._state.blocks:
            raise ValueError(f"not a run of the {self._state.blocks} blocks of {self.blob.etag}: {blocks}")

    def _absent(self, block: int) -> BlockAbsent:
        return BlockAbsent(f"block {block} of {self.blob.etag} is not in the cache")
