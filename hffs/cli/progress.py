"""What ``hffs hydrate`` draws on a terminal: a line in all, and one for each file at work.

``picture`` is a snapshot as aligned lines of one width; ``Screen`` keeps the newest one in place on stderr and takes it
away at the end. The line in all is the first, so that it stays where it is while files come and go. No
thread: it is drawn when a snapshot comes, in one write.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from rich.cells import set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..control.messages import Job, JobError, JobFile
from . import output
from .drawing import ASCII, UNICODE, Marks, shortened

_FILES: Final = 10  # as many as there are workers by default; more is a wall that nobody reads
_GAP: Final = "  "
_PERCENT: Final = len(" 100 %")
_BYTES: Final = len(" 1023.9M of 1023.9M")
_NAME: Final = 60  # cells that tell a file's name; a wider terminal gives the rest to the bar
_BAR_AT_LEAST: Final = 3  # shorter than this a bar says nothing
_SPARE: Final = len("^C")  # which the terminal writes after the last line: a full one would break there, and stay


class Screen:
    """The live display; stderr must be a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        # Nothing is printed to stdout meanwhile; log lines to stderr are put above the display.
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._live:
            yield

    def show(self, job: Job, errors: list[JobError]) -> None:  # noqa: ARG002 - errors are told once it has ended
        size = self._console.size
        self._live.update(picture(job, size.width - _SPARE, size.height, self._console.encoding), refresh=True)

    def end(self, job: Job | None, state: str, exit_code: int, errors: list[JobError]) -> None:
        pass


def picture(job: Job, width: int, height: int, encoding: str = "utf-8") -> Text:
    """A snapshot, drawn ``width`` cells wide and in fewer than ``height`` lines, in letters that ``encoding`` has."""
    columns = _Columns.of(width)
    marks = UNICODE if encoding.startswith("utf") else ASCII
    room = max(1, min(_FILES, height - 3))  # the line in all, "and more", and one of what was there before
    lines = [_whole(job, columns, marks)]
    lines += [_file(file, columns, marks, encoding) for file in job["active"][:room]]
    more = len(job["active"]) - room
    if more > 0:
        lines.append(Text(f"{marks.cut} and {output.count(more, 'more file')}", style="dim"))
    text = Text("\n").join(lines)
    text.no_wrap, text.overflow = True, "crop"
    return text


class _Columns(NamedTuple):
    """Cells of the columns whose width depends on the terminal's."""

    name: int
    bar: int

    @classmethod
    def of(cls, width: int) -> _Columns:
        free = width - _PERCENT - _BYTES
        bar = max(min(free // 4, 40), min(free - len(_GAP) - _NAME, 70))
        if bar < _BAR_AT_LEAST:
            return cls(max(free, 1), 0)
        return cls(free - bar - len(_GAP), bar)


def _whole(job: Job, columns: _Columns, marks: Marks) -> Text:
    """The line in all. Its words may take of the bar what they need; the last ones are left out before it is gone."""
    words = [
        output.rate(job["bytes_per_s"]),
        f"ETA {output.eta(job['eta_s'])}",
        f"{job['files_done']}/{output.count(job['files_total'], 'file')}",
    ]
    if job["workers"]["limit"]:  # while a verification only looks there are none
        words.append(f"{job['workers']['active']}/{output.count(job['workers']['limit'], 'worker')}")
    while len(words) > 1 and len(_GAP.join(words)) > columns.name + max(columns.bar - _BAR_AT_LEAST, 0):
        words.pop()
    said = _GAP.join(words)
    over = max(len(said) - columns.name, 0) if columns.bar else 0
    wide = _Columns(columns.name + over, columns.bar - over)
    return _line(said, job["bytes_done"], job["bytes_total"], "", wide, marks, "bold")


def _file(file: JobFile, columns: _Columns, marks: Marks, encoding: str) -> Text:
    path = output.shown(file["path"]).encode(encoding, "backslashreplace").decode(encoding)
    name = shortened(path, columns.name, marks.cut)
    aside = "verifying" if file["state"] == "verifying" else ""
    return _line(name, file["bytes_done"], file["size"], aside, columns, marks, "")


def _line(name: str, done: int, whole: int | None, aside: str, columns: _Columns, marks: Marks, style: str) -> Text:
    line = Text(style=style)
    line.append(set_cell_size(name, columns.name))
    if columns.bar:
        line.append(_GAP)
        filled = min(columns.bar * done // whole, columns.bar) if whole else 0
        line.append(marks.done * filled, style="green")
        line.append(marks.left * (columns.bar - filled), style="dim")
    percent = output.percent(done, whole) if whole else ""
    amount = aside or f"{output.size(done)} of {output.size(whole).rjust(6)}"
    line.append(f"{percent.rjust(_PERCENT)}{amount.rjust(_BYTES)}")
    return line
