"""What a file's readers will want next, guessed from what they read: one cursor for each reading pattern.

``transfer.reader`` calls ``observe`` for every read, under the file's lock, and wants what is returned as AHEAD. Only a
guess about time: a wrong one costs traffic within the bounds below, never correctness. Never fetches, counts no memory
(``window_limit`` is told) and knows no handle, as processes share files and threads share handles. Not thread-safe.

With a ``plan`` a window ends where the tensor ends that its reader is in, unless the reader goes from piece to piece or
began at the file's first byte (cp, sha256sum). Where readers are seen to take the tensors in the plan's order, it ends
only where that order jumps, and goes on there.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ..formats.load_order import ReadPlan
from ..ranges import BLOCK_SIZE, ByteRange, clip

_KIB: Final = 1024
_MIB: Final = 1024 * 1024

# Linux hands the requests of one sequential reader over up to 256 KiB back and 512 KiB forward of their order
# (mountpoint-s3 measured it); within this a read is in order.
REORDERED: Final = 512 * _KIB
# A reader that leaves out no more than this is still the same reader. hf-mount and mountpoint-s3 keep to 16 MiB too.
SKIPPED: Final = 16 * _MIB
# Up to here a cursor is on trial. A random read of 4 MiB arrives as sequential requests too, of 5.5 MiB with the
# kernel's own read-ahead, and may move 1.6 times its bytes. So what is wanted beyond is a quarter of what was read, 512
# KiB at most (8 processes, 30 pieces of 4 MiB each by mmap, 16 workers: 1.58 times; with 1 MiB it was 1.77).
TRIAL: Final = 8 * _MIB
TRIAL_WINDOW: Final = 512 * _KIB
# Who has read as far in order is believed, and the window doubles from here on. No more: a header of 8 MiB is read so.
PROVEN_WINDOW: Final = 2 * _MIB

# A touched page brings up to this much before it, and as much after it: half of the kernel's read-ahead on a mount
# (1 MiB, daemon.readahead), which FADV_SEQUENTIAL doubles; and the page itself.
AROUND: Final = 1 * _MIB + 4 * _KIB
# A reader in order has up to two of the kernel's windows before it that nobody may have asked for.
OVERSHOT: Final = 4 * _MIB
# Who began at a tensor's start and reads on reads all of it, as good as always, so no trial. One who wants only its
# first 2 MiB pays about 9: those, 1 before them, 2 that the kernel reads on, and this.
KNOWN_WINDOW: Final = 4 * _MIB
# transformers loads with at most 4 threads. So the tensor before in the order is one of the last 4 that were begun, or
# was left out: the small ones between are not seen, and threads overtake one another.
THREADS: Final = 4
STEPS: Final = 3
# So many jumps in order, with none out of order since. Tensors that are read at random, each once and whole, look like
# that at some moment in 1 of 200 files of 100 tensors, in 1 of 8 of 32: then a tensor that is not next is fetched.
EVIDENCE: Final = 4


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
    begun: int  # where its first read started
    window: int = 0  # how far ahead of position to want
    read: int = 0  # bytes this cursor's reader has read, each once
    run: int = 0  # of these, since the last misprediction
    gaps: int = 0  # bytes left out within REORDERED that may still come
    through: bool = False  # the reader has gone from piece to piece before it began here
    placed: bool = False  # whether it is known in which piece it began, and was counted
    beyond: ByteRange | None = None  # wanted where the order goes on


class ReadCursors:
    """The reading patterns of one file of ``size`` bytes, the ``max_cursors`` last used of them."""

    def __init__(self, size: int, *, max_cursors: int = 16, max_window: int = 256 * _MIB) -> None:
        """16 cursors: loaders read one file with as many threads. 256 MiB: ample for 10 Gbit/s at 50 ms (60 MiB)."""
        if max_cursors < 1 or min(size, max_window) < 0:
            raise ValueError("at least one cursor; sizes count from 0")
        self.plan: ReadPlan | None = None  # may be given at any time
        self._size = size
        self._max_cursors = max_cursors
        self._max_window = max_window
        self._cursors: OrderedDict[int, _Cursor] = OrderedDict()  # least recently used first; the keys only name them
        self._named = 0
        self._in_order = 0  # jumps to what is next in the plan's order, since the last one elsewhere

    def observe(self, offset: int, length: int, *, window_limit: int | None = None) -> ByteRange:
        """The bytes to want ahead now that ``[offset, offset + length)`` is read; empty: nothing.

        Whole blocks beyond the read (the last may end with the file), or at the next place in load order; never again
        what this cursor has wanted; at least half a window at a time. ``window_limit`` (bytes) bounds the window for
        now, where memory or budget is short.
        """
        asked = clip(offset, length, self._size)
        if not asked.length:
            return ByteRange(asked.stop, asked.stop)
        name, distance = self._nearest(asked.start)
        if name is None or distance > REORDERED:
            self._begin(name, asked)
            return ByteRange(asked.stop, asked.stop)
        cursor = self._cursors[name]
        self._cursors.move_to_end(name)
        self._advance(cursor, asked)
        if self.plan is not None and not cursor.placed and cursor.position > cursor.begun + AROUND:
            self._place(name, cursor, self.plan)
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

    # a new cursor

    def _begin(self, skipped: int | None, asked: ByteRange) -> None:
        """A read that continues none: of a new reader, of one that went on in load order, or of one that skipped."""
        cursor = _Cursor(asked.stop, asked.stop, asked.start)
        follows = self._foreseen(asked)
        if follows is not None and follows.beyond is not None:
            cursor.window, cursor.read, cursor.run = follows.window, follows.read, follows.run
            cursor.wanted = max(asked.stop, min(follows.beyond.stop, asked.stop + cursor.window))
        elif skipped is not None:
            self._skip(skipped, cursor, asked)
        cursor.read += asked.length
        cursor.run += asked.length
        while len(self._cursors) >= self._max_cursors:
            self._cursors.popitem(last=False)
        self._named += 1
        self._cursors[self._named] = cursor

    def _foreseen(self, asked: ByteRange) -> _Cursor | None:
        """The cursor that has wanted this where the order goes on."""
        for cursor in reversed(self._cursors.values()):
            beyond = cursor.beyond
            if beyond is not None and beyond.start - AROUND <= asked.start < beyond.stop:
                return cursor
        return None

    def _skip(self, name: int, heir: _Cursor, asked: ByteRange) -> None:
        """A read not far ahead: the reader skipped, or a second reader began there. Either is served: a new cursor goes
        on with what the old one had learnt, and the old one stays, as the first to go, until it is continued."""
        cursor = self._cursors[name]
        self._cursors.move_to_end(name, last=False)
        heir.wanted = max(cursor.wanted, asked.stop)
        heir.window, heir.read, heir.run = cursor.window, cursor.read, cursor.run
        if asked.start - cursor.position <= OVERSHOT:
            # Perhaps no skip at all, but a request of 1 MiB that overtook another: where its reader began is known.
            heir.begun = cursor.begun
        to_the_end = False  # of a tensor: what was not wanted then was not wanted on purpose
        if self.plan is not None:
            piece, heir.through = self._piece(cursor, self.plan)
            to_the_end = cursor.position >= self.plan.end_of(piece)
        if asked.start > cursor.wanted and not to_the_end:  # what was wanted ahead was in vain
            heir.window //= 2
            heir.run = 0

    # a read in order

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
        end, then, known = self._bounds(cursor)
        beyond = (
            cursor.beyond if then is not None and cursor.beyond and cursor.beyond.start == _down(then.start) else None
        )
        ahead = cursor.wanted - cursor.position + (beyond.length if beyond else 0)
        most = min(self._max_window, max(TRIAL, cursor.read))
        if cursor.run < TRIAL and not known:
            on_trial = min(cursor.run // 4, TRIAL_WINDOW)
            cursor.window = min(max(cursor.window, on_trial), most)
        elif ahead <= cursor.window // 2:
            cursor.window = min(max(cursor.window * 2, KNOWN_WINDOW if known else PROVEN_WINDOW), most)
        window = cursor.window if limit is None else min(cursor.window, max(limit, 0))
        if ahead > window // 2:
            return ByteRange(cursor.position, cursor.position)
        edge = cursor.position + window
        start, stop = _up(cursor.wanted), min(_up(end), self._size)
        if stop > edge:
            stop = _down(edge)
        if start < stop:
            cursor.wanted = stop
            return ByteRange(start, stop)
        if then is None:
            return ByteRange(cursor.position, cursor.position)
        first = _down(then.start)
        start = beyond.stop if beyond else first
        stop = min(_up(then.stop), self._size, first + _down(edge - max(cursor.wanted, cursor.position)))
        if start >= stop:
            return ByteRange(cursor.position, cursor.position)
        cursor.beyond = ByteRange(first, stop)
        return ByteRange(start, stop)

    # what the plan says

    def _piece(self, cursor: _Cursor, plan: ReadPlan) -> tuple[int, bool]:
        """The piece its reader is in, and whether it goes from one to the next."""
        began = plan.piece_at(min(cursor.begun + AROUND, cursor.position - 1))
        now = plan.piece_at(cursor.position - 1 - OVERSHOT)
        return max(began, now), cursor.through or now > began

    def _bounds(self, cursor: _Cursor) -> tuple[int, ByteRange | None, bool]:
        """Where its window ends, where it goes on from there, and whether all up to there is as good as asked for."""
        plan = self.plan
        if plan is None:
            return self._size, None, False
        piece, through = self._piece(cursor, plan)
        start = plan.start_of(piece)
        # Where a small one lies right before, that may be what is read, and this one be the kernel's guess.
        sure = OVERSHOT if plan.start_of(piece - 1) >= cursor.begun - AROUND else AROUND
        known = cursor.begun <= start < cursor.position - sure
        if cursor.begun and self._in_order >= EVIDENCE:
            stretch = plan.segment_from(piece)
            return stretch.stop, stretch.then, known
        if through or not cursor.begun:
            return self._size, None, False
        return plan.end_of(piece), None, known

    def _place(self, name: int, cursor: _Cursor, plan: ReadPlan) -> None:
        """Whether a reader that jumped did so in the plan's order; asked once, when it is sure where it jumped to."""
        cursor.placed = True
        piece = plan.piece_at(cursor.begun + AROUND)
        if not cursor.begun or piece < 0:
            return
        others = [self._cursors[other] for other in reversed(self._cursors) if other != name][:THREADS]
        steps = [
            plan.rank_of(piece) - plan.rank_of(near) for other in others for near in self._pieces_near(other, plan)
        ]
        if 0 not in steps:  # a jump within a tensor says nothing
            self._in_order = self._in_order + 1 if any(0 < step <= STEPS for step in steps) else 0

    def _pieces_near(self, cursor: _Cursor, plan: ReadPlan) -> range:
        """Those its reader may have read last: the kernel read on behind it."""
        last = plan.piece_at(cursor.position - 1)
        first = plan.piece_at(max(cursor.begun, cursor.position - 1 - OVERSHOT))
        return range(max(first, last - THREADS, 0), last + 1)


def _up(position: int) -> int:
    return -(-position // BLOCK_SIZE) * BLOCK_SIZE


def _down(position: int) -> int:
    return position // BLOCK_SIZE * BLOCK_SIZE
