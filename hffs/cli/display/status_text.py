"""A mount's status as phrases: its repo, state, workers, open files, waiting reads and problems.

Keys that daemons of earlier versions do not send are read with a default. Pure functions.
"""

from __future__ import annotations

from typing import Final

from ...control.messages import OpenFile, Status, Worker
from . import units
from .terminal_layout import Page

# What a worker fetches for, the most urgent first.
_PURPOSES: Final = {
    "demand": "a read",
    "ahead": "read-ahead",
    "background": "the background",
    "bulk": "the background",
}
STYLES: Final = {
    "serving": "green",
    "starting": "cyan",
    "restarting": "cyan",
    "degraded": "yellow",
    "offline": "yellow",
    "dead": "red",
}
_MEANINGS: Final = {
    "degraded": "its cache takes no blocks, reads continue without it",
    "offline": "no server is contacted, cached data can be read",
    "restarting": "reads wait for its new daemon",
    "dead": "reads fail until it is mounted again",
}


def repo(status: Status) -> str:
    prefix = "" if status["type"] == "model" else f"{status['type']}s/"
    below = f"/{status['root']}" if status.get("root") else ""
    return f"{prefix}{status['repo']}@{status['revision']}{below}"


def answered(status: Status) -> bool:
    """Whether the daemon sent the status; else it is a placeholder made from its record."""
    return bool(status["binding"])


def meaning(status: Status) -> str:
    """What the state means for readers; empty for one that needs no explanation."""
    if status["state"] == "degraded" and not answered(status):
        return ""  # its only error explains it
    if status["state"] == "degraded" and _refusal(status):
        return "the Hub refuses access, cached data can be read"
    return _MEANINGS.get(status["state"], "")


def bandwidth_limit(status: Status) -> int | None:
    bandwidth = status.get("bandwidth")
    return bandwidth["limit"] if bandwidth else None


def workers(status: Status) -> str:
    """``4 of 10 (each further one brought less; at most 4.0M/s in all)``."""
    limit = bandwidth_limit(status)
    hub = status.get("hub")
    reasons = [
        status["workers"]["why"],
        hub["slowed"] if hub else "",
        "" if limit is None else f"at most {units.rate(limit)} in all",
    ]
    why = "; ".join(filter(None, reasons))
    return f"{status['workers']['active']} of {status['workers']['limit']}{f' ({why})' if why else ''}"


def by_urgency(status: Status) -> list[Worker]:
    """The busy workers in a stable order, those with a waiting read first."""
    order = list(_PURPOSES)
    return sorted(status["workers"]["list"], key=lambda each: (order.index(each["for"]), each["worker"]))


def worker(each: Worker, page: Page, used: int) -> str:
    speed = units.rate(each["bytes_per_s"]).rjust(9)
    after = f" at {units.size(each['offset'])} for {_PURPOSES[each['for']]}"
    return page.fitted(f"{speed}  ", each["path"], after, used)


def open_file(file: OpenFile, page: Page, used: int) -> str:
    reader = "by the kernel itself" if file["served"] == "passthrough" else "through hffs"
    reason = f": {file['why']}" if file["why"] else ""
    return page.fitted("", file["path"], f" ({units.count(file['handles'], 'handle')}, read {reader}{reason})", used)


def waiting_reads(status: Status, page: Page, used: int) -> list[str]:
    """One phrase for each waiting read: of what, for how long, on what."""
    found = []
    for read in status["waiting_reads"]:
        after = f" at {units.size(read['offset'])} for {units.duration(read['seconds'])}, on {read['on']}"
        found.append(page.fitted("", read["path"], after, used))
    return found


def problems(status: Status, now: float | None = None) -> list[str]:
    """What went wrong, the newest last; with its age if ``now`` (seconds since the epoch) is given, else its time."""
    found = _refusal(status) + [f"{path} failed its verification" for path in status["verification"]["failed"]]
    found += [f"{file['path']} {file['what']}: see hffs verify" for file in status.get("problems", [])[:3]]
    for error in status["last_errors"][-3:]:
        path = f"{error['path']}: " if error.get("path") else ""
        at = error["at"]
        when = units.timestamp(at) if now is None else f"{units.duration(max(0.0, now - at))} ago"
        found.append(f"{when}  {path}{error['what']}" if answered(status) else error["what"])
    return found


def _refusal(status: Status) -> list[str]:
    hub = status.get("hub")
    if not hub or not hub["refused"]:
        return []
    return [f"{hub['refused']}: {hub['remedy']}" if hub["remedy"] else hub["refused"]]


def quotas(status: Status) -> str:
    """The requests that the Hub still grants, and for how long; empty where it sends none."""
    hub = status.get("hub")
    if not hub or not hub["quotas"]:
        return ""
    left = []
    for quota in hub["quotas"]:
        limit = "" if quota["limit"] is None else f" of {quota['limit']}"
        left.append(f"{quota['left']}{limit} {quota['kind']}")
    soonest = units.duration(min(quota["resets_s"] for quota in hub["quotas"]))
    return f"{', '.join(left)} for {soonest}"


def speed(status: Status) -> str:
    """Empty while nothing is fetched."""
    rate = status["workers"]["bytes_per_s"]
    return units.rate(rate) if rate >= 1 else ""


def eta(status: Status) -> str:
    """Empty while no hydration runs."""
    job = status["hydration"]
    return units.duration(job["eta_s"]) if job["state"] == "running" else ""
