"""A lease on blocks of one blob: only its holder may publish them, in this process and all others.

Made by ``StoredBlob.lease``. It consists of locks on the blob's lock file, which the kernel releases when the process
dies. One thread at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ...ranges import runs
from .locks import RangeLocks

_log = logging.getLogger(__name__)


class BlockLease:
    """``blocks``: the runs obtained, absent at that moment. ``busy``: the runs that another process, or another lease
    of this one, holds. The blob stays open until the lease is released."""

    def __init__(self, locks: RangeLocks, released: Callable[[], None]) -> None:
        self.blocks: list[range] = []
        self.busy: list[range] = []
        self._locks = locks
        self._released: Callable[[], None] | None = released
        self._left: set[int] = set()

    def holds(self, block: int) -> bool:
        return block in self._left

    def add(self, acquired: list[range]) -> None:
        """Adds runs whose locks were just taken."""
        self.blocks.extend(acquired)
        for run in acquired:
            self._left.update(run)

    def keep_only(self, missing: list[range]) -> None:
        """Releases all blocks but ``missing``. Raises OSError."""
        self.blocks = missing
        wanted = {block for run in missing for block in run}
        for run in runs(sorted(self._left - wanted)):
            self.release_run(run)

    def release_run(self, run: range) -> None:
        """Unlocks some of the blocks held. Raises OSError."""
        self._left.difference_update(run)
        self._locks.release(run)

    def release(self) -> None:
        """Unlocks the blocks that are left; may be called again."""
        released, self._released = self._released, None
        if released is None:
            return
        try:
            for run in runs(sorted(self._left)):
                self.release_run(run)
        except OSError as error:  # the files were closed, which released the locks
            _log.debug("event=claim-gone error=%s", error)
        finally:
            released()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
