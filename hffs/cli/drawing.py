"""Lines for a terminal, or for none: widths in cells, names cut in the middle, bars, colours.

Used by what draws (``overview``, ``details``, ``watching``, ``mapping``, ``progress``). A line is spans of text with a
style each; it is cut to the page's width before it is coloured, so that no width ever counts a control character. No
state. Imports nothing heavy: ``hffs status`` draws with this alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TextIO

from . import output

Span = tuple[str, str]  # text, style: a name of _CODES or ""
Line = list[Span]

_CODES: Final = {
    "bold": 1,
    "dim": 2,
    "red": 31,
    "green": 32,
    "yellow": 33,
    "cyan": 36,
}  # ECMA-48, select graphic rendition
_PATH: Final = 20  # cells that a name keeps: both ends of model-00001-of-00004.safetensors
_SIZE: Final = (80, 24)  # of a terminal that does not tell, as terminals have had since the VT100


class Marks(NamedTuple):
    """The letters that a terminal may not have."""

    done: str
    left: str
    cut: str
    levels: str  # of a speed's history, from low to high; empty: it is not drawn


UNICODE: Final = Marks("━", "─", "…", "▁▂▃▄▅▆▇█")  # bars of different weight, since colour may be off
ASCII: Final = Marks("#", "-", "...", "")


@dataclass(frozen=True, slots=True)
class Page:
    """What is drawn on: ``width`` cells, None where lines may be as long as they are (a pipe) and no bar is drawn."""

    width: int | None = None
    height: int = 24
    marks: Marks = UNICODE
    colour: bool = False

    @property
    def bars(self) -> bool:
        return self.width is not None

    def shown(self, text: str) -> str:
        """``text`` made harmless, in letters that the terminal has."""
        text = output.shown(text)
        return text if self.marks is not ASCII else text.encode("ascii", "backslashreplace").decode()

    def fitted(self, before: str, path: str, after: str, used: int) -> str:
        """A sentence about a file beside ``used`` cells, on one line as far as its name can be cut for it."""
        path = self.shown(path)
        if self.width is not None:
            room = self.width - used - cells(before) - cells(after)
            path = shortened(path, max(room, _PATH), self.marks.cut)
        return before + path + after


def page(stream: TextIO) -> Page:
    """What ``stream`` is: a terminal's size, letters and colours, or plain text."""
    marks = UNICODE if is_unicode(stream) else ASCII
    if not output.on_terminal(stream):
        return Page(marks=marks)
    try:
        width, height = os.get_terminal_size(stream.fileno())
    except OSError:
        width, height = 0, 0
    return Page(width or _SIZE[0], height or _SIZE[1], marks, output.in_colour(stream))


def is_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "ascii").lower().startswith("utf")


def cells(text: str) -> int:
    """How many columns of a terminal a text takes: two for each wide letter, none for one that combines."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # 6 ms, for names that need it

    return cell_len(text)


def shortened(text: str, width: int, cut: str = UNICODE.cut) -> str:
    """``text`` in at most ``width`` cells, cut in the middle: names are told apart by their folders and their ends."""
    if cells(text) <= width:
        return text
    if cells(cut) > width:
        return cropped(text, width, "")
    room = width - cells(cut)
    tail = room - room // 2
    return cropped(text, room // 2, "") + cut + cropped(text[::-1], tail, "")[::-1]


def cropped(text: str, width: int, cut: str = UNICODE.cut) -> str:
    """``text`` in at most ``width`` cells, its end cut off."""
    if cells(text) <= width:
        return text
    room = width - cells(cut)
    if text.isascii():
        return text[: max(room, 0)] + (cut if room >= 0 else "")
    kept, used = "", 0
    for letter in text:
        used += cells(letter)
        if used > room:
            break
        kept += letter
    return kept + (cut if room >= 0 else "")


def padded(text: str, width: int, right: bool = False) -> str:
    """``text`` with blanks up to ``width`` cells."""
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def bar(done: int, whole: int | None, width: int, marks: Marks) -> Line:
    """How much of ``whole`` is done, ``width`` cells wide; rounded down, so that only what is whole looks so."""
    filled = min(width * done // whole, width) if whole else 0
    return [(marks.done * filled, "green"), (marks.left * (width - filled), "dim")]


def history(values: Sequence[float], marks: Marks) -> str:
    """A speed's last values, a letter each, as parts of the highest; empty where nothing ever moved."""
    top = max(values, default=0)
    if not marks.levels or top <= 0:
        return ""
    last = len(marks.levels) - 1
    return "".join(marks.levels[round(last * max(value, 0) / top)] for value in values)


def drawn(line: Line, page: Page) -> str:
    """The line as it is printed: harmless, within the page's width, coloured where the page is."""
    spans = [(page.shown(text), style) for text, style in line]
    if page.width is not None:
        spans = _within(spans, page.width, page.marks.cut)
    if not page.colour:
        return "".join(text for text, _ in spans).rstrip()
    return "".join(f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and text else text for text, style in spans)


def folded(line: Line, page: Page, indent: int) -> list[Line]:
    """The line broken at blanks where it is wider than the page, all but its first piece indented. A word that is wider
    than that itself is cut."""
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


def _within(spans: Line, width: int, cut: str) -> Line:
    if sum(cells(text) for text, _ in spans) <= width:
        return spans
    kept: Line = []
    left = width
    for text, style in spans:
        used = cells(text)
        if used >= left:  # the last one that has room; what is cut off is told by its end
            kept.append((cropped(text + cut, left, cut), style))
            break
        kept.append((text, style))
        left -= used
    return kept
