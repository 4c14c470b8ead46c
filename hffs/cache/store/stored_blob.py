"""The blocks of one blob on disk: a sparse data file, and the truth of which of its blocks are there.

Present means written, checked, then announced. Publishing is data, CRC, presence byte; dropping is presence byte, hole;
both under the block's lock, which the kernel frees when its holder dies. Readers take no lock: byte, data, byte again.
Lock order: blocks, then PUNCHING, then HEADER.

``stored`` adds what concerns the blob as a whole. It fetches nothing, waits for nobody but a moment for the last two
locks, and decides no eviction. Any thread, as long as it holds the blob open: a user ends its calls before its
``close``.
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
from typing import Final

from ...errors import BlockAbsent, CacheUnusable, HffsError, NoSpace
from ...model import Blob, Digest
from ...ranges import BLOCK_SIZE, block_count, block_length, bytes_of
from .access_times import AccessTimes
from .blob_files import is_read_only, is_shared
from .block_lease import BlockLease
from .checksum import crc32
from .holes import punch
from .layout import disk_error
from .locks import CLOSED_FD, HEADER, PUNCHING, RangeLocks, try_exclusive, try_share
from .state_file import Damaged, FileMark, StateFile, StateHeader, VerificationRecord

_log = logging.getLogger(__name__)
_PAGE: Final = 4096  # what file systems give and take
# A look at a damaged block takes a read of 256 KiB and a few system calls; 1 s also covers a very slow disk.
_LOOK_S: Final = 1.0
_PAUSE_S: Final = 0.002


class StoredBlob:
    """A blob that is held open; everybody who opened it closes it once. ``size`` in bytes."""

    def __init__(
        self,
        blob: Blob,
        state: StateFile,
        data: int,
        locks: RangeLocks,
        *,
        clock: Callable[[], float],
        changed: Callable[[int], None],
        closed: Callable[[StoredBlob], None],
        full: NoSpace | None = None,
    ) -> None:
        self.blob = blob
        self.size = blob.size
        self._state = state
        self._data = data
        self._data_path = state.path.removesuffix(".state") + ".data"
        self._locks = locks
        self._clock = clock
        self._changed = changed
        self._closed = closed
        # Told of blocks that are about to be evicted, while they can still be read; on the thread that evicts.
        self.on_evict: Callable[[range], None] = lambda _: None
        self._full = full  # why nothing can be stored: there was no room for a state file
        # Per block the publication whose CRC this process has seen to be right; bytes are stored atomically.
        self._checked = bytearray(state.blocks)
        self._warned = False
        self._uses = AccessTimes(state, clock)
        self._guard = threading.Lock()
        self._users = 1  # guarded by _guard; 0 for ever once it got there

    @property
    def path(self) -> str:
        """Of its state file, which names it among all of the cache directory."""
        return self._state.path

    @property
    def no_space(self) -> NoSpace | None:
        """Why nothing of it can be stored while it stays open: there was no room for its files."""
        return self._full

    # Reading

    def missing(self, blocks: range) -> list[range]:
        """The runs of ``blocks`` that are not present: the one predicate. Raises CacheUnusable."""
        try:
            return self._state.missing(blocks)
        except OSError as error:
            raise self._translate(error) from error

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length), cut at the blob's end. Raises BlockAbsent, CacheUnusable.

        A block whose bytes are not those of its CRC is made absent first, so that asking again mends it."""
        stop = min(offset + length, self.size)
        if offset < 0 or length < 0:
            raise ValueError(f"not a byte range: {length} bytes at {offset}")
        if offset >= stop:
            return b""
        data = self._bytes(offset, stop)
        self._uses.record(range(offset // BLOCK_SIZE, (stop - 1) // BLOCK_SIZE + 1), read=True)
        return data

    def _bytes(self, offset: int, stop: int) -> bytes:
        first, last = offset // BLOCK_SIZE, (stop - 1) // BLOCK_SIZE + 1
        for _ in range(3):  # somebody publishes or drops these very blocks; twice in a row is already unheard of
            try:
                before = self._state.presence(first, last - first)
            except OSError as error:
                raise self._translate(error) from error
            if 0 in before:
                raise self._absent(first + before.index(0))
            try:
                data = os.pread(self._data, stop - offset, offset)
                known = before == self._checked[first:last]
                if len(data) < stop - offset or not (known or self._right(first, before, offset, data)):
                    continue
                if self._state.presence(first, last - first) == before:
                    if not known:
                        self._checked[first:last] = before
                    return data
            except OSError:  # an unreadable sector; which block it is shows under the lock
                break
        return self._bytes_alone(offset, stop, range(first, last))

    def _right(self, first: int, before: bytes, offset: int, data: bytes) -> bool:
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

    def _bytes_alone(self, offset: int, stop: int, span: range) -> bytes:
        """The same with nobody else at these blocks; what is wrong now is wrong, and made absent."""
        deadline = time.monotonic() + _LOOK_S
        try:
            while True:
                taken, busy = self._locks.try_acquire(span)
                try:
                    if not busy:
                        bad = [block for block in span if not self._sound(block)]
                        for block in bad:
                            self._changed(-self._drop(range(block, block + 1)))
                        if bad:
                            raise self._absent(bad[0])
                        return os.pread(self._data, stop - offset, offset)
                finally:
                    for run in taken:
                        self._locks.release(run)
                # Somebody looks at it as we do, or drops it. Told "absent", a reader would ask, hear that it is here,
                # and come back before they have found out.
                if time.monotonic() >= deadline or 0 in self._state.presence(span.start, len(span)):
                    raise self._absent(busy[0].start)
                time.sleep(_PAUSE_S)
        except OSError as error:
            raise self._translate(error) from error

    def _sound(self, block: int) -> bool:
        """Whether a block, whose lock is held, is present and right."""
        if not self._state.presence(block, 1)[0]:
            return False
        length = block_length(block, self.size)
        try:
            data = os.pread(self._data, length, block * BLOCK_SIZE)
            reason = "is damaged"
        except OSError as error:
            data, reason = b"", f"cannot be read ({error.strerror})"
        if len(data) == length and (crc32(data),) == self._state.crcs(block, 1):
            return True
        level = logging.DEBUG if self._warned else logging.WARNING  # a bad disk would fill the log
        self._warned = True
        _log.log(level, "event=block-damaged etag=%s block=%d why=%s", self.blob.etag, block, reason)
        return False

    def last_use(self, group: int) -> tuple[float, bool]:
        """When these 64 blocks were last used (seconds since the epoch; published counts as used), and whether again
        after a while; finer than a second as far as it was by this process. Raises CacheUnusable."""
        try:
            return self._uses.last(group)
        except OSError as error:
            raise self._translate(error) from error

    # Writing

    def lease(self, blocks: range) -> BlockLease:
        """The right to publish those of ``blocks`` that are missing and nobody else's; never waits.

        Release it, or use it in ``with``. Raises CacheUnusable."""
        self._check_range(blocks)
        if not self.hold():
            raise CacheUnusable(f"the cache file {self._state.path} is closed")
        claim = BlockLease(self._locks, self.close)
        try:
            for run in self._state.missing(blocks):
                taken, busy = self._locks.try_acquire(run)
                claim.add(taken)
                claim.busy.extend(busy)
            # Another process may have published between look and lock.
            claim.keep_only([left for run in claim.blocks for left in self._state.missing(run)])
        except BaseException as error:
            claim.release()
            if isinstance(error, OSError):
                raise self._translate(error) from error
            raise
        return claim

    def publish(self, claim: BlockLease, first: int, data: bytes | memoryview) -> None:
        """Make claimed blocks present, from ``first`` on as many as ``data`` holds: all their bytes, checked by the
        caller. They are announced together, and the claim to them ends with that.

        Raises NoSpace, CacheUnusable; all of them are still absent and claimed then."""
        run = range(first, first + block_count(len(data)))
        for block in run:
            if not claim.holds(block):
                raise ValueError(f"block {block} is not claimed")
        if not run or len(data) != bytes_of(run, self.size).length:
            raise ValueError(f"{len(data)} bytes are not whole blocks from {first} on")
        if self._full is not None:
            raise NoSpace(self._full.what, self._full.remedy)
        try:
            # Nobody can give it away between this look and the write: that takes a complete blob, and ours is not.
            if self._given_away():
                raise CacheUnusable(
                    f"the cache file {self._state.path} is of a file laid in a folder, which is not to be changed",
                    "it begins anew when it is opened next",
                )
            counts = self._state.next_counts(run)
            written = os.pwrite(self._data, data, first * BLOCK_SIZE)
            while written < len(data):
                written += os.pwrite(self._data, data[written:], first * BLOCK_SIZE + written)
            crcs = [crc32(data[at : at + BLOCK_SIZE]) for at in range(0, len(data), BLOCK_SIZE)]
            self._state.set_crcs(first, crcs)
            self._state.set_present(first, counts)
            self._checked[run.start : run.stop] = counts
            claim.release_run(run)
        except OSError as error:
            raise self._translate(error) from error
        self._uses.record(run, read=False)
        self._changed(len(data))

    def discard(self, blocks: range) -> int:
        """Make blocks absent and give their space back; claimed ones are left alone. Bytes given back.

        Space stays in use (0 is returned) while the data file is open for passthrough or has other names. A file that
        was given away goes as a whole, once nothing of it is left here. Raises CacheUnusable."""
        self._check_range(blocks)
        freed = 0
        try:
            taken, _ = self._locks.try_acquire(blocks)
            try:
                for run in taken:
                    freed += self._drop(run)
            finally:
                for run in taken:
                    self._locks.release(run)
            if self._given_away() and not self._state.local_bytes():
                self._unlink()
        except OSError as error:
            raise self._translate(error) from error
        self._changed(-freed)
        return freed

    def evict(self, blocks: range, needed: int, *, tell: bool = True) -> int:
        """Make present ones of ``blocks`` absent, from the first on, until ``needed`` bytes are given back to the disk;
        the bytes of disk given back. ``tell`` whoever wants to know before (``on_leaving``).

        Nothing is dropped that cannot be given back, or may not: 0 for a blob that is pinned, has or had another name,
        or is open for passthrough. Claimed blocks are left alone. Raises CacheUnusable."""
        self._check_range(blocks)
        freed = 0
        try:
            present = self._state.presence(blocks.start, len(blocks))
            found = [block for block, count in enumerate(present, blocks.start) if count]
            # Whole pages, as the disk counts: the last block of most files is a short one.
            sizes = [-(-block_length(block, self.size) // _PAGE) * _PAGE for block in found]
            most = next((n for n, total in enumerate(accumulate(sizes), 1) if total >= needed), len(found))
            going = range(found[0], found[most - 1] + 1) if found else range(0)
            if tell:
                self.on_evict(going)
            taken, _ = self._locks.try_acquire(going) if found else ([], [])
            try:
                for run in taken:
                    freed += self._evict_run(run)
            finally:
                for run in taken:
                    self._locks.release(run)
        except OSError as error:
            raise self._translate(error) from error
        if freed:
            self._uses.forget(found[:most])
            self._changed(-freed)
        return freed

    def _evict_run(self, run: range) -> int:
        """As ``_drop``, for what can be given back; nobody may begin to lend or name the blob meanwhile."""
        with self._locks.holding(PUNCHING), try_exclusive(self._data) as alone:
            if not alone or is_shared(os.fstat(self._data)):
                return 0
            present = [at for at, count in enumerate(self._state.presence(run.start, len(run)), run.start) if count]
            with self._locks.holding(HEADER):
                header = self._header()
                if header is None or header.pinned:
                    return 0
                self._state.set_absent(run)
                if header.verification is not None:
                    self._state.write_header(replace(header, verification=None))
            punch(self._data, run.start * BLOCK_SIZE, len(run) * BLOCK_SIZE)
        return sum(-(-block_length(block, self.size) // _PAGE) * _PAGE for block in present)

    def _drop(self, run: range) -> int:
        """Byte, then verification, then hole, for a run whose locks are held; bytes given back to the disk."""
        present = [block for block, count in enumerate(self._state.presence(run.start, len(run)), run.start) if count]
        self._state.set_absent(run)
        with self._locks.holding(HEADER):
            header = self._header()
            if header is not None and header.verification is not None:
                self._state.write_header(replace(header, verification=None))
        with self._locks.holding(PUNCHING), try_exclusive(self._data) as alone:
            if not alone or self._given_away():
                return 0
            # Whole blocks also at the end: only then does the last, partial page of the file go too.
            punch(self._data, run.start * BLOCK_SIZE, len(run) * BLOCK_SIZE)
        return sum(block_length(block, self.size) for block in present)

    def _unlink(self) -> None:
        """Leave the data file to whoever else has it; the state file goes first, as in BlobStore."""
        with self._locks.holding(HEADER):
            if self._state.local_bytes():
                return
            for path, fd in ((self._state.path, self._state.fd), (self._data_path, self._data)):
                with contextlib.suppress(FileNotFoundError):
                    # A link is ours whatever became of the file it leads to; the state file before it told whose it is.
                    if not os.path.islink(path) and not os.path.samestat(os.stat(path), os.fstat(fd)):
                        return  # another process has begun anew
                    os.unlink(path)

    def _given_away(self) -> bool:
        return is_read_only(self._data) or is_shared(os.fstat(self._data))

    def _header(self) -> StateHeader | None:
        """None when it is damaged (the next to open the blob begins anew) or was read while another wrote it."""
        try:
            return self._state.header()
        except Damaged:
            return None

    # The whole

    @property
    def local_bytes(self) -> int:
        """Bytes in present blocks. Raises CacheUnusable."""
        try:
            return self._state.local_bytes()
        except OSError as error:
            raise self._translate(error) from error

    @property
    def complete(self) -> bool:
        """Whether every block is present. Raises CacheUnusable."""
        return not self.missing(range(self._state.blocks))

    @property
    def verified(self) -> bool:
        """Whether the whole was hashed and has not been touched since. Raises CacheUnusable."""
        try:
            header = self._header()
            record = header.verification if header else None
            return record is not None and record.mark == FileMark.of(self._data) and self.complete
        except OSError as error:
            raise self._translate(error) from error

    def record_verified(self, digest: Digest, counts: bytes, mark: FileMark | None, now: float) -> bool:
        """Record that the blob, of whose blocks these publications were hashed, is right; for ``IncrementalHash``.
        False when they, or the file's times where ``mark`` tells them, are no longer the same. Raises CacheUnusable."""
        try:
            os.fdatasync(self._data)
            os.fdatasync(self._state.fd)
            with self._locks.holding(HEADER):
                header, found = self._header(), FileMark.of(self._data)
                changed = self._state.counts(0, self._state.blocks) != counts or mark not in (None, found)
                if header is None or changed or not self.complete:
                    return self.verified  # by another process, which has given it a name meanwhile
                self._state.write_header(replace(header, verification=VerificationRecord(digest, int(now), found)))
        except OSError as error:
            raise self._translate(error) from error
        return True

    def mark(self) -> FileMark:
        """What tells whether anybody but us wrote to a whole blob. Raises CacheUnusable."""
        try:
            return FileMark.of(self._data)
        except OSError as error:
            raise self._translate(error) from error

    def publications(self, span: range) -> bytes:
        """How often each of these blocks was published, modulo 250. Raises CacheUnusable."""
        try:
            return self._state.counts(span.start, len(span))
        except OSError as error:
            raise self._translate(error) from error

    def bytes_at(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), which are not marked as used. Raises BlockAbsent, CacheUnusable."""
        return self._bytes(start, stop)

    def recheck(self, blocks: range) -> bool:
        """Whether a run of blocks is present and still what was written, whatever was found before; one that is not is
        made absent. Raises CacheUnusable."""
        self._checked[blocks.start : blocks.stop] = bytes(len(blocks))  # as no publication is
        try:
            self._bytes(blocks.start * BLOCK_SIZE, min(blocks.stop * BLOCK_SIZE, self.size))
        except BlockAbsent:
            return False
        return True

    def dup_fd(self) -> int | None:
        """A descriptor of the data file for the kernel to read from directly, for the caller to close; None when the
        blob is not wholly here and verified, or is being punched.

        It carries the shared flock that forbids punching, for as long as anybody has that open file: the kernel keeps
        it for a passthrough handle, also when this process is killed. Raises CacheUnusable."""
        try:
            # Opened anew: a lock of the descriptor that publishes and punches would be one with its own.
            fd = os.open(f"/proc/self/fd/{self._data}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._translate(error) from error
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
        """The data file's descriptor, for giving the file one more name (and taking write permission away) inside;
        None when the blob is not wholly here and verified.

        A new name and a mode change ctime, which the verification goes by, so it gets the new one. Nothing wrong passes
        for verified by that. Of our own processes none writes the file inside: one that publishes has a block that is
        absent, and whoever makes one absent takes HEADER, which is held here, before that block can be punched or
        published. Of others, who write as they like, the record must have fitted to the last before, and a write since
        then shows in mtime. Killed before the record is written, or failing, we leave one that does not fit, and the
        blob is hashed again. Raises CacheUnusable, and OSError as it comes: most are the caller's own."""
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

    def fingerprint(self) -> tuple[FileMark, bytes]:
        """Differs when any byte was written meanwhile, and not for a new name or mode. Raises CacheUnusable."""
        try:
            mark, counts = FileMark.of(self._data), self._state.counts(0, self._state.blocks)
        except OSError as error:
            raise self._translate(error) from error
        return replace(mark, ctime_ns=0), counts

    def swap_files(self, state: int, data: int) -> None:
        """Go on with these files, in which the whole blob is; for ``adopting``, which closes its descriptors itself,
        and holds the blob open, HEADER, and the locks of all blocks: nobody publishes, drops or punches meanwhile.

        Each descriptor is exchanged at once. Data first: whoever reads by the old state then finds its bytes, which are
        the same, and whoever reads by the new one finds the new data. Raises OSError."""
        os.dup2(data, self._data, inheritable=False)
        os.dup2(state, self._state.fd, inheritable=False)

    # Being open

    def hold(self) -> bool:
        """One more user; False when the last one has gone and it is closed for good."""
        with self._guard:
            self._users += bool(self._users)
            return bool(self._users)

    def close(self) -> None:
        """One user less; the last one closes the files."""
        with self._guard:
            self._users -= bool(self._users)
            if self._users:
                return
        self._closed(self)
        self.force_close()

    def force_close(self) -> None:
        """Close the files whoever uses them; reads and claims fail with CacheUnusable from then on."""
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

    def _translate(self, error: OSError) -> HffsError:
        return disk_error(error, f"the cache file {self._state.path}")
