"""A file's blocks as a grid of marks: local, in flight, queued or absent.

A mark stands for one block, or for as many as make the grid fit the terminal (80 by 24 in a pipe).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ...control.messages import FileBlockMap
from . import units
from .terminal_layout import ASCII, Line, Page

_COLUMNS: Final = 16  # the marks of a row are a multiple of this, so that the offsets before the rows are round
_OTHER_LINES: Final = 6  # than rows: the file, two of the legend, its unit, and a prompt before and after
_LABEL: Final = len(" 1023.9M  ")


class _Mark(NamedTuple):
    letter: str
    ascii: str
    style: str
    label: str


# In the order of the legend. Of different density, since colours may be off.
_MARKS: Final = {
    "local": _Mark("█", "#", "green", "local"),
    "partly": _Mark("▄", "+", "green", "in part"),
    "in_flight": _Mark("▒", ">", "yellow", "in flight"),
    "queued": _Mark("░", "?", "cyan", "queued"),
    "absent": _Mark("·", ".", "dim", "absent"),
}


def block_map(found: FileBlockMap, page: Page) -> list[Line]:
    """The file, rows of marks with the offset before each, and the legend with totals."""
    size = found["size"]
    title: Line = [(found["path"], "bold"), (f"  {units.size(size)}", "")]
    if size is None:
        return [title, [("its size is not known yet, and none of it is local", "")]]
    blocks = -(-size // found["block_size"])
    if not blocks:
        return [title, [("it is empty: there is nothing to fetch", "")]]
    title.append((f" in {units.count(blocks, 'block')}", ""))
    rows = max(page.height - _OTHER_LINES, 2)
    width = max(((page.width or 80) - _LABEL) // _COLUMNS, 1) * _COLUMNS
    scale = 1  # blocks a mark
    while scale * width * rows < blocks:
        scale *= 2
    states = _states(found, blocks, scale)
    lines = [title]
    for first in range(0, len(states), width):
        offset = units.size(first * scale * found["block_size"])
        lines.append([(f"{offset.rjust(_LABEL - 2)}  ", "dim"), *_row(states[first : first + width], page)])
    lines += _legend(found, size, states, page)
    marks = "1 block" if scale == 1 else f"{scale} blocks"
    return [*lines, [(f"a mark is {marks}, {units.size(scale * found['block_size'])}", "dim")]]


def _states(found: FileBlockMap, blocks: int, scale: int) -> list[str]:
    """The state of each mark: local only where all of its blocks are, else the most active of its blocks' states."""
    local = [0] * -(-blocks // scale)
    seen: list[set[str]] = [set() for _ in local]
    for run in found["runs"]:
        end = min(run["start"] + run["count"], blocks)
        for mark in range(run["start"] // scale, -(-end // scale)):
            seen[mark].add(run["state"])
            if run["state"] == "local":
                local[mark] += min(end, (mark + 1) * scale) - max(run["start"], mark * scale)
    states = []
    for mark, (count, found_states) in enumerate(zip(local, seen, strict=True)):
        whole = count == min(scale, blocks - mark * scale)
        active = next((state for state in ("in_flight", "queued") if state in found_states), "")
        states.append("local" if whole else active or ("partly" if count else "absent"))
    return states


def _row(states: list[str], page: Page) -> Line:
    """The marks of a row, neighbours of one state as one span."""
    starts = [at for at in range(len(states)) if not at or states[at] != states[at - 1]]
    ends = [*starts[1:], len(states)]
    return [
        (_letter(states[start], page) * (end - start), _MARKS[states[start]].style)
        for start, end in zip(starts, ends, strict=True)
    ]


def _letter(state: str, page: Page) -> str:
    return _MARKS[state].ascii if page.marks is ASCII else _MARKS[state].letter


def _legend(found: FileBlockMap, size: int, states: list[str], page: Page) -> list[Line]:
    """The marks that occur, with the bytes of each state."""
    unit = found["block_size"]
    totals = dict.fromkeys(_MARKS, 0)
    for run in found["runs"]:
        totals[run["state"]] += min((run["start"] + run["count"]) * unit, size) - run["start"] * unit
    lines: list[Line] = [[]]
    used = 0
    for state, mark in _MARKS.items():
        if totals[state] or state in states:
            amount = f" {units.size(totals[state])}" if state != "partly" else ""
            share = f" ({units.percent(totals[state], size)})" if state == "local" else ""
            text = f" {mark.label}{amount}{share}   "
            if lines[-1] and page.width is not None and used + len(text.rstrip()) >= page.width:
                lines.append([])
                used = 0
            lines[-1] += [(_letter(state, page), mark.style), (text, "")]
            used += 1 + len(text)
    return lines
