"""How long content that proved wrong is left alone: it is fetched once more at once, then after growing pauses.

``transfer.distrust`` counts the wrong copies of a content, one after another, and asks here.
"""

from __future__ import annotations

from typing import Final

# Signed URLs live for an hour and edges of a CDN were seen confused for minutes: after an hour the next copy comes by
# another address, mostly from another cache. A file of 40 GB that stays wrong is so moved once an hour at most, and
# only while somebody reads it.
FIRST_PAUSE_S: Final = 3600.0
# What is wrong for days is wrong at the source; somebody who mends it there is noticed within a day.
LONGEST_PAUSE_S: Final = 86400.0


def pause(copies: int) -> float:
    """Seconds for which content is not fetched after ``copies`` wrong ones in a row; 0: at once, from a fresh URL."""
    if copies < 2:
        return 0.0
    return float(min(FIRST_PAUSE_S * 2.0 ** min(copies - 2, 10), LONGEST_PAUSE_S))
