"""How a running job is shown: a live display on a terminal, log lines in a pipe, JSON lines for programs.

The lines of ``--json``, each with ``event``; bytes and seconds, times since the epoch:

- ``start``, the first: ``id``, ``kind``, ``target``, ``started_at``, and the totals.
- ``file``, as each ends: ``path``, ``size``, ``etag``, ``bytes_done``, ``state`` (``done`` or ``failed``).
- ``error``: ``path`` (empty where it concerns no single file), ``what``, ``remedy``, ``exit_code``.
- ``progress``, at every interval: the totals, ``updated_at``, ``bytes_per_s`` and ``eta_s`` (null while unknown),
  ``active`` (the files being fetched or verified, as in ``file``), ``workers`` (``active``, ``limit``, ``why``).
- ``end``, the last: ``state`` (``done``, ``failed``, ``cancelled``), ``exit_code``, ``updated_at``, the totals.

The totals: ``bytes_done`` (local already or fetched), ``bytes_total``, ``bytes_fetched`` (over the network),
``files_done``, ``files_total``. A verification adds

- ``finding``, for each when it is found: ``path``, ``kind``, ``severity`` (``damage``, ``warning``), ``what``,
  ``remedy``, ``expected`` and ``got`` (hex, empty where no hashes were compared), ``mended`` (false), ``exit_code``.
- ``outcome``, for each finding at the end: the same with its final state.
- ``checked`` in ``end``: files by result, and bytes read.

Keys and events may be added, never renamed. A command that fails before the job starts prints no line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

from ...control.messages import Job, JobError
from ...names import shown
from . import units
from .terminal_layout import GAP, Line, Page, bar, cells, is_terminal, shortened

if TYPE_CHECKING:
    from .live import LiveDisplay

_LINE_SECONDS: Final = 5.0  # at most one log line in that time
_SILENCE_SECONDS: Final = 60.0  # CI services end a job that prints nothing for some minutes
_TOTALS: Final = ("bytes_done", "bytes_total", "bytes_fetched", "files_done", "files_total")
_FILES: Final = 10  # lines of files: as many as there are workers by default; more is hard to read
_PERCENT: Final = len(" 100 %")
_BYTES: Final = len(" 1023.9M of 1023.9M")
_NAME: Final = 60  # cells that identify a file; a wider terminal gives the rest to the bar
_LEAST_BAR: Final = 3
_MARGIN: Final = len("^C")  # written by the terminal after the last line: a full line would wrap there, and remain

JobState = Literal["done", "failed", "cancelled"]


class JobDisplay:
    """Shows nothing; entered before the first snapshot, left after the last one or when interrupted."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *wrong: object) -> None:
        pass

    def show(self, job: Job, errors: list[JobError]) -> None:
        """A snapshot, with the errors that are new in it."""

    def end(self, job: Job | None, state: JobState, exit_code: int, errors: list[JobError]) -> None:
        """The end of the job, with the last snapshot and the errors that ended it after that."""


def job_display(*, as_json: bool) -> JobDisplay:
    """The display that fits stderr and the option --json."""
    if as_json:
        return JsonLines()
    if not is_terminal(sys.stderr):
        return LogLines()
    from .live import LiveDisplay

    return ProgressScreen(LiveDisplay(sys.stderr))


def print_event(name: str, /, **fields: Any) -> None:
    print(json.dumps({"event": name, **fields}), flush=True)


class JsonLines(JobDisplay):
    """Every event as one line on stdout."""

    def __init__(self) -> None:
        self._started = False
        self._findings = 0

    def show(self, job: Job, errors: list[JobError]) -> None:
        if not self._started:
            self._started = True
            about = {key: job[key] for key in ("id", "kind", "target", "started_at")}
            print_event("start", **about, **_totals(job))
        for file in job["finished"]:
            print_event("file", **file)
        if job["kind"] == "hydrate":  # errors of a verification's files are findings
            for error in errors:
                print_event("error", **error)
        if job["state"] == "running":
            now = {key: job[key] for key in ("updated_at", "bytes_per_s", "eta_s", "active")}
            workers = {key: job["workers"][key] for key in ("active", "limit", "why")}
            print_event("progress", **_totals(job), **now, workers=workers)
        findings = job.get("findings", [])
        for each in findings[self._findings :]:
            print_event("finding", **{**each, "mended": False})
        self._findings = len(findings)

    def end(self, job: Job | None, state: JobState, exit_code: int, errors: list[JobError]) -> None:
        if job is None:
            return
        for each in job.get("findings", []):
            print_event("outcome", **each)
        if job["kind"] == "verify":
            errors = [*(error for error in job["errors"] if not error["path"]), *errors]
        for error in errors:
            print_event("error", **error)
        checked = {"checked": job["checked"]} if "checked" in job else {}
        print_event("end", state=state, exit_code=exit_code, updated_at=job["updated_at"], **_totals(job), **checked)


class LogLines(JobDisplay):
    """A line on stderr when another tenth is done or a minute has passed, at most one every 5 s."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, int] | None = None

    def show(self, job: Job, errors: list[JobError]) -> None:  # noqa: ARG002 - errors are printed at the end
        now, whole = self._clock(), job["bytes_total"]
        tenth = 10 * job["bytes_done"] // whole if whole else 0
        at, before = self._last or (now, tenth)
        due = now - at >= (_LINE_SECONDS if tenth > before else _SILENCE_SECONDS)
        if due and job["state"] == "running":
            files = f"{job['files_done']} of {units.count(job['files_total'], 'file')}"
            speed = f"{units.rate(job['bytes_per_s'])}, ETA {units.duration(job['eta_s'])}"
            line = f"{job['target']}: {units.share(job['bytes_done'], whole or None)}, {files}, {speed}"
            print(shown(line), file=sys.stderr, flush=True)
        if due or self._last is None:
            self._last = now, tenth


class ProgressScreen(JobDisplay):
    """The newest snapshot in place on a terminal, erased at the end. Nothing is printed to stdout meanwhile."""

    def __init__(self, live: LiveDisplay) -> None:
        self._live = live

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *wrong: object) -> None:
        self._live.__exit__()

    def show(self, job: Job, errors: list[JobError]) -> None:  # noqa: ARG002 - errors are printed at the end
        page = self._live.page
        self._live.draw(job_lines(job, page), page)


def job_lines(job: Job, page: Page) -> list[Line]:
    """A line for the whole job, which stays in place while files come and go, and one for each active file; fewer than
    ``page.height`` lines of one width."""
    widths = _Widths.of((page.width or 80) - _MARGIN)
    room = max(1, min(_FILES, page.height - 3))  # the first line, "and more", and one of the scrollback
    lines = [_job_line(job, widths, page)]
    for file in job["active"][:room]:
        name = shortened(page.shown(file["path"]), widths.name, page.marks.cut)
        aside = "verifying" if file["state"] == "verifying" else ""
        lines.append(_line(name, file["bytes_done"], file["size"], aside, widths, page, ""))
    more = len(job["active"]) - room
    if more > 0:
        lines.append([(f"{page.marks.cut} and {units.count(more, 'more file')}", "dim")])
    return lines


class _Widths(NamedTuple):
    """Cells of the columns whose width depends on the terminal's; ``bar`` is 0 where there is no room for one."""

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


def _totals(job: Job) -> dict[str, Any]:
    return {key: job[key] for key in _TOTALS}
