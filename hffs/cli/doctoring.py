"""``hffs doctor``: each finding as it is made, what to do below it, and a line that sums up."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from dataclasses import asdict

from .. import config
from ..api import doctor as checkup
from . import output
from .parser import flags

_COLOURS = {"ok": "32", "warn": "33", "fail": "31"}
_WIDEST = 100  # longer lines are hard to read
_INDENT = " " * 16


def doctor(args: argparse.Namespace) -> int:
    """0 when nothing failed, else 1."""
    settings = config.load(flags(args))
    findings = []
    for finding in checkup.examine(settings):
        findings.append(finding)
        if not (args.json or args.report):
            _tell(finding)
    failed = sum(each.state == "fail" for each in findings)
    warned = sum(each.state == "warn" for each in findings)
    if args.json:
        output.as_json({"failed": failed, "warned": warned, "findings": [asdict(each) for each in findings]})
    elif args.report:
        print("\n".join(output.shown(line) for line in checkup.report(findings, settings).splitlines()))
    elif failed or warned:
        told = [output.count(failed, "failure")] if failed else []
        print("\n" + ", ".join([*told, *([output.count(warned, "warning")] if warned else [])]))
    else:
        print("\nnothing is wrong")
    return 1 if failed else 0


def _tell(finding: checkup.DoctorFinding) -> None:
    coloured = output.in_colour(sys.stdout)
    state = finding.state.ljust(5)
    mark = f"\x1b[{_COLOURS[finding.state]}m{state}\x1b[0m" if coloured else state
    width = min(shutil.get_terminal_size().columns, _WIDEST) if output.on_terminal(sys.stdout) else 0
    print(f"{mark}  {finding.area:<7}  {_folded(output.shown(finding.what), width)}", flush=True)
    if finding.remedy and finding.state != "ok":
        print(f"{_INDENT}{_folded('→ ' + output.shown(finding.remedy), width)}", flush=True)


def _folded(text: str, width: int) -> str:
    """Broken between words to fit beside the columns before it; whole where there is no terminal."""
    room = width - len(_INDENT)
    if room < 20:
        return text
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return f"\n{_INDENT}".join(lines)
