"""The progress of a hydration, as values that any thread may keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import HffsError
from ..model import RemoteFile

State = Literal["waiting", "fetching", "verifying", "done", "failed"]
Outcome = Literal["running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class FileProgress:
    """One file at a moment: ``local`` of the ``size`` bytes to be had are on the disk; the error of a failed one."""

    file: RemoteFile
    size: int
    local: int
    state: State
    error: HffsError | None = None


@dataclass(frozen=True, slots=True)
class HydrationProgress:
    """Bytes and rates count what became local; ``ended`` are the files that ended, in order, ``failed`` those of them
    that failed. Bytes grow, unless content proved wrong and was dropped."""

    bytes_done: int
    bytes_total: int
    bytes_per_s: float
    eta_s: float | None
    files_done: int
    files_total: int
    active: list[FileProgress]
    ended: list[FileProgress]
    failed: list[FileProgress]
