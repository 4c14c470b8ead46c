"""What a file's readers will want next, guessed from what they read: one cursor for each reading pattern.

``transfer.reader`` calls ``observe`` for every read, under the file's lock, and wants what is returned as AHEAD. Only a
guess about time: a wrong one costs traffic within the bounds below, never correctness. Never fetches, counts no memory
(``window_limit`` is told) and knows no handle, as processes share files and threads share handles. Not thread-safe.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ..ranges import BLOCK_SIZE, ByteRange, clip

_KIB: Final = 1024
_MIB: Final = 1024 * 1024

# Linux hands the requests of one sequential reader over up to 256 KiB back and 512 KiB forward of their order
# (mountpoint-s3 measured it); within this a read is in order.
REORDERED: Final = 512 * _KIB
# A reader that leaves out no more than this is still the same reader. hf-mount and mountpoint-s3 keep to 16 MiB too.
SKIPPED: Final = 16 * _MIB
# Up to here a cursor is on trial. A random read of 4 MiB arrives as sequential requests too and may cost 1.35 times its
# bytes, so what is wanted beyond it must stay near 1 MiB: half of what was read up to 2 MiB, a quarter from 4 MiB on.
TRIAL: Final = 8 * _MIB
TRIAL_WINDOW: Final = 1 * _MIB


@dataclass(frozen=True, slots=True)
class Window:
    """One cursor as status shows it: where its reader is, how far ahead it has wanted, its window, its bytes read."""

    position: int
    wanted: int
    window: int
    read: int


@dataclass(slots=True)
class _Cursor:
    position: int  # where the reader stands: the end of the farthest read in order
    wanted: int  # all up to here was wanted, or read
    window: int = 0  # how far ahead of position to want
    read: int = 0  # bytes this cursor's reader has read, each once
    run: int = 0  # of these, since the last misprediction
    gaps: int = 0  # bytes left out within REORDERED that may still come


class ReadCursors:
    """The reading patterns of one file of ``size`` bytes, the ``max_cursors`` last used of them."""

    def __init__(self, size: int, *, max_cursors: int = 16, max_window: int = 256 * _MIB) -> None:
        """16 cursors: loaders read one file with as many threads. 256 MiB: ample for 10 Gbit/s at 50 ms (60 MiB)."""
        if max_cursors < 1 or min(size, max_window) < 0:
            raise ValueError("at least one cursor; sizes count from 0")
        self._size = size
        self._max_cursors = max_cursors
        self._max_window = max_window
        self._cursors: OrderedDict[int, _Cursor] = OrderedDict()  # least recently used first; the keys only name them
        self._named = 0

    def observe(self, offset: int, length: int, *, window_limit: int | None = None) -> ByteRange:
        """The bytes to want ahead now that ``[offset, offset + length)`` is read; empty: nothing.

        Whole blocks beyond the read (the last may end with the file), never again what this cursor has wanted; at least
        half a window at a time. ``window_limit`` (bytes) bounds the window for now, where memory or budget is short.
        """
        asked = clip(offset, length, self._size)
        if not asked.length:
            return ByteRange(asked.stop, asked.stop)
        name, distance = self._nearest(asked.start)
        if name is None:
            self._add(_Cursor(asked.stop, asked.stop, read=asked.length, run=asked.length))
            return ByteRange(asked.stop, asked.stop)
        cursor = self._cursors[name]
        if distance > REORDERED:
            self._skip(name, cursor, asked)
            return ByteRange(asked.stop, asked.stop)
        self._cursors.move_to_end(name)
        self._advance(cursor, asked)
        return self._ahead(cursor, window_limit)

    def windows(self) -> list[Window]:
        """What the cursors are at, the last used first."""
        return [Window(c.position, c.wanted, c.window, c.read) for c in reversed(self._cursors.values())]

    def _nearest(self, offset: int) -> tuple[int | None, int]:
        """The cursor that a read at ``offset`` continues, and how far past its position that is (negative: before)."""
        best: int | None = None
        best_distance = SKIPPED + 1
        for name in reversed(self._cursors):  # of equals the one used last
            distance = offset - self._cursors[name].position
            if distance >= -REORDERED and abs(distance) < abs(best_distance):
                best, best_distance = name, distance
                if not distance:
                    break
        return best, best_distance

    def _add(self, cursor: _Cursor) -> None:
        while len(self._cursors) >= self._max_cursors:
            self._cursors.popitem(last=False)
        self._named += 1
        self._cursors[self._named] = cursor

    def _skip(self, name: int, cursor: _Cursor, asked: ByteRange) -> None:
        """A read not far ahead: the reader skipped, or a second reader began there. Either is served: a new cursor goes
        on with what the old one had learnt, and the old one stays, as the first to go, until it is continued."""
        self._cursors.move_to_end(name, last=False)
        heir = _Cursor(asked.stop, max(cursor.wanted, asked.stop), cursor.window, cursor.read, cursor.run)
        heir.read += asked.length
        heir.run += asked.length
        if asked.start > cursor.wanted:  # what was wanted ahead was in vain
            heir.window //= 2
            heir.run = asked.length
        self._add(heir)

    def _advance(self, cursor: _Cursor, asked: ByteRange) -> None:
        """Move along with a read in order, perhaps one of a few that changed places."""
        if asked.stop <= cursor.position:
            fresh = min(asked.length, cursor.gaps)
            cursor.gaps -= fresh
        else:
            fresh = asked.stop - max(asked.start, cursor.position)
            cursor.gaps = min(cursor.gaps + max(asked.start - cursor.position, 0), REORDERED)
            cursor.position = asked.stop
        cursor.read += fresh
        cursor.run += fresh
        cursor.wanted = max(cursor.wanted, cursor.position)

    def _ahead(self, cursor: _Cursor, limit: int | None) -> ByteRange:
        ahead = cursor.wanted - cursor.position
        most = min(self._max_window, max(TRIAL, cursor.read))
        if cursor.run < TRIAL:
            on_trial = min(cursor.run // 2, max(TRIAL_WINDOW, cursor.run // 4))
            cursor.window = min(max(cursor.window, on_trial), most)
        elif ahead <= cursor.window // 2:
            cursor.window = min(max(cursor.window, TRIAL_WINDOW) * 2, most)
        window = cursor.window if limit is None else min(cursor.window, max(limit, 0))
        start = -(-cursor.wanted // BLOCK_SIZE) * BLOCK_SIZE
        stop = cursor.position + window
        stop = self._size if stop >= self._size else stop // BLOCK_SIZE * BLOCK_SIZE
        if ahead > window // 2 or start >= stop:
            at = min(cursor.wanted, self._size)
            return ByteRange(at, at)
        cursor.wanted = stop
        return ByteRange(start, stop)
