"""``hffs hydrate``: fetches and verifies a mount or repo. ``display.job_displays`` documents its JSON lines."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...names import shown
from .. import options
from ..display import units

if TYPE_CHECKING:
    from ...control.messages import Job, JobError

EXAMPLES = (
    ("hffs hydrate ~/whisper", "a mount"),
    ("hffs hydrate openai/whisper-tiny --to ./whisper", "plain files, no mount"),
    ("hffs hydrate openai/whisper-tiny --to-hf-cache", "for from_pretrained offline"),
)
_KEPT = "fetched data is kept; run the same command to continue"


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help=options.TARGET)
    parser.add_argument("--to", metavar="DIR", help="also export the files to this folder, as links where possible")
    about = "also export a repo to huggingface_hub's cache (--hf-cache), for from_pretrained offline"
    parser.add_argument("--to-hf-cache", action="store_true", help=about)
    parser.add_argument("--force", action="store_true", help="fetch local data again")
    options.add_repo_options(parser)
    options.add_json(parser, "one JSON object a line")
    options.add_settings(parser, options.HYDRATION)
    parser.epilog = options.SETTINGS_HINT


def run(args: argparse.Namespace) -> int:
    from ...api.hydrate import follow
    from .. import jobs

    job, code = jobs.run_job(args, follow, _KEPT, to=args.to, to_hf_cache=args.to_hf_cache, force=args.force)
    if not args.json:
        print(shown(summary(job, args.to or ("huggingface_hub's cache" if args.to_hf_cache else None))))
    if job["state"] == "failed":
        unknown: JobError = {"path": "", "what": "the job failed without a reason", "remedy": "", "exit_code": 1}
        jobs.print_errors(job["errors"] or [unknown])
    return code


def summary(job: Job, to: str | None = None) -> str:
    """``acme/tiny: 12 files, 522.7M, verified; 120.0M fetched in 3.4 s (35.0M/s)``."""
    if job["state"] == "done":
        files = f"{units.count(job['files_total'], 'file')}, {units.size(job['bytes_total'])}, verified"
        files += f", exported to {to}" if to else ""
    else:
        done = f"{units.size(job['bytes_done'])} of {units.size(job['bytes_total'])}"
        files = f"{job['files_done']} of {units.count(job['files_total'], 'file')}, {done}"
    fetched, seconds = job["bytes_fetched"], job["updated_at"] - job["started_at"]
    if not fetched:
        return f"{job['target']}: {files}; nothing was fetched"
    took = f"{max(seconds, 0.0):.1f} s" if seconds < 100 else units.duration(seconds)
    rate = f" ({units.rate(fetched / seconds)})" if seconds > 0 else ""
    return f"{job['target']}: {files}; {units.size(fetched)} fetched in {took}{rate}"
