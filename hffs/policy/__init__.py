"""Pure decisions: what to fetch next and with how many workers, what a reader will want, when to try again.

Values in, values out: no thread, socket, clock, log or file is touched here. Callers pass ``now`` and hold the locks.
"""

from .bandwidth import Bandwidth
from .blocks import Priority
from .concurrency_controller import ConcurrencyController
from .concurrency_limits import RESERVED, USUAL, ConcurrencyLimits
from .disk_breaker import DiskBreaker
from .file_checks import POINTER_BELOW, FormatProblem, Pointer, is_tiny, is_weights, pointer_of, problem_of
from .formats import Format, format_of
from .prefetch import small_files
from .queue import BlockQueue, Fetch, Waiting
from .quota import Quota, RequestPacer
from .read_plan import ReadPlan
from .readahead import ReadCursors, Window
from .retry import RetryPolicy

__all__ = [
    "POINTER_BELOW",
    "RESERVED",
    "USUAL",
    "Bandwidth",
    "BlockQueue",
    "ConcurrencyController",
    "ConcurrencyLimits",
    "DiskBreaker",
    "Fetch",
    "Format",
    "FormatProblem",
    "Pointer",
    "Priority",
    "Quota",
    "ReadCursors",
    "ReadPlan",
    "RequestPacer",
    "RetryPolicy",
    "Waiting",
    "Window",
    "format_of",
    "is_tiny",
    "is_weights",
    "pointer_of",
    "problem_of",
    "small_files",
]
