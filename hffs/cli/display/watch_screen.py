"""The screen of ``hffs status --watch``: the table of mounts, and below it as much of their activity as fits."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from ...control.messages import Status
from . import units
from .live import LiveDisplay
from .mount_details import activity
from .mounts_table import cache_lines, mounts_table
from .terminal_layout import Line, Page, page_of

_HISTORY: Final = 24  # intervals of speed that are drawn: as many as fit beside the number at 80 columns
_LISTS: Final = (10, 5, 3, 1)  # lines of each list of workers, reads and files; the first with which all mounts fit


class WatchScreen:
    """An alternate screen: a resize leaves nothing behind, and at the end the terminal shows what it did before."""

    def __init__(self) -> None:
        self._speeds: dict[str, deque[float]] = {}
        self._last: list[Status] | None = None
        self.live = LiveDisplay(sys.stdout, full=True)

    def show(self, found: list[Status]) -> None:
        if found is not self._last:  # else the terminal was resized
            self._last = found
            before = self._speeds
            self._speeds = {}
            for each in found:
                speeds = before.get(each["mountpoint"], deque(maxlen=_HISTORY))
                speeds.append(each["workers"]["bytes_per_s"])
                self._speeds[each["mountpoint"]] = speeds
        page = page_of(self.live.console.file)
        self.live.draw(screen_lines(found, page, self._speeds, time.time()), page)


def screen_lines(found: list[Status], page: Page, speeds: Mapping[str, Sequence[float]], now: float) -> list[Line]:
    """The whole screen, at most ``page.height`` lines; ``now`` in seconds since the epoch."""
    lines = [_top(found, page, now)]
    if not found:
        return lines
    listed, more = _listed(found, page)
    lines += [[], *mounts_table(listed, page), *more, *cache_lines(found)]
    space = page.height - len(lines)
    for most in _LISTS:
        sections = [activity(each, page, speeds.get(each["mountpoint"], ()), now, most) for each in found]
        if sum(len(section) + 1 for section in sections if section) <= space:
            break
    for section in filter(None, sections):
        lines += [[], *section]
    if len(lines) <= page.height:
        return lines
    left = len(lines) - page.height + 1
    return [*lines[: page.height - 1], [(f"and {units.count(left, 'more line')}", "dim")]]


def _listed(found: list[Status], page: Page) -> tuple[list[Status], list[Line]]:
    """The mounts of the table, and a line that counts the others: half of the page is for their activity. Where not
    all fit, mounts with busy workers or errors come first."""
    space = max(page.height // 2, 1)
    if len(found) <= space:
        return found, []
    eventful = sorted(found, key=lambda each: not (each["workers"]["active"] or each["last_errors"]))
    return eventful[:space], [[(f"and {units.count(len(found) - space, 'more mount')}", "dim")]]


def _top(found: list[Status], page: Page, now: float) -> Line:
    speed = sum(each["workers"]["bytes_per_s"] for each in found)
    summary = f"{units.count(len(found), 'mount')}, {units.rate(speed)}" if found else "no mounts"
    aside = f"{units.timestamp(now)}  Ctrl-C ends"
    blanks = (page.width or 0) - len(summary) - len(aside)
    return [(summary, "bold"), (" " * max(blanks, 2), ""), (aside, "dim")]
