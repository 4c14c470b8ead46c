"""``hffs map FILE``: which blocks of a mounted file are local, in flight, queued, absent, as a grid.

Called by ``main`` with parsed arguments; prints, and returns the exit code. A mark stands for one block, or for as many
as it takes for the grid to fit the terminal (a screen of 80 by 24 where there is none).
"""

from __future__ import annotations

import argparse
import sys
from typing import Final, NamedTuple

from .. import config
from ..api import mounts
from ..control.messages import FileBlockMap
from . import drawing, output
from .drawing import ASCII, Line, Page
from .parser import flags

_COLUMNS: Final = 16  # marks of a row are a multiple of this, so that the offsets before the rows are round
_BESIDE: Final = 6  # lines that are no rows: the file, two of the legend, its unit, and a prompt before and after


class _Mark(NamedTuple):
    letter: str
    plain: str  # where there is no Unicode
    style: str
    means: str


# In the order of the legend. Of different density, since colour may be off.
_MARKS: Final = {
    "local": _Mark("█", "#", "green", "local"),
    "partly": _Mark("▄", "+", "green", "in part"),
    "in_flight": _Mark("▒", ">", "yellow", "in flight"),
    "queued": _Mark("░", "?", "cyan", "queued"),
    "absent": _Mark("·", ".", "dim", "absent"),
}


def show(args: argparse.Namespace) -> int:
    """Raises MountNotFound, MountFailed, UsageError (not a file), NotFound."""
    where, found = mounts.blocks(args.target, config.load(flags(args)).runtime_dir)
    if args.json:
        output.as_json({"mountpoint": where, **found})
        return 0
    page = drawing.page(sys.stdout)
    for line in picture(found, page):
        print(drawing.drawn(line, page))
    return 0


def picture(found: FileBlockMap, page: Page) -> list[Line]:
    """The file, its blocks as rows of marks with the offset before each, and the legend with totals."""
    size = found["size"]
    title: Line = [(found["path"], "bold"), (f"  {output.size(size)}", "")]
    if size is None:
        return [title, [("its size is not known yet, and nothing of it is here", "")]]
    blocks = -(-size // found["block_size"])
    if not blocks:
        return [title, [("it is empty: there is nothing to fetch", "")]]
    title.append((f" in {output.count(blocks, 'block')}", ""))
    label = len(" 1023.9M  ")
    rows = max(page.height - _BESIDE, 2)
    columns = max(((page.width or 80) - label) // _COLUMNS, 1) * _COLUMNS
    each = 1  # blocks a mark
    while each * columns * rows < blocks:
        each *= 2
    states = _states(found, blocks, each)
    lines = [title]
    for first in range(0, len(states), columns):
        offset = output.size(first * each * found["block_size"])
        lines.append([(f"{offset.rjust(label - 2)}  ", "dim"), *_row(states[first : first + columns], page)])
    return [*lines, *_legend(found, size, states, each, page)]


def _states(found: FileBlockMap, blocks: int, each: int) -> list[str]:
    """What each mark shows: local only where all of its blocks are; else the liveliest of what they are."""
    local = [0] * -(-blocks // each)
    seen: list[set[str]] = [set() for _ in local]
    for run in found["runs"]:
        end = min(run["start"] + run["count"], blocks)
        for mark in range(run["start"] // each, -(-end // each)):
            seen[mark].add(run["state"])
            if run["state"] == "local":
                local[mark] += min(end, (mark + 1) * each) - max(run["start"], mark * each)
    return [_state(local[mark], min(each, blocks - mark * each), seen[mark]) for mark in range(len(local))]


def _state(local: int, blocks: int, seen: set[str]) -> str:
    if local == blocks:
        return "local"
    for state in ("in_flight", "queued"):
        if state in seen:
            return state
    return "partly" if local else "absent"


def _row(states: list[str], page: Page) -> Line:
    line: Line = []
    for state in states:
        letter, style = _letter(state, page), _MARKS[state].style
        if line and line[-1][1] == style and line[-1][0][-1] == letter:
            line[-1] = (line[-1][0] + letter, style)
        else:
            line.append((letter, style))
    return line


def _letter(state: str, page: Page) -> str:
    return _MARKS[state].plain if page.marks is ASCII else _MARKS[state].letter


def _legend(found: FileBlockMap, size: int, states: list[str], each: int, page: Page) -> list[Line]:
    """The marks with the bytes of each state; what there is none of is left out."""
    unit = found["block_size"]
    totals = dict.fromkeys(_MARKS, 0)
    for run in found["runs"]:
        totals[run["state"]] += min((run["start"] + run["count"]) * unit, size) - run["start"] * unit
    lines: list[Line] = [[]]
    used = 0
    for state, mark in _MARKS.items():
        if totals[state] or state in states:
            amount = f" {output.size(totals[state])}" if state != "partly" else ""
            share = f" ({output.percent(totals[state], size)})" if state == "local" else ""
            said = f" {mark.means}{amount}{share}   "
            if lines[-1] and page.width is not None and used + len(said.rstrip()) >= page.width:
                lines.append([])
                used = 0
            lines[-1] += [(_letter(state, page), mark.style), (said, "")]
            used += 1 + len(said)
    what = "1 block" if each == 1 else f"{each} blocks"
    return [*lines, [(f"a mark is {what}, {output.size(each * unit)}", "dim")]]
