"""Movement: listings, the fetcher and its workers, readers. Threads start here."""

from .blob_handle import BlobHandle
from .cache_maintenance import CacheMaintenance
from .commit_files import CommitFiles, DiskSpace
from .fetcher import Fetcher, FetchFailure, WaitingRead
from .hash_worker import NICE
from .hydrate import Hydration, Lay
from .listings import Listings, kept
from .progress import Part, Snapshot
from .reader import BlobReader, Pending
from .throttle import Throttle
from .timers import Timers

__all__ = [
    "NICE",
    "BlobHandle",
    "BlobReader",
    "CacheMaintenance",
    "CommitFiles",
    "DiskSpace",
    "FetchFailure",
    "Fetcher",
    "Hydration",
    "Lay",
    "Listings",
    "Part",
    "Pending",
    "Snapshot",
    "Throttle",
    "Timers",
    "WaitingRead",
    "kept",
]
