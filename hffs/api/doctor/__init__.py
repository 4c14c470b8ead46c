"""What on this machine keeps hffs from working, or from working well, and how to mend it.

``examine`` looks at everything that hffs depends on and yields what it finds while it goes, since the Hub may take its
time. Each look is made for real: a trial mount, a lock and a hole in the cache directory, a request with the token. A
look that fails in a way of its own is a finding too. Nothing is changed; what a look makes is gone when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ...config import Settings, load
from ...errors import HffsError
from . import disk, hub, kernel, loaders, mounted
from .finding import DoctorFinding
from .report import report

__all__ = ["DoctorFinding", "examine", "report"]

_LOOKS: tuple[tuple[str, Callable[[Settings], Iterable[DoctorFinding]]], ...] = (
    ("fuse", kernel.look),
    ("cache", disk.look),
    ("hub", hub.look),
    ("mounts", mounted.look),
    ("loaders", loaders.look),
)


def examine(settings: Settings | None = None) -> Iterator[DoctorFinding]:
    """Every finding, area by area. Raises UsageError for settings that make no sense."""
    settings = settings or load()
    for area, look in _LOOKS:
        try:
            yield from look(settings)
        except (HffsError, OSError) as error:
            remedy = error.remedy if isinstance(error, HffsError) else "see whether /proc and /sys are there"
            what = error.what if isinstance(error, HffsError) else str(error)
            yield DoctorFinding(area, "fail", what, remedy)
