"""Movement: listings, the fetcher and its workers, readers. Threads start here."""

from .content import Content, DiskSpace
from .fetcher import Failure, Fetcher, WaitingRead
from .housekeeping import Housekeeping
from .hydrate import Hydration, Lay
from .listings import Listings, kept
from .progress import Part, Snapshot
from .reader import BlobReader, Pending
from .target import Target
from .throttle import Throttle
from .timers import Timers
from .verifier import NICE

__all__ = [
    "NICE",
    "BlobReader",
    "Content",
    "DiskSpace",
    "Failure",
    "Fetcher",
    "Housekeeping",
    "Hydration",
    "Lay",
    "Listings",
    "Part",
    "Pending",
    "Snapshot",
    "Target",
    "Throttle",
    "Timers",
    "WaitingRead",
    "kept",
]
