"""Movement: listings, the fetcher and its workers, readers. Threads start here."""

from .content import Content, DiskSpace
from .fetcher import Failure, Fetcher, WaitingRead
from .listings import Listings
from .reader import BlobReader, Pending
from .target import Target
from .timers import Timers

__all__ = [
    "BlobReader",
    "Content",
    "DiskSpace",
    "Failure",
    "Fetcher",
    "Listings",
    "Pending",
    "Target",
    "Timers",
    "WaitingRead",
]
