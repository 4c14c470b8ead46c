"""Tables and JSON on stdout. Cells may hold any name: control characters are escaped before they are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from .terminal_layout import GAP, Line, cells, columns, cropped, page_of, print_lines

_LEAST: Final = 12  # cells that a column of names keeps however narrow the terminal is


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), fold: Sequence[int] = (0,)
) -> None:
    """Prints rows under headers. Columns numbered in ``right`` are aligned to the right; where the terminal is too
    narrow, those in ``fold`` are wrapped, the widest first, and then the others."""
    page = page_of(sys.stdout)
    clean = [[page.shown(cell) for cell in row] for row in rows]
    widths = [max(cells(row[column]) for row in [headers, *clean]) for column in range(len(headers))]
    over = sum(widths) + len(GAP) * (len(widths) - 1) - (page.width or sys.maxsize)
    for narrowed, least in ((fold, _LEAST), (range(len(widths)), 1)):
        while over > 0 and widths[widest := max(narrowed, key=widths.__getitem__)] > least:
            widths[widest] -= 1
            over -= 1
    print_lines(columns(headers, [line for row in clean for line in _wrapped(row, widths)], right), page)


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> list[list[Line]]:
    """The lines of one row, each cell broken where its column ends, at a blank if there is one."""
    pieces = []
    for text, width in zip(row, widths, strict=True):
        cell = text
        parts = []
        while cells(cell) > width:
            part = cropped(cell, width, "")
            part = part[: part.rfind(" ") + 1] or part or cell[0]
            parts.append(part)
            cell = cell[len(part) :]
        pieces.append([*parts, cell])
    lines = range(max(map(len, pieces)))
    return [[[(parts[line] if line < len(parts) else "", "")] for parts in pieces] for line in lines]
