"""The record of mismatches as it is on disk, for tests."""

from __future__ import annotations

from hffs.cache import Layout, mismatches
from hffs.cache.integrity.mismatches import Mismatch


def recorded(layout: Layout) -> list[Mismatch]:
    """Returns every mismatch of the file, oldest first, those of content that was right later included."""
    lines = mismatches._lines(mismatches._path(layout))
    return [entry for entry in mismatches._entries(lines) if isinstance(entry, Mismatch)]
