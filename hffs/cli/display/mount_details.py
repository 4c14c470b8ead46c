"""One mount in detail: words with their values, bars where there is a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...control.messages import Status
from . import status_text, units
from .terminal_layout import Line, Page, bar, history

_WORDS: Final = max(len(word) for word in ("commit", "workers", "hydrate", "verified", "problem"))
_BAR: Final = (10, 40)  # cells: less shows too little, more is no easier to read
INDENT: Final = 2 + _WORDS + 2  # of the values
_BESIDE: Final = 60  # cells of a line that are kept for the text after a bar

Fact = tuple[str, Line]


def mount_details(each: Status, page: Page, now: float | None = None) -> list[Line]:
    """All of a mount's status; ``now`` (seconds since the epoch): problems with their age instead of their time."""
    meaning = status_text.meaning(each)
    state: Line = [(each["state"], status_text.STYLES[each["state"]]), (f": {meaning}" if meaning else "", "")]
    facts: list[Fact] = [("state", state), _fact("commit", each["commit"]), _fact("pid", str(each["pid"]))]
    if status_text.answered(each):
        files = units.count(each["files"], "file")
        binding = f"{each['binding']} binding, from {each['endpoint']}"
        fetched = f"{units.size(each['bytes_fetched'])} in {units.count(each['requests'], 'request')}"
        quotas = status_text.quotas(each)
        facts += [
            _fact("since", f"{units.duration(each['uptime_s'])}, {binding}"),
            ("local", _share(each["bytes_local"], each["bytes_total"], page, f", {files}")),
            _fact("fetched", fetched),
            _speed(each, page, ()),
            _fact("workers", status_text.workers(each)),
            *(_fact("", status_text.worker(one, page, INDENT)) for one in status_text.by_urgency(each)),
            *([_fact("quota", quotas)] if quotas else []),
            *_hydration(each, page),
            _fact("verified", f"{each['verification']['verified']} of {files}"),
            _cache(each, page),
        ]
    facts += [_fact("log", each["log"])] if each["log"] else []
    facts += [_fact("open", status_text.open_file(file, page, INDENT)) for file in each["open_files"]]
    ahead = each["read_ahead"]
    if ahead["command"]:
        facts.append(_fact("hint", f"read-ahead is {ahead['kb']} KiB; mmap becomes faster with:"))
        facts.append(_fact("hint", ahead["command"]))
    facts += [_fact("waits", text, "yellow") for text in status_text.waiting_reads(each, page, INDENT)]
    facts += [_fact("problem", text, "red") for text in status_text.problems(each, now)]
    return [_title(each), *_aligned(facts)]


def activity(each: Status, page: Page, speeds: Sequence[float], now: float, most: int) -> list[Line]:
    """What changes from second to second and the table of mounts does not show; nothing for an idle mount. Each list
    has ``most`` lines at most; the longest comes last, so that little moves."""
    facts: list[Fact] = []
    if meaning := status_text.meaning(each):
        facts.append(_fact("state", f"{each['state']}: {meaning}", status_text.STYLES[each["state"]]))
    facts += _at_most(most, "problem", status_text.problems(each, now)[::-1], "red")
    facts += _at_most(most, "waits", status_text.waiting_reads(each, page, INDENT), "yellow")
    facts += _at_most(most, "open", [status_text.open_file(file, page, INDENT) for file in each["open_files"]])
    if each["hydration"]["state"] == "running":
        facts += _hydration(each, page)
    if each["workers"]["active"] or any(speeds):
        facts += [_speed(each, page, speeds), _fact("workers", status_text.workers(each))]
        busy = status_text.by_urgency(each)
        facts += _at_most(most, "", [status_text.worker(one, page, INDENT) for one in busy])
    return [_title(each), *_aligned(facts)] if facts else []


def _title(each: Status) -> Line:
    return [(each["mountpoint"], "bold"), ("  ", ""), (status_text.repo(each), "bold")]


def _aligned(facts: list[Fact]) -> list[Line]:
    """One line for each fact; a word is written beside the first of its lines only."""
    lines: list[Line] = []
    before = ""
    for word, line in facts:
        lines.append([(f"  {'' if word == before else word:<{_WORDS}}  ", "dim"), *line])
        before = word
    return lines


def _fact(word: str, text: str, style: str = "") -> Fact:
    return word, [(text, style)]


def _at_most(most: int, word: str, texts: list[str], style: str = "") -> list[Fact]:
    facts = [_fact(word, text, style) for text in texts[:most]]
    return [*facts, _fact(word, f"and {len(texts) - most} more", "dim")] if len(texts) > most else facts


def _share(done: int, whole: int | None, page: Page, more: str) -> Line:
    """``━━━━──── 38 %  1.0M of 2.6M`` and ``more``; without the bar in a pipe."""
    if page.width is None or whole is None:
        return [(units.share(done, whole) + more, "")]
    least, longest = _BAR
    width = max(least, min(longest, page.width - _WORDS - _BESIDE))
    amount = f"{units.size(done)} of {units.size(whole)}"
    return [*bar(done, whole, width, page.marks), (f" {units.percent(done, whole):>5}  {amount}{more}", "")]


def _speed(each: Status, page: Page, speeds: Sequence[float]) -> Fact:
    speed = units.rate(each["workers"]["bytes_per_s"])
    line: Line = [(speed, "bold")]
    if levels := history(speeds, page.marks):
        line += [(" " * (10 - len(speed)), ""), (levels, "cyan")]
    if eta := status_text.eta(each):
        line.append((f"  ETA {eta}", ""))
    return "now", line


def _hydration(each: Status, page: Page) -> list[Fact]:
    job = each["hydration"]
    if job["state"] == "idle":
        return []
    files = f"{job['files_done']} of {units.count(job['files_total'], 'file')}"
    return [("hydrate", _share(job["bytes_done"], job["bytes_total"], page, f", {files}, {job['state']}"))]


def _cache(each: Status, page: Page) -> Fact:
    use = each["cache"]
    disk = f", {units.size(use['disk_free'])} free on disk, in {use['dir']}"
    if use["limit"] is None:
        return _fact("cache", f"{units.size(use['bytes'])}{disk}")
    return "cache", _share(use["bytes"], use["limit"], page, disk)
