"""``hffs doctor``: each check's finding as it is made, its remedy below it, and a summary."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...names import shown
from .. import options
from ..display import units
from ..display.tables import print_json
from ..display.terminal_layout import page_of, print_lines

if TYPE_CHECKING:
    from ...api.doctor import DoctorFinding

EXAMPLES = (("hffs doctor", ""), ("hffs doctor --report > report.txt", "for a bug report"))
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}
_INDENT = 16  # of the second and further lines of a finding


def declare(parser: argparse.ArgumentParser) -> None:
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON, for programs")
    shape.add_argument("--report", action="store_true", help="print a text for a bug report, without secrets or names")
    options.add_settings(parser, ("cache_dir", "cache_size", "min_free", "allow_other", *options.HUB, "runtime_dir"))


def run(args: argparse.Namespace) -> int:
    """0 when no check failed, else 1."""
    from ...api import doctor

    settings = options.settings(args)
    findings = []
    for finding in doctor.examine(settings):
        findings.append(finding)
        if not (args.json or args.report):
            _print(finding)
    failed = sum(each.state == "fail" for each in findings)
    warned = sum(each.state == "warn" for each in findings)
    if args.json:
        print_json({"failed": failed, "warned": warned, "findings": [asdict(each) for each in findings]})
    elif args.report:
        print("\n".join(shown(line) for line in doctor.report(findings, settings).splitlines()))
    else:
        counts = [units.count(number, noun) for number, noun in ((failed, "failure"), (warned, "warning")) if number]
        print("\n" + (", ".join(counts) or "no problems found"))
    return 1 if failed else 0


def _print(finding: DoctorFinding) -> None:
    page = page_of(sys.stdout)
    lines = [[(f"{finding.state:<5}", _STYLES[finding.state]), (f"  {finding.area:<7}  {finding.what}", "")]]
    if finding.remedy and finding.state != "ok":
        lines.append([(f"{' ' * _INDENT}→ {finding.remedy}", "")])
    print_lines(lines, page, _INDENT)
    sys.stdout.flush()
