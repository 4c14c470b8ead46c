"""The local disk: blobs in aligned blocks, and the metadata index. Knows nothing of servers, mounts or eviction policy.

Used by transfer, and by the daemon, which opens a cache (``Layout.prepare``, one ``BlobStore``, one ``Index``) and
closes it last. Everything here may be used from any thread.
"""

from . import checking, examining, folders, holdings, inventory, known, mismatches
from .adopting import Outcome
from .blobs import BlobStore
from .claims import Claim
from .digest import Hasher
from .hashing import Hashing
from .hub_cache import HubCache, HubRepo
from .index import Index
from .laying import lay, safe_below
from .layout import Layout
from .room import Reservation, Room, kept_free
from .stored import StoredBlob

__all__ = [
    "BlobStore",
    "Claim",
    "Hasher",
    "Hashing",
    "HubCache",
    "HubRepo",
    "Index",
    "Layout",
    "Outcome",
    "Reservation",
    "Room",
    "StoredBlob",
    "checking",
    "examining",
    "folders",
    "holdings",
    "inventory",
    "kept_free",
    "known",
    "lay",
    "mismatches",
    "safe_below",
]
