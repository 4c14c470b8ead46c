"""When the blocks of an open blob were used, and whether repeatedly: the input of eviction.

Kept for groups of 64 blocks: in memory at the clock's resolution, in the state file once a minute, for other processes
and later ones. Races between threads are accepted: they cost the accuracy of a prediction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from .state_file import GROUP, StateFile

_log = logging.getLogger(__name__)
_WRITE_EVERY_S: Final = 60  # other processes' evictions need no finer order, and a read should not cost a write
# A second use within this time belongs to the first: a reader's next request of the same block, its neighbour's
# read-ahead, the threads of one loader. A later one shows that the block is needed repeatedly.
AGAIN_AFTER_S: Final = 2.0


class _Use:
    """Of 64 blocks: ``first`` and ``last`` use in seconds since the epoch, and in ``read`` a bit for each block that
    was read since it was published."""

    __slots__ = ("again", "first", "last", "read", "written")

    def __init__(self, now: float, *, again: bool) -> None:
        self.first = self.last = now
        self.read = 0
        self.again = again
        self.written = 0


class AccessTimes:
    """The access times of the blob of one state file; ``clock`` returns seconds since the epoch."""

    def __init__(self, state: StateFile, clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock
        self._groups: dict[int, _Use] = {}

    def record(self, span: range, *, read: bool) -> None:
        """Records that blocks were read or (not ``read``) published. Never raises: a lost time costs at most an early
        eviction."""
        now = self._clock()
        for group in range(span.start // GROUP, (span.stop - 1) // GROUP + 1):
            use = self._groups.get(group)
            changed = False
            if use is None:
                use = self._groups[group] = _Use(now, again=read and self._was_used(group, now))
                changed = use.again
            if read:
                first, last = max(span.start - group * GROUP, 0), min(span.stop - group * GROUP, GROUP)
                bits = (1 << last) - (1 << first)
                if not use.again and use.read & bits and now - use.first >= AGAIN_AFTER_S:
                    use.again = changed = True
                use.read |= bits
            use.last = now
            if changed or int(now) - use.written >= _WRITE_EVERY_S:
                use.written = int(now)
                self._write(group, use)

    def last(self, group: int) -> tuple[float, bool]:
        """Returns when a group was last used, and whether repeatedly. Raises OSError."""
        use = self._groups.get(group)
        at, again = self._state.last_use(group)
        return (at, again) if use is None else (max(at, use.last), again or use.again)

    def forget(self, dropped: list[int]) -> None:
        """Forgets the reads of dropped blocks: what is published in their place has not been used."""
        for group in {block // GROUP for block in dropped}:
            use = self._groups.get(group)
            if use is not None:
                use.read &= ~sum(1 << block - group * GROUP for block in dropped if block // GROUP == group)
                if not use.read:
                    self._groups.pop(group, None)

    def _was_used(self, group: int, now: float) -> bool:
        """Whether blocks that are read for the first time since the blob was opened had been used long before."""
        try:
            at, again = self._state.last_use(group)
        except OSError:
            return False
        return again or 0 < at <= now - AGAIN_AFTER_S

    def _write(self, group: int, use: _Use) -> None:
        try:
            self._state.record_use(group, use.written, again=use.again)
        except OSError as error:
            _log.debug("event=use-not-noted state=%s error=%s", self._state.path, error)
