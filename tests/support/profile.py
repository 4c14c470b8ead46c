"""How thoroughly the tests look: as in CI, or for hours (``scripts/test --long``, which sets ``HFFS_TEST_LONG``)."""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

LONG: Final = bool(os.environ.get("HFFS_TEST_LONG"))
# Twenty times a test's own number: the model and unit tests of properties then take about ten minutes in place of half
# a minute, and the bugs they have found so far were found within that.
_MORE: Final = 20


def examples(number: int) -> int:
    """The ``max_examples`` of a hypothesis test: the number given, and a multiple of it in a long run."""
    return number * _MORE if LONG else number


def load() -> None:
    """Makes the profile hypothesis' default: every run sees the same examples; a long one, other ones each time.

    No deadline: two cores that run four tests at once make a slow example of any, and pytest's timeout ends a hang.
    """
    settings.register_profile("hffs", derandomize=not LONG, database=None, deadline=None, print_blob=True)
    settings.load_profile("hffs")
