"""One mount, all of it: words with what they stand for, bars where there is a terminal.

Used by ``running`` (``hffs status TARGET``) and, shorter, by ``watching``. No state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..control.messages import Status
from . import output, words
from .drawing import Line, Page, bar, history

_WORDS: Final = max(len(word) for word in ("commit", "workers", "hydrate", "verified", "problem"))
_BAR: Final = (10, 40)  # cells: less shows too little, more is no easier to read
INDENT: Final = 2 + _WORDS + 2  # of what a word stands for
_SPARE: Final = 60  # cells of a line that are kept for what stands beside a bar

Fact = tuple[str, Line]


def details(each: Status, page: Page, now: float | None = None) -> list[Line]:
    """Everything that a mount says of itself."""
    facts: list[Fact] = [_state(each), ("commit", [(each["commit"], "")])]
    facts.append(("pid", [(str(each["pid"]), "")]))
    if words.answered(each):
        binding = f"{each['binding']} binding, from {each['endpoint']}"
        facts.append(("since", [(f"{output.span(each['uptime_s'])}, {binding}", "")]))
        facts += [_local(each, page), _fetched(each), _now(each, page, ()), *_workers(each, page)]
        facts += [("quota", [(words.quota(each), "")])] if words.quota(each) else []
        facts += [*_hydrating(each, page), _verified(each), _cache(each, page)]
    facts += [("log", [(each["log"], "")])] if each["log"] else []
    facts += [("open", [(words.opened(file, page, INDENT), "")]) for file in each["open_files"]]
    ahead = each["read_ahead"]
    if ahead["command"]:
        facts.append(("hint", [(f"read-ahead is {ahead['kb']} KiB; mmap gets faster with:", "")]))
        facts.append(("hint", [(ahead["command"], "")]))
    facts += [("waits", [(line, "yellow")]) for line in words.waiting(each, page, INDENT)]
    facts += [("problem", [(line, "red")]) for line in words.wrong(each, now)]
    return [_title(each), *_set(facts)]


def glance(each: Status, page: Page, speeds: Sequence[float], now: float, most: int) -> list[Line]:
    """What a line of the overview does not tell, and changes while one looks; nothing where all is quiet. Lists are of
    ``most`` lines at most, the longest last, so that little moves."""
    facts: list[Fact] = []
    means = words.means(each)
    if means:
        facts.append(("state", [(f"{each['state']}: {means}", words.STYLES[each["state"]])]))
    facts += _some("problem", words.wrong(each, now)[::-1], most, "red")
    facts += _some("waits", words.waiting(each, page, INDENT), most, "yellow")
    facts += _some("open", [words.opened(file, page, INDENT) for file in each["open_files"]], most, "")
    if each["hydration"]["state"] == "running":
        facts += _hydrating(each, page)
    if each["workers"]["active"] or any(speeds):
        facts += [_now(each, page, speeds), _crew(each)]
        facts += _some("", [words.worker(at, page, INDENT) for at in words.at_work(each)], most, "")
    return [_title(each), *_set(facts)] if facts else []


def _title(each: Status) -> Line:
    return [(each["mountpoint"], "bold"), ("  ", ""), (words.repo(each), "bold")]


def _set(facts: list[Fact]) -> list[Line]:
    """A word is written once, beside the first of the lines it stands for."""
    lines: list[Line] = []
    before = ""
    for word, line in facts:
        lines.append([(f"  {'' if word == before else word:<{_WORDS}}  ", "dim"), *line])
        before = word
    return lines


def _some(word: str, lines: list[str], most: int, style: str) -> list[Fact]:
    shown: list[Fact] = [(word, [(line, style)]) for line in lines[:most]]
    if len(lines) > most:
        shown.append((word, [(f"and {len(lines) - most} more", "dim")]))
    return shown


def _state(each: Status) -> Fact:
    means = words.means(each)
    return "state", [(each["state"], words.STYLES[each["state"]]), (f": {means}" if means else "", "")]


def _local(each: Status, page: Page) -> Fact:
    files = output.count(each["files"], "file")
    return "local", _share(each["bytes_local"], each["bytes_total"], page, f", {files}")


def _share(done: int, whole: int | None, page: Page, more: str) -> Line:
    """``━━━━──── 38 %  1.0M of 2.6M`` and more; in words alone where no bar is drawn."""
    if page.width is None or whole is None:
        return [(output.share(done, whole) + more, "")]
    least, longest = _BAR
    width = max(least, min(longest, page.width - _WORDS - _SPARE))
    amount = f"{output.size(done)} of {output.size(whole)}"
    return [*bar(done, whole, width, page.marks), (f" {output.percent(done, whole):>5}  {amount}{more}", "")]


def _fetched(each: Status) -> Fact:
    return "fetched", [(f"{output.size(each['bytes_fetched'])} in {output.count(each['requests'], 'request')}", "")]


def _now(each: Status, page: Page, speeds: Sequence[float]) -> Fact:
    line: Line = [(output.rate(each["workers"]["bytes_per_s"]), "bold")]
    drawn = history(speeds, page.marks)
    if drawn:
        line += [(" " * (10 - len(line[0][0])), ""), (drawn, "cyan")]
    eta = words.eta(each)
    if eta:
        line.append((f"  ETA {eta}", ""))
    return "now", line


def _crew(each: Status) -> Fact:
    workers = each["workers"]
    return "workers", [(f"{workers['active']} of {workers['limit']}{words.why(each)}", "")]


def _workers(each: Status, page: Page) -> list[Fact]:
    return [_crew(each), *(("", [(words.worker(at, page, INDENT), "")]) for at in words.at_work(each))]


def _hydrating(each: Status, page: Page) -> list[Fact]:
    job = each["hydration"]
    if job["state"] == "idle":
        return []
    files = f"{job['files_done']} of {output.count(job['files_total'], 'file')}"
    return [("hydrate", _share(job["bytes_done"], job["bytes_total"], page, f", {files}, {job['state']}"))]


def _verified(each: Status) -> Fact:
    return "verified", [(f"{each['verification']['verified']} of {output.count(each['files'], 'file')}", "")]


def _cache(each: Status, page: Page) -> Fact:
    use = each["cache"]
    disk = f", disk has {output.size(use['disk_free'])} left, in {use['dir']}"
    if use["limit"] is None:
        return "cache", [(f"{output.size(use['bytes'])}{disk}", "")]
    return "cache", _share(use["bytes"], use["limit"], page, disk)
