"""Pure decisions: what to fetch next, what a reader will want, when to try again, which files come first.

Values in, values out: no thread, socket, clock, log or file is touched here. Callers pass ``now`` and hold the locks.
"""

from .bandwidth import Bandwidth
from .blocks import Priority
from .prefetch import small_files
from .queue import BlockQueue, Fetch, Waiting
from .readahead import ReadCursors, Window
from .retry import RetryPolicy

__all__ = [
    "Bandwidth",
    "BlockQueue",
    "Fetch",
    "Priority",
    "ReadCursors",
    "RetryPolicy",
    "Waiting",
    "Window",
    "small_files",
]
