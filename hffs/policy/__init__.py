"""Pure decisions: what to fetch next and with how many workers, what to read ahead, what to evict, when to retry.

Values in, values out: no threads, sockets, clocks, logs or files. Callers pass ``now`` and hold the locks.
"""

from .bandwidth import Bandwidth
from .blocks import Priority
from .concurrency_controller import ConcurrencyController
from .concurrency_limits import RESERVED, USUAL, ConcurrencyLimits
from .disk_breaker import DiskBreaker
from .file_checks import FormatProblem, is_tiny, problem_of
from .prefetch import small_files
from .queue import BlockQueue, Fetch, Waiting
from .quota import Quota, RequestPacer
from .readahead import ReadCursors
from .retry import RetryPolicy

__all__ = [
    "RESERVED",
    "USUAL",
    "Bandwidth",
    "BlockQueue",
    "ConcurrencyController",
    "ConcurrencyLimits",
    "DiskBreaker",
    "Fetch",
    "FormatProblem",
    "Priority",
    "Quota",
    "ReadCursors",
    "RequestPacer",
    "RetryPolicy",
    "Waiting",
    "is_tiny",
    "problem_of",
    "small_files",
]
