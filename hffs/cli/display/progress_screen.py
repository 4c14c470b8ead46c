"""A running job on a terminal: one line for all of it and one for each active file."""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

from ...control.messages import Job, JobError
from . import units
from .job_displays import JobDisplay
from .live import LiveDisplay
from .terminal_layout import GAP, Line, Page, bar, cells, page_of, shortened

_FILES: Final = 10  # lines of files: as many as there are workers by default; more is hard to read
_PERCENT: Final = len(" 100 %")
_BYTES: Final = len(" 1023.9M of 1023.9M")
_NAME: Final = 60  # cells that identify a file; a wider terminal gives the rest to the bar
_LEAST_BAR: Final = 3
_MARGIN: Final = len("^C")  # written by the terminal after the last line: a full line would wrap there, and remain


class ProgressScreen(JobDisplay):
    """The newest snapshot in place on a terminal, erased at the end. Nothing is printed to stdout meanwhile."""

    def __init__(self) -> None:
        self._live = LiveDisplay(sys.stderr)

    def running(self) -> LiveDisplay:
        return self._live

    def show(self, job: Job, errors: list[JobError]) -> None:  # noqa: ARG002 - errors are printed at the end
        page = page_of(self._live.console.file)
        self._live.draw(job_lines(job, page), page)


def job_lines(job: Job, page: Page) -> list[Line]:
    """A line for the whole job, which stays in place while files come and go, and one for each active file; fewer than
    ``page.height`` lines of one width."""
    widths = _Widths.of((page.width or 80) - _MARGIN)
    space = max(1, min(_FILES, page.height - 3))  # the first line, "and more", and one of the scrollback
    lines = [_job_line(job, widths, page)]
    for file in job["active"][:space]:
        name = shortened(page.shown(file["path"]), widths.name, page.marks.cut)
        aside = "verifying" if file["state"] == "verifying" else ""
        lines.append(_line(name, file["bytes_done"], file["size"], aside, widths, page, ""))
    more = len(job["active"]) - space
    if more > 0:
        lines.append([(f"{page.marks.cut} and {units.count(more, 'more file')}", "dim")])
    return lines


class _Widths(NamedTuple):
    """Cells of the columns whose width depends on the terminal's; ``bar`` is 0 where there is no space for one."""

    name: int
    bar: int

    @classmethod
    def of(cls, width: int) -> _Widths:
        free = width - _PERCENT - _BYTES
        cells = max(min(free // 4, 40), min(free - len(GAP) - _NAME, 70))
        if cells < _LEAST_BAR:
            return cls(max(free, 1), 0)
        return cls(free - cells - len(GAP), cells)


def _job_line(job: Job, widths: _Widths, page: Page) -> Line:
    """The line of the whole job. Its text may take cells of the bar; its last words are left out before the bar is."""
    words = [
        units.rate(job["bytes_per_s"]),
        f"ETA {units.duration(job['eta_s'])}",
        f"{job['files_done']}/{units.count(job['files_total'], 'file')}",
    ]
    if job["workers"]["limit"]:  # a verification has no workers while it only reads
        words.append(f"{job['workers']['active']}/{units.count(job['workers']['limit'], 'worker')}")
    while len(words) > 1 and len(GAP.join(words)) > widths.name + max(widths.bar - _LEAST_BAR, 0):
        words.pop()
    text = GAP.join(words)
    over = max(len(text) - widths.name, 0) if widths.bar else 0
    widths = _Widths(widths.name + over, widths.bar - over)
    return _line(text, job["bytes_done"], job["bytes_total"], "", widths, page, "bold")


def _line(name: str, done: int, whole: int | None, aside: str, widths: _Widths, page: Page, style: str) -> Line:
    line: Line = [(name + " " * (widths.name - cells(name)), style)]
    if widths.bar:
        line += [(GAP, ""), *bar(done, whole, widths.bar, page.marks)]
    percent = units.percent(done, whole) if whole else ""
    amount = aside or f"{units.size(done)} of {units.size(whole).rjust(6)}"
    return [*line, (f"{percent.rjust(_PERCENT)}{amount.rjust(_BYTES)}", style)]
