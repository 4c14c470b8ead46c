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
    """Prints rows under headers. Columns numbered in ``right`` are aligned to the right; the widest of those in
    ``fold`` is wrapped where the terminal is too narrow."""
    page = page_of(sys.stdout)
    clean = [[page.shown(cell) for cell in row] for row in rows]
    widths = [max(cells(row[column]) for row in [headers, *clean]) for column in range(len(headers))]
    over = sum(widths) + len(GAP) * (len(widths) - 1) - (page.width or sys.maxsize)
    while over > 0 and widths[widest := max(fold, key=widths.__getitem__)] > _LEAST:
        widths[widest] -= 1
        over -= 1
    print_lines(columns(headers, [line for row in clean for line in _wrapped(row, widths)], right), page)


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> list[list[Line]]:
    """The lines of one row, each cell broken wherever its column ends."""
    pieces = []
    for cell, width in zip(row, widths, strict=True):
        parts = [cropped(cell, width, "")]
        while len(done := "".join(parts)) < len(cell):
            parts.append(cropped(cell[len(done) :], width, ""))
        pieces.append(parts)
    lines = range(max(map(len, pieces)))
    return [[[(parts[line] if line < len(parts) else "", "")] for parts in pieces] for line in lines]
