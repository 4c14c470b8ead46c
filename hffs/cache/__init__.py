"""The local disk: blobs in aligned blocks, and the metadata index. Knows nothing of servers and mounts.

Imports point down: ``integrity`` and ``inventory``; ``blob_info``, ``budget``, ``hf_cache`` and ``revisions``;
``store`` and ``index``. A cache is one ``Layout`` (prepared), one ``BlobStore`` and one ``Index``, closed after their
users. Everything may be used from any thread.
"""

from . import blob_info, inventory, revisions
from .budget.budget import CacheBudget, Reservation, min_free_bytes
from .hf_cache import local_folder
from .hf_cache.export import export_file, safe_below
from .hf_cache.hub_cache import HubCache, HubRepo
from .index import Index
from .integrity import check_blob, leftovers, mismatches
from .store.adopt import AdoptOutcome
from .store.blob_store import BlobStore
from .store.block_lease import BlockLease
from .store.digest import Hasher
from .store.incremental_hash import IncrementalHash
from .store.layout import Layout
from .store.stored_blob import StoredBlob

__all__ = [
    "AdoptOutcome",
    "BlobStore",
    "BlockLease",
    "CacheBudget",
    "Hasher",
    "HubCache",
    "HubRepo",
    "IncrementalHash",
    "Index",
    "Layout",
    "Reservation",
    "StoredBlob",
    "blob_info",
    "check_blob",
    "export_file",
    "inventory",
    "leftovers",
    "local_folder",
    "min_free_bytes",
    "mismatches",
    "revisions",
    "safe_below",
]
