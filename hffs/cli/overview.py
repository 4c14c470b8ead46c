"""The mounts as a table, a line each, with what a user would want to know unasked below it.

Used by ``running`` and ``watching``. Into a terminal's width go the names, cut in the middle where they must be, and
of the rest what has room: numbers first, then the bar. Without a terminal everything, however wide. No state.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..control.messages import Status
from . import output, words
from .drawing import Line, Page, bar, cells, padded, shortened

_GAP: Final = "  "
_LONG: Final = 60  # cells of mountpoint and repo together that tell most of them apart,
_SHORT: Final = 32  # and those that are worth leaving other columns out for
_READER: Final = "a reader waits: "
_PERCENT: Final = len(" 100 %")


class _Shape(NamedTuple):
    """What is shown beside names and state: a bar of so many cells, the bytes, the speed, and what came so far."""

    bar: int
    bytes: bool
    moving: bool
    fetched: bool


# The widest that leaves the names whole is taken. A bar of 30 cells shows 3 %; one of less than 8 shows little.
_SHAPES: Final = (
    _Shape(30, True, True, True),
    _Shape(20, True, True, False),
    _Shape(10, True, True, False),
    _Shape(10, False, True, False),
    _Shape(0, False, True, False),
    _Shape(0, False, False, False),
)


def overview(found: list[Status], page: Page, now: float | None = None) -> list[Line]:
    """The table and its remarks; ``now`` (seconds since the epoch): times are told as how long ago."""
    return [*table(found, page), *remarks(found, page, now)]


def table(found: list[Status], page: Page) -> list[Line]:
    if page.width is None:
        return _rows(found, page, _Shape(0, True, True, True), None)
    names = _widest([page.shown(each["mountpoint"]) for each in found], "MOUNT")
    names += _widest([page.shown(words.repo(each)) for each in found], "REPO")
    tries = [(shape, names) for shape in _SHAPES if shape.bar]  # then with names cut, at first a little
    tries += [(shape, min(names, _LONG)) for shape in _SHAPES if shape.bar]
    tries += [(shape, min(names, _SHORT)) for shape in _SHAPES]
    for shape, enough in tries:
        room = page.width - _beside(found, page, shape) - len(_GAP)
        if room >= enough:
            return _rows(found, page, shape, room)
    return _rows(found, page, shape, max(room, 2))


def remarks(found: list[Status], page: Page, now: float | None = None) -> list[Line]:
    """Caches and their limits, then what waits and what went wrong, each with its mount."""
    lines = caches(found)
    for each in found:
        where = f"{page.shown(each['mountpoint'])}: "
        means = words.means(each)
        if means:
            lines.append([(where, ""), (f"{each['state']}: {means}", words.STYLES[each["state"]])])
        lines += [
            [(where, ""), (_READER + line, "yellow")] for line in words.waiting(each, page, cells(where) + len(_READER))
        ]
        lines += [[(where, ""), (line, "red")] for line in words.wrong(each, now)]
    return lines


def caches(found: list[Status]) -> list[Line]:
    """Each cache directory once, however many mounts share it."""
    uses = {each["cache"]["dir"]: each["cache"] for each in found if each["cache"]["dir"]}
    lines: list[Line] = []
    for directory, use in uses.items():
        held = output.size(use["bytes"]) if use["limit"] is None else output.share(use["bytes"], use["limit"])
        lines.append([(f"cache {directory}: {held}, disk has {output.size(use['disk_free'])} left", "dim")])
    return lines


def _rows(found: list[Status], page: Page, shape: _Shape, room: int | None) -> list[Line]:
    mounts = [page.shown(each["mountpoint"]) for each in found]
    repos = [page.shown(words.repo(each)) for each in found]
    if room is not None:
        first, second = _shares(_widest(mounts, "MOUNT"), _widest(repos, "REPO"), room)
        mounts = [shortened(name, first, page.marks.cut) for name in mounts]
        repos = [shortened(name, second, page.marks.cut) for name in repos]
    columns = [_column("MOUNT", mounts), _column("REPO", repos), *_columns(found, page, shape)]
    lines: list[Line] = []
    for number in range(len(found) + 1):
        line: Line = []
        for column in columns:
            line += column[number]
            line.append((_GAP, ""))
        lines.append(line[:-1])
    return lines


def _columns(found: list[Status], page: Page, shape: _Shape) -> list[list[Line]]:
    """The columns beside the names, each a header and a cell for each mount, all of one width."""
    states = _column("STATE", [each["state"] for each in found], [words.STYLES[each["state"]] for each in found])
    columns = [states, _local(found, page, shape)]
    if shape.moving:
        for header, told in (("SPEED", [words.speed(e) for e in found]), ("ETA", [words.eta(e) for e in found])):
            if any(told):
                columns.append(_column(header, [each or "-" for each in told], right=True))
    if shape.fetched:
        told = [output.size(each["bytes_fetched"]) if words.answered(each) else "?" for each in found]
        columns.append(_column("FETCHED", told, right=True))
    return columns


def _local(found: list[Status], page: Page, shape: _Shape) -> list[Line]:
    if not page.bars:
        told = [output.share(e["bytes_local"], e["bytes_total"]) if words.answered(e) else "?" for e in found]
        return _column("LOCAL", told)
    drawn: list[Line] = []
    for each in found:
        local, whole = each["bytes_local"], each["bytes_total"]
        percent = "?" if whole is None else output.percent(local, whole)
        line = bar(local, whole, shape.bar, page.marks) if shape.bar else []
        line.append((percent.rjust(_PERCENT if shape.bar else _PERCENT - 1), ""))
        if shape.bytes:
            amount = f"{output.size(local)} of {output.size(whole)}" if words.answered(each) else ""
            line.append((_GAP + amount, "dim"))
        drawn.append(line)
    return _aligned("LOCAL", drawn)


def _column(header: str, texts: list[str], styles: list[str] | None = None, right: bool = False) -> list[Line]:
    width = _widest(texts, header)
    made: list[Line] = [[(padded(header, width, right), "bold")]]
    for text, style in zip(texts, styles or [""] * len(texts), strict=True):
        made.append([(padded(text, width, right), style)])
    return made


def _aligned(header: str, drawn: list[Line]) -> list[Line]:
    width = max([len(header), *(_cells(line) for line in drawn)])
    return [[(padded(header, width), "bold")], *([*line, (" " * (width - _cells(line)), "")] for line in drawn)]


def _cells(line: Line) -> int:
    return sum(cells(text) for text, _ in line)


def _beside(found: list[Status], page: Page, shape: _Shape) -> int:
    """Cells that the columns beside the names take, gaps before them included."""
    return sum(_cells(column[0]) + len(_GAP) for column in _columns(found, page, shape))


def _widest(texts: list[str], header: str) -> int:
    return max([len(header), *(cells(text) for text in texts)])


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many cells two names get of ``room``: what they need, else half each or what the other leaves."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    return (room - second, second) if second <= room - half else (half, room - half)
