"""Movement: listings, the fetcher and its workers, readers. Threads start here."""

from .content import Content, DiskSpace
from .fetcher import Failure, Fetcher, WaitingRead
from .hydrate import Hydration, Lay, Part, Snapshot
from .listings import Listings, kept
from .reader import BlobReader, Pending
from .target import Target
from .throttle import Throttle
from .timers import Timers

__all__ = [
    "BlobReader",
    "Content",
    "DiskSpace",
    "Failure",
    "Fetcher",
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
