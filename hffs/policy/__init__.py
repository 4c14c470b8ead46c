"""Pure decisions: what to fetch next and with how many workers, what a reader will want, when to try again.

Values in, values out: no thread, socket, clock, log or file is touched here. Callers pass ``now`` and hold the locks.
"""

from .allowance import RESERVED, USUAL, Allowance
from .bandwidth import Bandwidth
from .blocks import Priority
from .formats import Format, format_of
from .limiter import WorkerLimiter
from .outage import Outage
from .plan import Plan
from .prefetch import small_files
from .queue import BlockQueue, Fetch, Waiting
from .quota import Pace, Quota
from .readahead import ReadCursors, Window
from .retry import RetryPolicy
from .structure import POINTER_BELOW, Pointer, Problem, is_tiny, is_weights, pointer_of, problem_of

__all__ = [
    "POINTER_BELOW",
    "RESERVED",
    "USUAL",
    "Allowance",
    "Bandwidth",
    "BlockQueue",
    "Fetch",
    "Format",
    "Outage",
    "Pace",
    "Plan",
    "Pointer",
    "Priority",
    "Problem",
    "Quota",
    "ReadCursors",
    "RetryPolicy",
    "Waiting",
    "Window",
    "WorkerLimiter",
    "format_of",
    "is_tiny",
    "is_weights",
    "pointer_of",
    "problem_of",
    "small_files",
]
