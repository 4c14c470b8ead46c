"""Whole-blob verification in one call, for tests that only need its result."""

from __future__ import annotations

from collections.abc import Callable

from hffs.cache import IncrementalHash, StoredBlob


def verify_blob(stored: StoredBlob, now: float, cancelled: Callable[[], bool] = lambda: False) -> bool:
    """Hashes ``stored`` and records at ``now`` that it is right, as ``HashWorker`` does; False when it is incomplete,
    has no digest, or ``cancelled`` (asked before each MiB) ended it. Raises IntegrityError, CacheUnusable."""
    if stored.verified:
        return True
    if stored.blob.digest is None or not stored.complete:
        return False
    hashing = IncrementalHash(stored, stored.blob.digest)
    return hashing.advance(cancelled) and hashing.finish(now) == "verified"
