"""What on this machine prevents hffs from working, or from working well, and how to fix it.

``examine`` checks everything that hffs depends on and yields findings one by one, since the Hub may answer slowly. Each
check does the real thing: a trial mount, a lock and a hole in the cache directory, a request with the token. A check
that raises is a finding too. Nothing is changed: what a check creates it removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ...config import Settings, load
from ...errors import HffsError
from . import disk, hub, kernel, loaders, mounted
from .finding import DoctorFinding
from .report import report

__all__ = ["DoctorFinding", "examine", "report"]

_CHECKS: tuple[tuple[str, Callable[[Settings], Iterable[DoctorFinding]]], ...] = (
    ("fuse", kernel.check),
    ("cache", disk.check),
    ("hub", hub.check),
    ("mounts", mounted.check),
    ("loaders", loaders.check),
)


def examine(settings: Settings | None = None) -> Iterator[DoctorFinding]:
    """Every finding, area by area. Raises UsageError for invalid settings."""
    settings = settings or load()
    for area, check in _CHECKS:
        try:
            yield from check(settings)
        except (HffsError, OSError) as error:
            remedy = error.remedy if isinstance(error, HffsError) else "check that /proc and /sys are mounted"
            what = error.what if isinstance(error, HffsError) else str(error)
            yield DoctorFinding(area, "fail", what, remedy)
