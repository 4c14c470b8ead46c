"""What the commands print: sizes, times and tables for people, JSON for programs.

Used by the commands. On a terminal tables are drawn by rich; anywhere else they are plain aligned text without a
control character. Names come from servers: ``names.shown`` makes every one harmless before it is printed. No state.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, TextIO

from .. import names

shown = names.shown

_STYLES: Final = {"serving": "green", "starting": "cyan", "dead": "red", "degraded": "yellow", "offline": "yellow"}


def on_terminal(stream: TextIO) -> bool:
    """Whether a stream can be drawn on; rich's own answer would heed FORCE_COLOR, a pipe notwithstanding."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


def in_colour(stream: TextIO) -> bool:
    """Whether what is drawn may be coloured: no-color.org's NO_COLOR, where it is set to anything, says no."""
    return on_terminal(stream) and not os.environ.get("NO_COLOR")


def size(count: int | None) -> str:
    """Bytes for people: ``571B``, ``90.9M``; "?" where unknown. Units are powers of 1024, as the options are read."""
    if count is None:
        return "?"
    if count < 1024:
        return f"{count}B"
    amount = float(count)
    for unit in "KMGTP":
        amount /= 1024
        if amount < 1023.95 or unit == "P":
            return f"{amount:.1f}{unit}"
    raise AssertionError("unreachable")


def rate(bytes_per_s: float) -> str:
    """``2.9M/s``."""
    return f"{size(int(bytes_per_s))}/s"


def share(local: int, whole: int | None) -> str:
    """``1.0M of 522.7M (<1 %)``; ``1.0M of ?`` where the whole is unknown."""
    return f"{size(local)} of ?" if whole is None else f"{size(local)} of {size(whole)} ({percent(local, whole)})"


def percent(local: int, whole: int) -> str:
    """``38 %``; rounded down, so that only what is whole is 100 %, and only nothing is 0 %."""
    number = 100 * local // whole if whole else 100
    return f"{'<1' if local and not number else number} %"


def span(seconds: float) -> str:
    """A length of time for people: ``12 s``, ``4 min``, ``3 h 20 min``, ``2 d 5 h``."""
    minutes, whole = int(seconds) // 60, int(seconds)
    if whole < 120:
        return f"{whole} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def eta(seconds: float | None) -> str:
    """The time that something still takes, as ``span``; "?" while unknown."""
    return "?" if seconds is None else span(seconds)


def moment(seconds: float) -> str:
    """A time in UTC, as in logs: ``2026-05-01 12:00:00Z``."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def count(number: int | None, noun: str) -> str:
    """``1 file``, ``12 files``, ``? files``."""
    return f"{'?' if number is None else number} {noun}{'' if number == 1 else 's'}"


def as_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), fold: Sequence[int] = (0,)
) -> None:
    """Prints rows under headers. Columns numbered in ``right`` are aligned to the right, those in ``fold`` broken where
    a terminal is too narrow. Cells are made harmless."""
    clean = [[shown(cell) for cell in row] for row in rows]
    if on_terminal(sys.stdout):
        _drawn(headers, clean, right, fold)
        return
    lines = [list(headers), *clean]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _drawn(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int], fold: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, header in enumerate(headers):
        justify: Any = "right" if column in right else "left"
        drawn.add_column(header, justify=justify, overflow="fold", no_wrap=column not in fold)
    for row in rows:  # Text: a name in brackets is no markup
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(drawn)


def facts(title: str, lines: Sequence[tuple[str, str]]) -> None:
    """Prints a title and, below it, words with what they stand for, aligned."""
    print(shown(title))
    width = max((len(word) for word, _ in lines), default=0)
    for word, text in lines:
        print(f"  {word.ljust(width)}  {shown(text)}".rstrip())
