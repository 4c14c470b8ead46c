"""The commands about mounts: ``mount``, ``unmount``, ``status``.

Called by ``main`` with parsed arguments; print, and return the exit code. Errors are raised, never printed here.
``status`` imports nothing heavy: it must feel instant.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from .. import config
from ..api import mounts
from ..errors import MountNotFound
from ..protocol import OpenFile, Status
from . import output
from .parser import flags

# What a worker is at work for, in people's words.
_FOR = {"demand": "a reader", "ahead": "read-ahead", "background": "the background", "bulk": "the background"}


def mount(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ..api import mounting
    from ..daemon import background

    names = {"type": args.type, "revision": args.revision, "subfolder": args.subfolder}
    spec = mounting.decide(args.repo, args.mountpoint, flags(args), **names)
    if args.foreground and spec.supervised:
        background.stay(spec, lambda said: _announce(spec.mountpoint, said))
    if args.foreground:
        from ..daemon import app, logs
        from ..daemon.notify import Notify

        logs.start(spec.settings, to_stderr=not spec.settings.log_file, journal=config.is_journal(2))
        manager = Notify(config.service_manager())
        return app.run(
            spec, lambda said: _announce(spec.mountpoint, said), manager=manager if manager.listens else None
        )
    ready = background.start_daemon(spec)
    _announce(spec.mountpoint, {"ready": True, **asdict(ready)})
    return 0


def _announce(where: str, said: Mapping[str, Any]) -> None:
    if said.get("ready"):
        text = f"{said.get('repo', '')} is mounted at {where} (commit {str(said.get('commit', ''))[:12]})"
        print(output.shown(text), flush=True)
        if said.get("warning"):
            print(output.shown(f"hffs: {said['warning']}"), file=sys.stderr)


def unmount(args: argparse.Namespace) -> int:
    mounts.unmount(args.target, args.lazy, config.load(flags(args)).runtime_dir)
    return 0


def bandwidth(args: argparse.Namespace) -> int:
    directory = config.load(flags(args)).runtime_dir
    if args.rate is not None:
        mounts.set_bandwidth(args.target, args.rate or None, directory)
        return 0
    for each in mounts.status_of(args.target, directory):
        limit = _limit(each)
        print("no limit" if limit is None else output.rate(limit))
    return 0


def restart(args: argparse.Namespace) -> int:
    mounts.restart(args.target, config.load(flags(args)).runtime_dir)
    return 0


def status(args: argparse.Namespace) -> int:
    directory = config.load(flags(args)).runtime_dir
    try:
        found = mounts.status_of(args.target, directory) if args.target else mounts.status(directory)
    except MountNotFound:
        if args.json:
            output.as_json({"mounts": []})
        raise
    if args.json:
        output.as_json({"mounts": found})
    elif not found:
        print("no mounts")
    elif args.target:
        for number, each in enumerate(found):
            if number:
                print()
            _details(each)
    else:
        _overview(found)
    return 0


def _overview(found: list[Status]) -> None:
    rows = [
        [
            each["mountpoint"],
            _repo(each),
            each["state"],
            output.share(each["bytes_local"], each["bytes_total"]) if each["state"] != "dead" else "",
            output.size(each["bytes_fetched"]) if each["state"] != "dead" else "",
        ]
        for each in found
    ]
    output.table(["MOUNTPOINT", "REPO", "STATE", "LOCAL", "FETCHED"], rows, right=[4], fold=[0, 1])
    for each in found:
        for line in _worries(each):
            print(output.shown(f"{each['mountpoint']}: {line}"))


def _details(each: Status) -> None:
    workers, cache, verification = each["workers"], each["cache"], each["verification"]
    lines = [("state", each["state"]), ("commit", each["commit"]), ("pid", str(each["pid"]))]
    if each["binding"]:  # else the daemon did not answer, and the rest is unknown
        speed = output.rate(workers["bytes_per_s"])
        limit = "" if cache["limit"] is None else f" of {output.size(cache['limit'])}"
        lines += [
            ("since", f"{output.span(each['uptime_s'])}, {each['binding']} binding, from {each['endpoint']}"),
            (
                "local",
                f"{output.share(each['bytes_local'], each['bytes_total'])}, {output.count(each['files'], 'file')}",
            ),
            ("fetched", f"{output.size(each['bytes_fetched'])} in {output.count(each['requests'], 'request')}"),
            ("now", f"{speed}, {workers['active']} of {output.count(workers['limit'], 'worker')}{_why(each)}"),
            *_quota(each),
            *_working(each),
            *_hydrating(each),
            ("verified", f"{verification['verified']} of {output.count(each['files'], 'file')}"),
            (
                "cache",
                f"{cache['dir']}: {output.size(cache['bytes'])}{limit}, disk has {output.size(cache['disk_free'])}",
            ),
        ]
    lines += [("open", _open(file)) for file in each["open_files"]]
    ahead = each["read_ahead"]
    if ahead["command"]:
        lines.append(("hint", f"read-ahead is {ahead['kb']} KiB; mmap gets faster with: {ahead['command']}"))
    lines += [("!", worry) for worry in _worries(each)]
    output.facts(f"{each['mountpoint']}  {_repo(each)}", lines)


def _why(each: Status) -> str:
    limit = _limit(each)
    hub = each.get("hub")  # a daemon of an earlier version knows of none
    slowed = hub["slowed"] if hub else ""
    reasons = [each["workers"]["why"], slowed, "" if limit is None else f"at most {output.rate(limit)} in all"]
    told = "; ".join(reason for reason in reasons if reason)
    return f" ({told})" if told else ""


def _limit(each: Status) -> int | None:
    told = each.get("bandwidth")  # a daemon of an earlier version knows of none
    return told["limit"] if told else None


def _working(each: Status) -> list[tuple[str, str]]:
    found = []
    for at in each["workers"]["list"]:
        speed = output.rate(at["bytes_per_s"]).rjust(9)
        found.append(("", f"{speed}  {at['path']} at {output.size(at['offset'])} for {_FOR[at['for']]}"))
    return found


def _hydrating(each: Status) -> list[tuple[str, str]]:
    job = each["hydration"]
    if job["state"] == "idle":
        return []
    files = f"{job['files_done']} of {output.count(job['files_total'], 'file')}"
    told = f"{job['state']}, {output.share(job['bytes_done'], job['bytes_total'])}, {files}"
    if job["state"] == "running":
        told += f", {output.rate(job['bytes_per_s'])}, ETA {output.eta(job['eta_s'])}"
    return [("hydrate", told)]


def _open(file: OpenFile) -> str:
    how = "by the kernel itself" if file["served"] == "passthrough" else "through hffs"
    why = f": {file['why']}" if file["why"] else ""
    return f"{file['path']} ({output.count(file['handles'], 'handle')}, read {how}{why})"


def _repo(each: Status) -> str:
    prefix = "" if each["type"] == "model" else f"{each['type']}s/"
    return f"{prefix}{each['repo']}@{each['revision']}"


def _refused(each: Status) -> list[str]:
    told = each.get("hub")  # a daemon of an earlier version knows of none
    if not told or not told["refused"]:
        return []
    return [f"{told['refused']}: {told['remedy']}" if told["remedy"] else told["refused"]]


def _quota(each: Status) -> list[tuple[str, str]]:
    told = each.get("hub")
    if not told or not told["quotas"]:
        return []
    left = [
        f"{quota['left']}{'' if quota['limit'] is None else ' of ' + str(quota['limit'])} {quota['kind']}"
        for quota in told["quotas"]
    ]
    soonest = output.span(min(quota["resets_s"] for quota in told["quotas"]))
    return [("quota", f"{', '.join(left)} for {soonest}")]


def _worries(each: Status) -> list[str]:
    """What a user would want to know unasked: reads that wait, files that failed, errors, the newest last."""
    worries = _refused(each)
    worries += [
        f"a read of {read['path']} at {read['offset']} waits for {read['on']}, {output.span(read['seconds'])} now"
        for read in each["waiting_reads"]
    ]
    worries += [f"{path} failed its verification" for path in each["verification"]["failed"]]
    # A daemon of before an upgrade tells none.
    worries += [f"{file['path']} {file['what']}: hffs verify tells more" for file in each.get("problems", [])[:3]]
    for error in each["last_errors"][-3:]:
        path = f"{error['path']}: " if error.get("path") else ""
        worries.append(f"{output.moment(error['at'])} {path}{error['what']}")
    return worries
