"""``hffs verify``: checks local files against the Hub's hashes. ``display.job_displays`` lists its JSON lines.

Exit code: 6 when damage remains or a required file is missing; where damaged data was dropped and could not be fetched
again, the code of what prevents that (5: try later).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from ...errors import UsageError
from ...names import shown
from .. import options
from ..display import units

if TYPE_CHECKING:
    from ...control.messages import FindingReport, Job

EXAMPLES = (
    ("hffs verify ~/whisper", "the cached files of a mount"),
    ("hffs verify ~/whisper --fix", "fetch damaged data again"),
    ("hffs verify ./checkout --require '*.safetensors'", "any folder"),
)
_SHOWN: Final = 100  # findings printed one by one; --json prints all
_KEPT: Final = "repairs are kept; run the same command to check the rest"
_RESULTS: Final = {
    "plausible": "without a hash to compare",
    "partial": "incomplete, only their blocks checked",
    "absent": "not local",
    "wrong": "found bad",
    "others": "not of the repo",
}


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", nargs="?", help=f"{options.TARGET}, or any folder")
    parser.add_argument("--all", action="store_true", help="every repo of which the cache has data")
    about = "with --all: check every block by its CRC alone, which is fast; with --fix only drop damage"
    parser.add_argument("--blocks", action="store_true", help=about)
    parser.add_argument("--fix", action="store_true", help="drop damaged data and fetch it again")
    about = "files that must be present, complete and correct; can be repeated"
    parser.add_argument("--require", metavar="PATTERN", action="append", default=[], help=about)
    parser.add_argument("--repo", metavar="REPO", help="the repo of a folder, where that cannot be detected")
    options.add_repo_options(parser)
    options.add_json(parser, "one JSON object a line")
    options.add_settings(parser, options.HYDRATION)
    parser.epilog = options.SETTINGS_HINT


def run(args: argparse.Namespace) -> int:
    from ...api.verify import follow
    from .. import jobs

    if args.all == (args.target is not None):
        raise UsageError("name either what to verify or --all", "see hffs verify --help")
    more = {"require": args.require, "fix": args.fix, "repo": args.repo, "blocks": args.blocks}
    job, code = jobs.run_job(args, follow, _KEPT, **more)
    if not args.json:
        findings = job.get("findings", [])
        for each in findings[:_SHOWN]:
            print(shown(finding_line(each)))
        if len(findings) > _SHOWN:
            print(f"and {len(findings) - _SHOWN} more: --json prints all")
        print(shown(summary(job)))
        jobs.print_errors([error for error in job["errors"] if not error["path"]])
    return code


def finding_line(finding: FindingReport) -> str:
    """``model.safetensors: sha256 mismatch …; repaired``, or what to do where it is not."""
    text = f"{finding['path']}: {finding['what']}"
    if finding["mended"]:
        return f"{text}; repaired"
    word = "warning: " if finding["severity"] == "warning" else ""
    return f"{word}{text}: {finding['remedy']}" if finding["remedy"] else f"{word}{text}"


def summary(job: Job) -> str:
    """``acme/tiny: 12 files correct, 3 incomplete, 2 not local; 522.7M read, no damage``."""
    checked = job["checked"]
    counts = [(checked[key], text) for key, text in _RESULTS.items()]  # type: ignore[literal-required]
    correct = f"{units.count(checked['right'], 'file')} correct"
    files = ", ".join([correct, *(f"{number} {text}" for number, text in counts if number)])
    damage = [each for each in job.get("findings", []) if each["severity"] == "damage"]
    left = sum(not each["mended"] for each in damage)
    repaired = len(damage) - left
    result = f"{units.count(left, 'problem')} left" if left else "all repaired" if damage else "no damage"
    result += f", {repaired} repaired" if left and repaired else ""
    fetched = f", {units.size(job['bytes_fetched'])} fetched" if job["bytes_fetched"] else ""
    return f"{job['target']}: {files}; {units.size(checked['bytes'])} read{fetched}; {result}"
