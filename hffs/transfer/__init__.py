"""Listings, the fetcher with its workers, readers, hydrations. Starts threads for each of them but listings."""

from .blob_handle import BlobHandle
from .cache_maintenance import CacheMaintenance
from .commit_files import CommitFiles, DiskSpace
from .fetcher import Fetcher, FetchFailure
from .hash_worker import HASH_NICE
from .hydrate import ExportFile, Hydration
from .listings import Listings, cached_files
from .progress import FileProgress, HydrationProgress
from .reader import BlobReader, Pending
from .throttle import Throttle
from .timers import Timers
from .waiters import WaitingRead

__all__ = [
    "HASH_NICE",
    "BlobHandle",
    "BlobReader",
    "CacheMaintenance",
    "CommitFiles",
    "DiskSpace",
    "ExportFile",
    "FetchFailure",
    "Fetcher",
    "FileProgress",
    "Hydration",
    "HydrationProgress",
    "Listings",
    "Pending",
    "Throttle",
    "Timers",
    "WaitingRead",
    "cached_files",
]
