"""``hffs status``: the mounts as a table, or one in detail; with ``--watch`` again and again until Ctrl-C.

A mount that ends, restarts or is new is shown as it is found; only a TARGET that is not mounted at the start is an
error.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from ...config import above_zero, parse_seconds
from ...errors import MountNotFound
from .. import options
from ..display.tables import print_json
from ..display.terminal_layout import Line, Page, drawn, is_terminal, page_of, print_lines
from ..display.units import timestamp
from ..signals import interruptible

if TYPE_CHECKING:
    from ...control.messages import Status

EXAMPLES = (
    ("hffs status", "every mount, a line each"),
    ("hffs status ~/whisper", "one mount in detail"),
    ("hffs status --watch", "live, until Ctrl-C"),
    ("hffs status --watch --interval 1m --json", "an object a line, for programs"),
)


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", nargs="?", help=f"{options.TARGET} (default: all your mounts)")
    parser.add_argument("--watch", action="store_true", help="redraw it until Ctrl-C")
    about = "how often --watch redraws (default 1 s)"
    parser.add_argument("--interval", metavar="TIME", type=above_zero(parse_seconds), default=1.0, help=about)
    options.add_json(parser)
    options.add_settings(parser, ("runtime_dir",))


def run(args: argparse.Namespace) -> int:
    from ...api import mounts
    from ..display.mount_details import INDENT

    directory = options.settings(args).runtime_dir

    def query() -> list[Status]:
        return mounts.status_of(args.target, directory) if args.target else mounts.status(directory)

    if args.watch:
        return _watch(args, query)
    try:
        found = query()
    except MountNotFound:
        if args.json:
            print_json({"mounts": []})
        raise
    if args.json:
        print_json({"mounts": found})
        return 0
    page = page_of(sys.stdout)
    now = time.time() if page.bars else None
    lines = _lines(found, args.target, page, now)
    print_lines(lines, page, INDENT if args.target else 4)  # broken, not cut: the remedy of a problem comes last
    return 0


def _lines(found: list[Status], target: str | None, page: Page, now: float | None) -> list[Line]:
    if not found:
        return [[("no mounts" if not target else f"{target} is not mounted", "")]]
    from ..display.mount_details import mount_details
    from ..display.mounts_table import mounts_table, remarks

    if not target:
        return [*mounts_table(found, page), *remarks(found, page, now)]
    details = [[[], *mount_details(each, page, now)] for each in found]
    return [line for lines in details for line in lines][1:]


def _watch(args: argparse.Namespace, query: Callable[[], list[Status]]) -> int:
    """Ctrl-C, its regular end, returns 0. A resized terminal is drawn at once."""
    found = query()
    show: Callable[[list[Status]], None]
    screen: AbstractContextManager[object] = nullcontext()
    if args.json:
        show = _print_json_line
    elif is_terminal(sys.stdout):
        from ..display.watch_screen import WatchScreen

        watch = WatchScreen()
        screen, show = watch.live, watch.show
    else:
        show = lambda found: _print_block(found, args.target)  # noqa: E731
    try:
        with interruptible(), _resizes_pending(), screen:
            while True:
                show(found)
                end = time.monotonic() + args.interval
                while (left := end - time.monotonic()) > 0:
                    if signal.sigtimedwait([signal.SIGWINCH], left) is not None:
                        show(found)
                try:
                    found = query()
                except MountNotFound:
                    found = []
    except KeyboardInterrupt:
        return 0


def _print_json_line(found: list[Status]) -> None:
    print(json.dumps({"mounts": found}), flush=True)


def _print_block(found: list[Status], target: str | None) -> None:
    """For logs and pipes: what ``hffs status`` prints, below the time."""
    page = page_of(sys.stdout)
    lines = [[(timestamp(time.time()), "")], *_lines(found, target, page, None)]
    print("\n".join(drawn(line, page) for line in lines), end="\n\n", flush=True)


@contextmanager
def _resizes_pending() -> Iterator[None]:
    """Blocks SIGWINCH, so that ``sigtimedwait`` receives it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
