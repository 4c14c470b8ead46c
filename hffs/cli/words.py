"""What a mount's status says in people's words: its repo, its state, its reasons, its worries.

Used by ``overview``, ``details`` and ``running``. No state.
"""

from __future__ import annotations

from typing import Final

from ..control.messages import OpenFile, Status, Worker
from . import output
from .drawing import Page

# What a worker is at work for.
_FOR: Final = {"demand": "a reader", "ahead": "read-ahead", "background": "the background", "bulk": "the background"}

STYLES: Final = {
    "serving": "green",
    "starting": "cyan",
    "restarting": "cyan",
    "degraded": "yellow",
    "offline": "yellow",
    "dead": "red",
}
_MEANS: Final = {
    "degraded": "its cache takes no blocks, reads go on without it",
    "offline": "no server is asked, what is local can be read",
    "restarting": "reads wait for its new daemon",
    "dead": "reads fail until it is mounted anew",
}


def repo(each: Status) -> str:
    prefix = "" if each["type"] == "model" else f"{each['type']}s/"
    below = f"/{each['root']}" if each.get("root") else ""
    return f"{prefix}{each['repo']}@{each['revision']}{below}"


def means(each: Status) -> str:
    """What the state means for who reads; empty where all is well."""
    if each["state"] == "degraded" and not answered(each):
        return ""  # its only error says it
    if each["state"] == "degraded" and _refused(each):
        return "the Hub refuses us, what is local can be read"
    return _MEANS.get(each["state"], "")


def limit(each: Status) -> int | None:
    told = each.get("bandwidth")  # a daemon of an earlier version knows of none
    return told["limit"] if told else None


def why(each: Status) -> str:
    """Why there are as many workers as there are, in brackets; empty where it did not say."""
    most = limit(each)
    hub = each.get("hub")  # a daemon of an earlier version knows of none
    reasons = [
        each["workers"]["why"],
        hub["slowed"] if hub else "",
        "" if most is None else f"at most {output.rate(most)} in all",
    ]
    told = "; ".join(reason for reason in reasons if reason)
    return f" ({told})" if told else ""


def worker(at: Worker, page: Page, used: int) -> str:
    speed = output.rate(at["bytes_per_s"]).rjust(9)
    return page.fitted(f"{speed}  ", at["path"], f" at {output.size(at['offset'])} for {_FOR[at['for']]}", used)


def at_work(each: Status) -> list[Worker]:
    """The workers, those that somebody waits for first, and always in the same order."""
    return sorted(each["workers"]["list"], key=lambda at: (list(_FOR).index(at["for"]), at["worker"]))


def opened(file: OpenFile, page: Page, used: int) -> str:
    how = "by the kernel itself" if file["served"] == "passthrough" else "through hffs"
    reason = f": {file['why']}" if file["why"] else ""
    return page.fitted("", file["path"], f" ({output.count(file['handles'], 'handle')}, read {how}{reason})", used)


def waiting(each: Status, page: Page, used: int) -> list[str]:
    """The reads that wait now: of what, how long, on whom."""
    found = []
    for read in each["waiting_reads"]:
        after = f" at {output.size(read['offset'])} for {output.span(read['seconds'])}, on {read['on']}"
        found.append(page.fitted("", read["path"], after, used))
    return found


def wrong(each: Status, now: float | None = None) -> list[str]:
    """What went wrong, the newest last; with the time since it did where ``now`` is given, else with its time."""
    found = _refused(each) + [f"{path} failed its verification" for path in each["verification"]["failed"]]
    # A daemon of before an upgrade tells none.
    found += [f"{file['path']} {file['what']}: hffs verify tells more" for file in each.get("problems", [])[:3]]
    for error in each["last_errors"][-3:]:
        path = f"{error['path']}: " if error.get("path") else ""
        when = output.moment(error["at"]) if now is None else f"{output.span(max(0.0, now - error['at']))} ago"
        found.append(f"{when}  {path}{error['what']}" if answered(each) else error["what"])
    return found


def _refused(each: Status) -> list[str]:
    """Why the Hub gives us nothing, and what to do."""
    hub = each.get("hub")
    if not hub or not hub["refused"]:
        return []
    return [f"{hub['refused']}: {hub['remedy']}" if hub["remedy"] else hub["refused"]]


def quota(each: Status) -> str:
    """How many requests the Hub still grants, and for how long that is; empty where it does not say."""
    hub = each.get("hub")
    if not hub or not hub["quotas"]:
        return ""
    left = []
    for at in hub["quotas"]:
        most = "" if at["limit"] is None else f" of {at['limit']}"
        left.append(f"{at['left']}{most} {at['kind']}")
    soonest = output.span(min(at["resets_s"] for at in hub["quotas"]))
    return f"{', '.join(left)} for {soonest}"


def speed(each: Status) -> str:
    """Empty while nothing moves."""
    rate = each["workers"]["bytes_per_s"]
    return output.rate(rate) if rate >= 1 else ""


def eta(each: Status) -> str:
    """Empty where nothing is hydrated."""
    job = each["hydration"]
    return output.eta(job["eta_s"]) if job["state"] == "running" else ""


def answered(each: Status) -> bool:
    """Whether the daemon said all this; else most of it is unknown."""
    return bool(each["binding"])
