"""``hffs status --watch``: the mounts as they are now, drawn anew at every interval until it is stopped.

Called by ``running``; returns the exit code. Three views of the same answers: a screen of its own on a terminal, which
is gone afterwards; a plain block of lines where there is none; with ``--json`` one object a line. A mount that goes
away, restarts or is new is shown as it is found; only a TARGET that is not there at the start is an error. Ctrl-C is
how it is meant to end. Main thread only, and no other thread.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Protocol

from ..api import mounts
from ..control.messages import Status
from ..errors import MountNotFound
from . import drawing, output
from .details import details, glance
from .drawing import Line, Page
from .overview import caches, overview, table
from .stopping import stoppable

_HISTORY: Final = 24  # intervals of speed that are drawn: a line of it fits beside the number at 80 columns
_LISTS: Final = (10, 5, 3, 1)  # lines of each list (workers, reads, files); the most with which all mounts fit
_HELP: Final = "Ctrl-C ends"


class View(Protocol):
    def running(self) -> AbstractContextManager[object]: ...
    def show(self, found: list[Status]) -> None: ...


def watch(args: argparse.Namespace, runtime_dir: str) -> int:
    """Shows until it is interrupted. Raises MountNotFound when the target is not mounted to begin with."""
    found = _asked(args.target, runtime_dir)
    view: View = _JsonLines() if args.json else _Screen() if output.on_terminal(sys.stdout) else _Blocks(args.target)
    try:
        with stoppable(), _resizes(), view.running():
            while True:
                view.show(found)
                _wait(args.interval, lambda: view.show(found))  # noqa: B023 - called before it returns
                try:
                    found = _asked(args.target, runtime_dir)
                except MountNotFound:
                    found = []
    except KeyboardInterrupt:
        return 0


def _asked(target: str | None, runtime_dir: str) -> list[Status]:
    return mounts.status_of(target, runtime_dir) if target else mounts.status(runtime_dir)


@contextmanager
def _resizes() -> Iterator[None]:
    """While it lasts a resized terminal is noticed by ``_wait``, and by nothing else."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(seconds: float, resized: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if signal.sigtimedwait([signal.SIGWINCH], left) is not None:
            resized()


class _JsonLines:
    """What ``status --json`` prints, one line each time."""

    def running(self) -> AbstractContextManager[object]:
        return nullcontext()

    def show(self, found: list[Status]) -> None:
        print(json.dumps({"mounts": found}), flush=True)


class _Blocks:
    """For logs and pipes: what ``status`` prints, each time under the time of day."""

    def __init__(self, target: str | None) -> None:
        self._target = target

    def running(self) -> AbstractContextManager[object]:
        return nullcontext()

    def show(self, found: list[Status]) -> None:
        page = drawing.page(sys.stdout)
        lines: list[Line] = [[(output.moment(time.time()), "")]]
        if self._target:
            for each in found:
                lines += details(each, page)
        elif found:
            lines += overview(found, page)
        if not found:
            lines.append([("no mounts" if not self._target else f"{self._target} is not mounted", "")])
        print("\n".join(drawing.drawn(line, page) for line in lines), end="\n\n", flush=True)


class _Screen:
    """A screen of its own, so that a resize leaves nothing behind and the end leaves what was there before."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._speeds: dict[str, deque[float]] = {}
        self._last: list[Status] | None = None
        console = Console(highlight=False)
        self._live = Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    def running(self) -> AbstractContextManager[object]:
        return self._live

    def show(self, found: list[Status]) -> None:
        from rich.text import Text

        if found is not self._last:  # else the terminal was resized
            self._last = found
            self._remember(found)
        page = drawing.page(sys.stdout)
        lines = [drawing.drawn(line, page) for line in picture(found, page, self._speeds, time.time())]
        self._live.update(Text.from_ansi("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)

    def _remember(self, found: list[Status]) -> None:
        before = self._speeds
        self._speeds = {
            each["mountpoint"]: before.get(each["mountpoint"], deque(maxlen=_HISTORY)) for each in found
        }  # fmt: skip
        for each in found:
            self._speeds[each["mountpoint"]].append(each["workers"]["bytes_per_s"])


def picture(found: list[Status], page: Page, speeds: Mapping[str, Sequence[float]], now: float) -> list[Line]:
    """The screen: a line of every mount, and below it as much of what they are at as fits on the page."""
    lines = [_top(found, page, now)]
    if not found:
        return lines
    rows, more = _listed(found, page)
    lines += [[], *table(rows, page), *more, *caches(found)]
    room = page.height - len(lines)
    for most in _LISTS:
        below = [glance(each, page, speeds.get(each["mountpoint"], ()), now, most) for each in found]
        if sum(len(section) + 1 for section in below if section) <= room:
            break
    for section in filter(None, below):
        lines += [[], *section]
    if len(lines) <= page.height:
        return lines
    left = len(lines) - page.height + 1
    return [*lines[: page.height - 1], [(f"and {output.count(left, 'more line')}", "dim")]]


def _listed(found: list[Status], page: Page) -> tuple[list[Status], list[Line]]:
    """The mounts that get a line, and how many do not: half of the page is for what they are at. Where not all have
    room, those come first at which something happens."""
    room = max(page.height // 2, 1)
    if len(found) <= room:
        return found, []
    eventful = sorted(found, key=lambda each: not (each["workers"]["active"] or each["last_errors"]))
    return eventful[:room], [[(f"and {output.count(len(found) - room, 'more mount')}", "dim")]]


def _top(found: list[Status], page: Page, now: float) -> Line:
    speed = sum(each["workers"]["bytes_per_s"] for each in found)
    said = f"{output.count(len(found), 'mount')}, {output.rate(speed)}" if found else "no mounts"
    aside = f"{output.moment(now)}  {_HELP}"
    blanks = (page.width or 0) - len(said) - len(aside)
    return [(said, "bold"), (" " * max(blanks, 2), ""), (aside, "dim")]
