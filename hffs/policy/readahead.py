"""Read-ahead: one cursor for each reading pattern of a file predicts the bytes read next.

``transfer.reader`` calls ``observe`` for every read, under the file's lock, and wants the result at priority AHEAD. A
wrong prediction costs traffic within the bounds below, never correctness. Fetches nothing, counts no memory
(``window_limit`` is given) and is independent of handles, since processes share files and threads share handles. Not
thread-safe.

With a ``plan`` a window ends at the end of the reader's tensor, unless the reader proceeds from piece to piece or began
at the file's first byte (cp, sha256sum). If readers are seen to follow the plan's load order, the window ends only
where that order jumps, and continues there.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ..formats.load_order import ReadPlan
from ..ranges import BLOCK_SIZE, ByteRange, clip

_KIB: Final = 1024
_MIB: Final = 1024 * 1024

# Linux sends the requests of one sequential reader up to 256 KiB early and 512 KiB late (measured by mountpoint-s3);
# within this distance a read is in order.
REORDERED: Final = 512 * _KIB
# A skip of up to this distance belongs to the same reader. hf-mount and mountpoint-s3 use 16 MiB, too.
SKIPPED: Final = 16 * _MIB
# Until it has read this much a cursor is on trial. A random read of 4 MiB also arrives as sequential requests, of
# 5.5 MiB with the kernel's own read-ahead, and may fetch 1.6 times its bytes. So the window is a quarter of what was
# read, 512 KiB at most (8 processes, 30 pieces of 4 MiB each by mmap, 16 workers: 1.58 times; with 1 MiB it was 1.77).
TRIAL: Final = 8 * _MIB
TRIAL_WINDOW: Final = 512 * _KIB
# The first window after the trial, which doubles from here on. Not larger, since headers of 8 MiB are read like this.
PROVEN_WINDOW: Final = 2 * _MIB

# A page fault reads up to this much before and after the page: half of the kernel's read-ahead on a mount (1 MiB,
# system.bdi_readahead), which FADV_SEQUENTIAL doubles; and the page itself.
AROUND: Final = 1 * _MIB + 4 * _KIB
# Up to two of the kernel's windows ahead of a sequential reader may not have been requested by it.
OVERSHOT: Final = 4 * _MIB
# A reader that began at a tensor's start and continues nearly always reads all of it, so it has no trial. One that
# needs only the first 2 MiB fetches about 9: those, 1 before them, 2 of the kernel's read-ahead, and this.
KNOWN_WINDOW: Final = 4 * _MIB
# transformers loads with at most 4 threads. So the preceding tensor in load order is one of the last 4 begun, or was
# skipped: small ones in between are not seen, and threads overtake one another.
THREADS: Final = 4
STEPS: Final = 3
# Jumps in load order, with none out of order since, before the order is followed. Tensors read at random, each once and
# completely, look like that at some point in 1 of 200 files of 100 tensors, in 1 of 8 of 32: then a wrong tensor is
# prefetched.
EVIDENCE: Final = 4


@dataclass(frozen=True, slots=True)
class Window:
    """One cursor as shown in status: its position, how far ahead it has wanted, its window, its bytes read."""

    position: int
    wanted: int
    window: int
    read: int


@dataclass(slots=True)
class _Cursor:
    position: int  # the end of the farthest read in order
    wanted: int  # everything up to here was wanted or read
    begun: int  # where its first read started
    window: int = 0  # how far ahead of position to want
    read: int = 0  # bytes this cursor's reader has read, each once
    run: int = 0  # of these, since the last misprediction
    gaps: int = 0  # bytes skipped within REORDERED that may still be read
    through: bool = False  # the reader has proceeded from piece to piece before
    placed: bool = False  # whether its first piece is known and was counted
    beyond: ByteRange | None = None  # wanted at the continuation of the load order


class ReadCursors:
    """The reading patterns of one file of ``size`` bytes, at most ``max_cursors``, least recently used ones dropped."""

    def __init__(self, size: int, *, max_cursors: int = 16, max_window: int = 256 * _MIB) -> None:
        """16 cursors: loaders read one file with as many threads. 256 MiB: ample for 10 Gbit/s at 50 ms (60 MiB)."""
        if max_cursors < 1 or min(size, max_window) < 0:
            raise ValueError("at least one cursor; sizes are not negative")
        self.plan: ReadPlan | None = None  # may be set at any time
        self._size = size
        self._max_cursors = max_cursors
        self._max_window = max_window
        self._cursors: OrderedDict[int, _Cursor] = OrderedDict()  # least recently used first; the keys only name them
        self._named = 0
        self._in_order = 0  # jumps to the next piece in load order, since the last one elsewhere

    def observe(self, offset: int, length: int, *, window_limit: int | None = None) -> ByteRange:
        """Records a read of ``[offset, offset + length)`` and returns the bytes to want ahead; empty: none.

        Whole blocks beyond the read (the last may end with the file), or at the next place in load order; never what
        this cursor has wanted before; at least half a window at a time. ``window_limit`` (bytes) bounds the window
        while memory or budget is short.
        """
        requested = clip(offset, length, self._size)
        if not requested.length:
            return ByteRange(requested.stop, requested.stop)
        name, distance = self._nearest(requested.start)
        if name is None or distance > REORDERED:
            self._begin(name, requested)
            return ByteRange(requested.stop, requested.stop)
        cursor = self._cursors[name]
        self._cursors.move_to_end(name)
        self._advance(cursor, requested)
        if self.plan is not None and not cursor.placed and cursor.position > cursor.begun + AROUND:
            self._place(name, cursor, self.plan)
        return self._ahead(cursor, window_limit)

    def windows(self) -> list[Window]:
        """Returns the cursors, most recently used first."""
        return [Window(c.position, c.wanted, c.window, c.read) for c in reversed(self._cursors.values())]

    def _nearest(self, offset: int) -> tuple[int | None, int]:
        """Returns the cursor that a read at ``offset`` continues, and the distance from its position (negative:
        before)."""
        best: int | None = None
        best_distance = SKIPPED + 1
        for name in reversed(self._cursors):  # of equals the most recently used
            distance = offset - self._cursors[name].position
            if distance >= -REORDERED and abs(distance) < abs(best_distance):
                best, best_distance = name, distance
                if not distance:
                    break
        return best, best_distance

    # a new cursor

    def _begin(self, skipped: int | None, requested: ByteRange) -> None:
        """Adds a cursor: for a new reader, one that continues in load order, or one that skipped."""
        cursor = _Cursor(requested.stop, requested.stop, requested.start)
        follows = self._predecessor(requested)
        if follows is not None and follows.beyond is not None:
            cursor.window, cursor.read, cursor.run = follows.window, follows.read, follows.run
            cursor.wanted = max(requested.stop, min(follows.beyond.stop, requested.stop + cursor.window))
        elif skipped is not None:
            self._skip(skipped, cursor, requested)
        cursor.read += requested.length
        cursor.run += requested.length
        while len(self._cursors) >= self._max_cursors:
            self._cursors.popitem(last=False)
        self._named += 1
        self._cursors[self._named] = cursor

    def _predecessor(self, requested: ByteRange) -> _Cursor | None:
        """Returns the cursor that has wanted this at the continuation of the load order."""
        for cursor in reversed(self._cursors.values()):
            beyond = cursor.beyond
            if beyond is not None and beyond.start - AROUND <= requested.start < beyond.stop:
                return cursor
        return None

    def _skip(self, name: int, successor: _Cursor, requested: ByteRange) -> None:
        """Handles a read not far ahead: the reader skipped, or a second reader began there. Both cases are served: the
        new cursor inherits the old one's state, and the old one stays, first to be dropped, until it is continued."""
        cursor = self._cursors[name]
        self._cursors.move_to_end(name, last=False)
        successor.wanted = max(cursor.wanted, requested.stop)
        successor.window, successor.read, successor.run = cursor.window, cursor.read, cursor.run
        if requested.start - cursor.position <= OVERSHOT:
            # Possibly no skip, but a request of 1 MiB that overtook another: the reader's start is known.
            successor.begun = cursor.begun
        tensor_done = False  # then the bytes behind it were left out on purpose
        if self.plan is not None:
            piece, successor.through = self._piece(cursor, self.plan)
            tensor_done = cursor.position >= self.plan.end_of(piece)
        if requested.start > cursor.wanted and not tensor_done:  # the read-ahead was wasted
            successor.window //= 2
            successor.run = 0

    # a read in order

    def _advance(self, cursor: _Cursor, requested: ByteRange) -> None:
        """Moves a cursor along with a read in order, possibly one of several that were reordered."""
        if requested.stop <= cursor.position:
            fresh = min(requested.length, cursor.gaps)
            cursor.gaps -= fresh
        else:
            fresh = requested.stop - max(requested.start, cursor.position)
            cursor.gaps = min(cursor.gaps + max(requested.start - cursor.position, 0), REORDERED)
            cursor.position = requested.stop
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

    # the plan

    def _piece(self, cursor: _Cursor, plan: ReadPlan) -> tuple[int, bool]:
        """Returns the reader's piece, and whether it proceeds from one piece to the next."""
        began = plan.piece_at(min(cursor.begun + AROUND, cursor.position - 1))
        now = plan.piece_at(cursor.position - 1 - OVERSHOT)
        return max(began, now), cursor.through or now > began

    def _bounds(self, cursor: _Cursor) -> tuple[int, ByteRange | None, bool]:
        """Returns where the window ends, where it continues, and whether everything up to the end is nearly certain."""
        plan = self.plan
        if plan is None:
            return self._size, None, False
        piece, through = self._piece(cursor, plan)
        start = plan.start_of(piece)
        # If a small piece precedes it, that may be the one read, and this one the kernel's read-ahead.
        sure = OVERSHOT if plan.start_of(piece - 1) >= cursor.begun - AROUND else AROUND
        known = cursor.begun <= start < cursor.position - sure
        if cursor.begun and self._in_order >= EVIDENCE:
            segment = plan.segment_from(piece)
            return segment.stop, segment.then, known
        if through or not cursor.begun:
            return self._size, None, False
        return plan.end_of(piece), None, known

    def _place(self, name: int, cursor: _Cursor, plan: ReadPlan) -> None:
        """Counts whether a reader jumped in load order; once per cursor, when its piece is certain."""
        cursor.placed = True
        piece = plan.piece_at(cursor.begun + AROUND)
        if not cursor.begun or piece < 0:
            return
        others = [self._cursors[other] for other in reversed(self._cursors) if other != name][:THREADS]
        steps = [
            plan.rank_of(piece) - plan.rank_of(near) for other in others for near in self._pieces_near(other, plan)
        ]
        if 0 not in steps:  # a jump within a tensor is no evidence
            self._in_order = self._in_order + 1 if any(0 < step <= STEPS for step in steps) else 0

    def _pieces_near(self, cursor: _Cursor, plan: ReadPlan) -> range:
        """Returns the pieces that its reader may have read last, given the kernel's read-ahead."""
        last = plan.piece_at(cursor.position - 1)
        first = plan.piece_at(max(cursor.begun, cursor.position - 1 - OVERSHOT))
        return range(max(first, last - THREADS, 0), last + 1)


def _up(position: int) -> int:
    return -(-position // BLOCK_SIZE) * BLOCK_SIZE


def _down(position: int) -> int:
    return position // BLOCK_SIZE * BLOCK_SIZE
