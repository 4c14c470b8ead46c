"""Back-off for content that failed verification: one more copy at once, later ones after growing pauses.

Used by ``transfer.quarantine``, which counts the consecutive wrong copies of a content.
"""

from __future__ import annotations

from typing import Final

# Signed URLs live for an hour, and CDN edges were seen to be inconsistent for minutes: after an hour the next copy
# comes from another URL, mostly from another cache. So a file of 40 GB that stays wrong is fetched at most once an
# hour, and only while it is read.
FIRST_PAUSE_S: Final = 3600.0
# Content wrong for days is wrong at the source; a repair there is noticed within a day.
LONGEST_PAUSE_S: Final = 86400.0


def pause(copies: int) -> float:
    """Returns for how many seconds content is not fetched after ``copies`` wrong ones in a row; 0: not at all."""
    if copies < 2:
        return 0.0
    return float(min(FIRST_PAUSE_S * 2.0 ** min(copies - 2, 10), LONGEST_PAUSE_S))
