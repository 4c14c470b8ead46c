"""The mounts as a table of one line each, and remarks below it about caches, waiting reads and problems.

On a terminal the names are cut in the middle as far as needed and the other columns are chosen by width: the numbers
first, then the bar. In a pipe all columns are printed whole.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ...control.messages import Status
from . import status_text, units
from .terminal_layout import GAP, Line, Page, bar, cells, columns, shortened, width_of

_LONG: Final = 60  # cells of mountpoint and repo together that identify most of them,
_SHORT: Final = 32  # and those that are worth leaving other columns out for
_WAITS: Final = "a read waits: "
_PERCENT: Final = len(" 100 %")


class _Shape(NamedTuple):
    """The columns beside names and state: a bar of that many cells, the bytes, speed and ETA, and the bytes fetched."""

    bar: int
    bytes: bool
    speed: bool
    fetched: bool


# The first that leaves the names whole is taken. A bar of 30 cells shows 3 %; one of less than 8 shows little.
_SHAPES: Final = (
    _Shape(30, True, True, True),
    _Shape(20, True, True, False),
    _Shape(10, True, True, False),
    _Shape(10, False, True, False),
    _Shape(0, False, True, False),
    _Shape(0, False, False, False),
)


def mounts_table(found: list[Status], page: Page) -> list[Line]:
    mounts = [page.shown(each["mountpoint"]) for each in found]
    repos = [page.shown(status_text.repo(each)) for each in found]
    if page.width is None:
        return _joined(mounts, repos, _details(found, page, _Shape(0, True, True, True)))
    first, second = _widest(mounts, "MOUNT"), _widest(repos, "REPO")
    with_bar = [shape for shape in _SHAPES if shape.bar]
    tries = [(shape, first + second) for shape in with_bar]
    tries += [(shape, min(first + second, _LONG)) for shape in with_bar]
    tries += [(shape, min(first + second, _SHORT)) for shape in _SHAPES]
    for shape, enough in tries:
        rest = _details(found, page, shape)
        space = page.width - width_of(rest[0]) - 2 * len(GAP)
        if space >= enough:
            break
    first, second = _divided(first, second, max(space, 2))
    cut = page.marks.cut
    mounts = [shortened(name, first, cut) for name in mounts]
    return _joined(mounts, [shortened(name, second, cut) for name in repos], rest)


def remarks(found: list[Status], page: Page, now: float | None = None) -> list[Line]:
    """Caches, then waiting reads and problems, each with its mount; ``now`` (seconds since the epoch): with their age
    instead of their time."""
    lines = cache_lines(found)
    for each in found:
        mount = f"{page.shown(each['mountpoint'])}: "
        spans: Line = []
        if meaning := status_text.meaning(each):
            spans.append((f"{each['state']}: {meaning}", status_text.STYLES[each["state"]]))
        waiting = status_text.waiting_reads(each, page, cells(mount) + len(_WAITS))
        spans += [(_WAITS + text, "yellow") for text in waiting]
        spans += [(text, "red") for text in status_text.problems(each, now)]
        lines += [[(mount, ""), span] for span in spans]
    return lines


def cache_lines(found: list[Status]) -> list[Line]:
    """One line for each cache directory, however many mounts share it."""
    uses = {each["cache"]["dir"]: each["cache"] for each in found if each["cache"]["dir"]}
    lines: list[Line] = []
    for directory, use in uses.items():
        size = units.size(use["bytes"]) if use["limit"] is None else units.share(use["bytes"], use["limit"])
        lines.append([(f"cache {directory}: {size}, {units.size(use['disk_free'])} free on disk", "dim")])
    return lines


def _joined(mounts: list[str], repos: list[str], rest: list[Line]) -> list[Line]:
    rows = [[[(mount, "")], [(repo, "")]] for mount, repo in zip(mounts, repos, strict=True)]
    named = columns(["MOUNT", "REPO"], rows)
    return [[*names, (GAP, ""), *line] for names, line in zip(named, rest, strict=True)]


def _details(found: list[Status], page: Page, shape: _Shape) -> list[Line]:
    """The columns beside the names, header line first."""
    headers = ["STATE", "LOCAL"]
    cells_of: list[list[Line]] = [
        [[(each["state"], status_text.STYLES[each["state"]])] for each in found],
        [_local(each, page, shape) for each in found],
    ]
    if shape.speed:
        for header, text in (("SPEED", status_text.speed), ("ETA", status_text.eta)):
            values = [text(each) for each in found]
            if any(values):
                headers.append(header)
                cells_of.append([[(value or "-", "")] for value in values])
    if shape.fetched:
        headers.append("FETCHED")
        sizes = [units.size(each["bytes_fetched"]) if status_text.answered(each) else "?" for each in found]
        cells_of.append([[(size, "")] for size in sizes])
    rows = list(zip(*cells_of, strict=True))
    return columns(headers, rows, right=range(2, len(headers)))


def _local(each: Status, page: Page, shape: _Shape) -> Line:
    local, whole = each["bytes_local"], each["bytes_total"]
    if not page.bars:
        return [(units.share(local, whole) if status_text.answered(each) else "?", "")]
    percent = "?" if whole is None else units.percent(local, whole)
    line = bar(local, whole, shape.bar, page.marks) if shape.bar else []
    line.append((percent.rjust(_PERCENT if shape.bar else _PERCENT - 1), ""))
    if shape.bytes:
        amount = f"{units.size(local)} of {units.size(whole)}" if status_text.answered(each) else ""
        line.append((GAP + amount, "dim"))
    return line


def _widest(texts: list[str], header: str) -> int:
    return max([len(header), *map(cells, texts)])


def _divided(first: int, second: int, space: int) -> tuple[int, int]:
    """The cells of two names in ``space``: what they need, else half each or what the other leaves."""
    if first + second <= space:
        return first, second
    half = space // 2
    if first <= half:
        return first, space - first
    return (space - second, second) if second <= space - half else (half, space - half)
