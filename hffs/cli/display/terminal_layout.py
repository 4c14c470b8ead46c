"""Lines for a terminal or a pipe: widths in cells, names cut in the middle, columns, bars, colours.

The only drawing system of the command line. A line is a list of spans, text with a style; it is cut to the page's width
before it is coloured, so that a width never counts a control character. Imports nothing heavy: ``hffs status`` draws
with this module alone. No state.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Final, NamedTuple

from ... import names

Line = list[tuple[str, str]]  # text and style: a key of _CODES, or ""

# ECMA-48, select graphic rendition
_CODES: Final = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
_LEAST_NAME: Final = 20  # cells that a name keeps: both ends of model-00001-of-00004.safetensors
_DEFAULT_SIZE: Final = (80, 24)  # of a terminal of unknown size, as of the VT100
GAP: Final = "  "


class Marks(NamedTuple):
    """The characters that are not ASCII on most terminals."""

    done: str
    left: str
    cut: str
    levels: str  # of a speed's history, from low to high; empty: no history is drawn


UNICODE: Final = Marks("━", "─", "…", "▁▂▃▄▅▆▇█")  # bars of different weight, since colours may be off
ASCII: Final = Marks("#", "-", "...", "")


@dataclass(frozen=True, slots=True)
class Page:
    """The output stream: ``width`` in cells, or None for a pipe, where lines are not cut and no bar is drawn."""

    width: int | None = None
    height: int = 24
    marks: Marks = UNICODE
    colour: bool = False

    @property
    def bars(self) -> bool:
        return self.width is not None

    def shown(self, text: str) -> str:
        """``text`` without control characters, in characters that the terminal has."""
        text = names.shown(text)
        return text if self.marks is not ASCII else text.encode("ascii", "backslashreplace").decode()

    def fitted(self, before: str, path: str, after: str, used: int) -> str:
        """``before``, a path and ``after`` beside ``used`` cells, the path cut as far as one line needs it."""
        path = self.shown(path)
        if self.width is not None:
            space = self.width - used - cells(before) - cells(after)
            path = shortened(path, max(space, _LEAST_NAME), self.marks.cut)
        return before + path + after


def is_terminal(stream: IO[str]) -> bool:
    """Whether a stream can be drawn on. rich's own check would obey FORCE_COLOR for a pipe too."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


def page_of(stream: IO[str]) -> Page:
    """The size, characters and colours of the stream; NO_COLOR, set to anything, forbids colours (no-color.org)."""
    marks = UNICODE if (getattr(stream, "encoding", None) or "ascii").lower().startswith("utf") else ASCII
    if not is_terminal(stream):
        return Page(marks=marks)
    try:
        width, height = os.get_terminal_size(stream.fileno())
    except OSError:
        width, height = 0, 0
    return Page(width or _DEFAULT_SIZE[0], height or _DEFAULT_SIZE[1], marks, not os.environ.get("NO_COLOR"))


def print_lines(lines: Iterable[Line], page: Page | None = None, indent: int | None = None) -> None:
    """Prints to stdout. With ``indent``, a line that is too wide is broken at blanks instead of cut."""
    page = page or page_of(sys.stdout)
    for line in lines:
        for piece in [line] if indent is None else folded(line, page, indent):
            print(drawn(piece, page))


def cells(text: str) -> int:
    """The columns of a terminal that a text takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # 6 ms, for names that need it

    return cell_len(text)


def width_of(line: Line) -> int:
    return sum(cells(text) for text, _ in line)


def shortened(text: str, width: int, cut: str = UNICODE.cut) -> str:
    """``text`` in at most ``width`` cells, cut in the middle: paths differ in their folders and their ends."""
    if cells(text) <= width:
        return text
    if cells(cut) > width:
        return cropped(text, width, "")
    space = width - cells(cut)
    tail = space - space // 2
    return cropped(text, space // 2, "") + cut + cropped(text[::-1], tail, "")[::-1]


def cropped(text: str, width: int, cut: str = UNICODE.cut) -> str:
    """``text`` in at most ``width`` cells, its end cut off."""
    if cells(text) <= width:
        return text
    space = width - cells(cut)
    if text.isascii():
        return text[: max(space, 0)] + (cut if space >= 0 else "")
    kept, used = "", 0
    for letter in text:
        used += cells(letter)
        if used > space:
            break
        kept += letter
    return kept + (cut if space >= 0 else "")


def columns(headers: Sequence[str], rows: Sequence[Sequence[Line]], right: Sequence[int] = ()) -> list[Line]:
    """A bold header line and the rows, all of one width; columns numbered in ``right`` are aligned to the right."""
    table: list[Sequence[Line]] = [[[(header, "bold")] for header in headers], *rows]
    widths = [max(width_of(row[column]) for row in table) for column in range(len(headers))]
    lines: list[Line] = []
    for row in table:
        line: Line = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blanks = [(" " * (width - width_of(cell)), "")]
            line += [*([(GAP, "")] if column else []), *(blanks + cell if column in right else cell + blanks)]
        lines.append(line)
    return lines


def bar(done: int, whole: int | None, width: int, marks: Marks) -> Line:
    """The share that is done as a bar of ``width`` cells; rounded down, so that only the whole fills it."""
    filled = min(width * done // whole, width) if whole else 0
    return [(marks.done * filled, "green"), (marks.left * (width - filled), "dim")]


def history(values: Sequence[float], marks: Marks) -> str:
    """The values as one character each, scaled to the highest; empty where all are 0."""
    top = max(values, default=0)
    if not marks.levels or top <= 0:
        return ""
    last = len(marks.levels) - 1
    return "".join(marks.levels[round(last * max(value, 0) / top)] for value in values)


def drawn(line: Line, page: Page) -> str:
    """The line as printed: without control characters of names, within the page's width, coloured if the page is."""
    spans = [(page.shown(text), style) for text, style in line]
    if page.width is not None:
        spans = _cut(spans, page.width, page.marks.cut)
    if not page.colour:
        return "".join(text for text, _ in spans).rstrip()
    return "".join(f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and text else text for text, style in spans)


def folded(line: Line, page: Page, indent: int) -> list[Line]:
    """The line broken at blanks to fit the page, all pieces but the first indented. A word wider than a line is cut
    when it is drawn."""
    if page.width is None:
        return [line]
    pieces: list[Line] = [[]]
    used = 0
    for text, style in line:
        for word in re.findall(r"\s+|\S+", page.shown(text)):
            width = cells(word)
            if used > indent and used + width > page.width:
                pieces.append([(" " * indent, "")])
                used = indent
                if word.isspace():
                    continue
            pieces[-1].append((word, style))
            used += width
    return pieces


def _cut(spans: Line, width: int, cut: str) -> Line:
    if width_of(spans) <= width:
        return spans
    kept: Line = []
    left = width
    for text, style in spans:
        used = cells(text)
        if used >= left:  # the last span that fits, in part: it gets the mark of the cut
            kept.append((cropped(text + cut, left, cut), style))
            break
        kept.append((text, style))
        left -= used
    return kept
