"""Following a job of ``hffs hydrate`` or ``hffs verify`` to its end.

However the command ends early (Ctrl-C, SIGTERM, a closed terminal or pipe), the job is cancelled and the terminal
restored. Main thread only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, Final

from ..control.messages import Job, JobError
from ..errors import Cancelled, HffsError, worst
from ..names import shown
from .display.job_displays import JobDisplay, JsonLines, LogLines
from .display.terminal_layout import is_terminal
from .options import given, repo_options
from .signals import interruptible

_ERRORS_SHOWN: Final = 10  # more would scroll the first one away


def run_job(args: argparse.Namespace, follow: Callable[..., Generator[Job]], kept: str, **more: Any) -> tuple[Job, int]:
    """Runs ``follow`` of ``hffs.api`` for the parsed arguments and shows its job. Returns the last snapshot, with all
    errors, and the exit code: that of the worst error of a job that failed, where 5 (the Hub is unreachable) means that
    nothing else was wrong and trying later may help.

    Raises Cancelled, whose remedy is ``kept``, and what starting the job or its daemon raises.
    """
    _start_log(debug=getattr(args, "debug", False))
    display = job_display(as_json=args.json)
    options = {**repo_options(args), **more, **given(args)}
    job: Job | None = None
    errors: dict[tuple[str, str], JobError] = {}
    reason = ""
    try:
        with interruptible(), display.running(), closing(follow(args.target, **options)) as snapshots:
            for job in snapshots:
                new = {(error["path"], error["what"]): error for error in job["errors"]}
                display.show(job, [error for key, error in new.items() if key not in errors])
                errors |= new
                waits = job.get("waits", "")
                if waits and waits != reason:
                    print(f"hffs: waiting: {shown(waits)}", file=sys.stderr, flush=True)
                reason = waits
    except KeyboardInterrupt:
        display.end(job, "cancelled", Cancelled.exit_code, [])
        raise Cancelled("interrupted", kept) from None
    except HffsError as wrong:  # the job could not start, or its daemon died
        lost: JobError = {"path": "", "what": wrong.what, "remedy": wrong.remedy, "exit_code": wrong.exit_code}
        display.end(job, "failed", wrong.exit_code, [lost])
        raise
    if job is None or job["state"] == "running":
        raise AssertionError("a job is followed to its end")
    job["errors"] = list(errors.values())
    codes = {"done": 0, "cancelled": Cancelled.exit_code}
    code = codes.get(job["state"], worst(error["exit_code"] for error in job["errors"]))
    display.end(job, job["state"], code, [])
    if job.get("warning"):
        print(f"hffs: {shown(job['warning'])}", file=sys.stderr)
    if job["state"] == "cancelled":
        raise Cancelled("cancelled", kept)
    return job, code


def print_errors(errors: list[JobError]) -> None:
    for error in errors[:_ERRORS_SHOWN]:
        words = [error["path"], error["what"], error["remedy"]]
        print(shown(f"hffs: {': '.join(word for word in words if word)}"), file=sys.stderr)
    if len(errors) > _ERRORS_SHOWN:
        print(f"hffs: and {len(errors) - _ERRORS_SHOWN} more", file=sys.stderr)


def _start_log(*, debug: bool) -> None:
    """With ``--debug`` to stderr, else nowhere: Python would print warnings that ``print_errors`` reports."""
    import logging

    if debug:
        from ..config import Settings
        from ..system import log_setup

        log_setup.start(Settings(debug=True))
    elif not logging.root.handlers:
        logging.root.addHandler(logging.NullHandler())


def job_display(*, as_json: bool) -> JobDisplay:
    """Returns the display for stderr and the option --json."""
    if as_json:
        return JsonLines()
    if not is_terminal(sys.stderr):
        return LogLines()
    from .display.progress_screen import ProgressScreen

    return ProgressScreen()
