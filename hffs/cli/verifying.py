"""``hffs verify``: follows a verification to its end, shows how it goes, tells what was found and what came of it.

Called by ``main`` with parsed arguments; returns the exit code. The views are those of ``hydrating``. Each finding is a
line on stdout, told at the end, when it is known whether it was mended.

The lines of ``--json`` are those of ``hffs hydrate --json``; and

- ``finding``, when something was found: ``path``, ``kind``, ``severity`` (``damage``, ``warning``), ``what``,
  ``remedy``, ``expected`` and ``got`` (hex, empty where no hashes were compared), ``mended`` (false), ``exit_code``.
- ``outcome``, one for each finding at the end: the same, as it is now.
- ``end`` also has ``checked``: files by what they were found to be, and bytes looked at.

Exit code: 6 when damage stays, or something that was required is missing; where what was bad has been dropped and could
not be fetched again, the code of what keeps it away (5: try later).
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from typing import Final

from ..control.messages import FindingReport, Job, JobError
from ..errors import Cancelled, HffsError, UsageError, worst
from . import output
from .hydrating import JsonLines, LogLines, State, View, as_error, event, say_waits, screen, start_log
from .parser import flags
from .stopping import stoppable

_SHOWN: Final = 100  # findings told one by one; a program asks for all with --json


def verify(args: argparse.Namespace) -> int:
    from ..api.verify import follow

    if args.all == (args.target is not None):
        raise UsageError("name what to verify, or --all", "see hffs verify --help")
    start_log(debug=getattr(args, "debug", False))
    names = {"type": args.type, "revision": args.revision, "subfolder": args.subfolder, "repo": args.repo}
    view: View = Lines() if args.json else screen() if output.on_terminal(sys.stderr) else LogLines()
    job: Job | None = None
    waits = ""
    try:
        followed = follow(args.target, require=args.require, fix=args.fix, **names, **flags(args))
        with stoppable(), view.running(), closing(followed) as snapshots:
            for job in snapshots:
                waits = say_waits(job, waits)
                view.show(job, [])
    except KeyboardInterrupt:
        view.end(job, "cancelled", Cancelled.exit_code, [])
        raise Cancelled("interrupted", "what was mended stays so; run the same command to look at the rest") from None
    except HffsError as wrong:  # it could not start, or whoever did the work is gone
        if job is not None:
            view.end(job, "failed", wrong.exit_code, [as_error(wrong)])
        raise
    if job is None or job["state"] == "running":
        raise AssertionError("a job is followed to its end")
    code = {"done": 0, "cancelled": Cancelled.exit_code}.get(
        job["state"], worst(error["exit_code"] for error in job["errors"])
    )
    view.end(job, job["state"], code, [error for error in job["errors"] if not error["path"]])
    if job.get("warning"):
        print(f"hffs: {output.shown(job['warning'])}", file=sys.stderr)
    if job["state"] == "cancelled":
        raise Cancelled("cancelled", "what was mended stays so; run the same command to look at the rest")
    if not args.json:
        _tell(job)
    return code


def _tell(job: Job) -> None:
    findings = job.get("findings", [])
    for each in findings[:_SHOWN]:
        print(output.shown(line(each)))
    if len(findings) > _SHOWN:
        print(f"and {len(findings) - _SHOWN} more: --json tells all")
    print(output.shown(summary(job)))
    for error in job["errors"]:
        if not error["path"]:
            words = [error["what"], error["remedy"]]
            print(output.shown(f"hffs: {': '.join(word for word in words if word)}"), file=sys.stderr)


def line(finding: FindingReport) -> str:
    """``model.safetensors: its bytes have …; mended``; what to do instead, where it is not."""
    about = f"{finding['path']}: {finding['what']}"
    if finding["mended"]:
        return f"{about}; mended"
    word = "warning: " if finding["severity"] == "warning" else ""
    return f"{word}{about}: {finding['remedy']}" if finding["remedy"] else f"{word}{about}"


def summary(job: Job) -> str:
    """What came of it: ``acme/tiny: 12 files right, 3 partly here, 2 not here; 522.7M looked at, no damage``."""
    checked = job["checked"]
    words = {
        "right": "right",
        "plausible": "without a hash to compare",
        "partial": "partly here, only their blocks checked",
        "absent": "not here",
        "wrong": "found bad",
        "others": "not of the repo",
    }
    counts: dict[str, int] = {word: checked[key] for key, word in words.items()}  # type: ignore[literal-required]
    right = output.count(counts.pop("right"), "file")
    files = ", ".join([f"{right} right", *(f"{number} {word}" for word, number in counts.items() if number)])
    damage = [each for each in job.get("findings", []) if each["severity"] == "damage"]
    stays = [each for each in damage if not each["mended"]]
    mended = len(damage) - len(stays)
    came = f"{output.count(len(stays), 'problem')} left" if stays else "all mended" if damage else "no damage"
    fetched = f", {output.size(job['bytes_fetched'])} fetched" if job["bytes_fetched"] else ""
    some = f", {mended} mended" if stays and mended else ""
    return f"{job['target']}: {files}; {output.size(checked['bytes'])} looked at{fetched}; {came}{some}"


class Lines(JsonLines):
    """Every event as a line of JSON on stdout; nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._told = 0

    def show(self, job: Job, errors: list[JobError]) -> None:
        super().show(job, errors)
        findings = job.get("findings", [])
        for each in findings[self._told :]:
            event("finding", **{**each, "mended": False})
        self._told = len(findings)

    def end(self, job: Job | None, state: State, exit_code: int, errors: list[JobError]) -> None:
        if job is not None:
            for each in job.get("findings", []):
                event("outcome", **each)
        super().end(job, state, exit_code, errors)
