"""One blob on disk: its blocks (``blocks``), and what concerns it as a whole: hashed, verified, lent, named, exchanged.

Made by BlobStore and used by transfer. Lock order, threads and what is never done: as ``blocks`` says.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

from ...errors import BlockAbsent
from ...model import Digest
from ...ranges import BLOCK_SIZE
from .blocks import StoredBlocks
from .locks import HEADER, share
from .state_file import FileMark, VerificationRecord


class StoredBlob(StoredBlocks):
    """A blob that is held open; everybody who opened it closes it once. ``size`` in bytes."""

    @property
    def local_bytes(self) -> int:
        """Bytes in present blocks. Raises CacheUnusable."""
        try:
            return self._state.local_bytes()
        except OSError as error:
            raise self._failed(error) from error

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
            raise self._failed(error) from error

    def record(self, digest: Digest, counts: bytes, mark: FileMark | None, now: float) -> bool:
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
            raise self._failed(error) from error
        return True

    def mark(self) -> FileMark:
        """What tells whether anybody but us wrote to a whole blob. Raises CacheUnusable."""
        try:
            return FileMark.of(self._data)
        except OSError as error:
            raise self._failed(error) from error

    def publications(self, span: range) -> bytes:
        """How often each of these blocks was published, modulo 250. Raises CacheUnusable."""
        try:
            return self._state.counts(span.start, len(span))
        except OSError as error:
            raise self._failed(error) from error

    def bytes_at(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), which are not marked as used. Raises BlockAbsent, CacheUnusable."""
        return self._bytes(start, stop)

    def sound(self, blocks: range) -> bool:
        """Whether a run of blocks is present and still what was written, whatever was found before; one that is not is
        made absent. Raises CacheUnusable."""
        self._checked[blocks.start : blocks.stop] = bytes(len(blocks))  # as no publication is
        try:
            self._bytes(blocks.start * BLOCK_SIZE, min(blocks.stop * BLOCK_SIZE, self.size))
        except BlockAbsent:
            return False
        return True

    def lend(self) -> int | None:
        """A descriptor of the data file for the kernel to read from directly, for the caller to close; None when the
        blob is not wholly here and verified, or is being punched.

        It carries the shared flock that forbids punching, for as long as anybody has that open file: the kernel keeps
        it for a passthrough handle, also when this process is killed. Raises CacheUnusable."""
        try:
            # Opened anew: a lock of the descriptor that publishes and punches would be one with its own.
            fd = os.open(f"/proc/self/fd/{self._data}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._failed(error) from error
        try:
            if share(fd) and self.verified:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    @contextlib.contextmanager
    def naming(self) -> Iterator[int | None]:
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

    def stamp(self) -> tuple[FileMark, bytes]:
        """Differs when any byte was written meanwhile, and not for a new name or mode. Raises CacheUnusable."""
        try:
            mark, counts = FileMark.of(self._data), self._state.counts(0, self._state.blocks)
        except OSError as error:
            raise self._failed(error) from error
        return replace(mark, ctime_ns=0), counts

    def exchange(self, state: int, data: int) -> None:
        """Go on with these files, in which the whole blob is; for ``adopting``, which closes its descriptors itself,
        and holds the blob open, HEADER, and the locks of all blocks: nobody publishes, drops or punches meanwhile.

        Each descriptor is exchanged at once. Data first: whoever reads by the old state then finds its bytes, which are
        the same, and whoever reads by the new one finds the new data. Raises OSError."""
        os.dup2(data, self._data, inheritable=False)
        os.dup2(state, self._state.fd, inheritable=False)
