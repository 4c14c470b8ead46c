"""``hffs hydrate``: follows a job to its end, shows how it goes, tells what came of it.

Called by ``main`` with parsed arguments; returns the exit code. Three views of the same snapshots: a live display on a
terminal (``progress``), lines now and then where there is none, and with ``--json`` one object a line for programs.
However it ends early (Ctrl-C, SIGTERM, a closed terminal, output nobody reads), the job is cancelled and the terminal
left as it was. Main thread only.

The lines of ``--json``, each with ``event``; bytes and seconds, times since the epoch:

- ``start``, the first: ``id``, ``kind``, ``target``, ``started_at``, and the totals.
- ``file``, as each ends: ``path``, ``size``, ``etag``, ``bytes_done``, ``state`` (``done`` or ``failed``).
- ``error``: ``path`` (empty where no one file is to blame), ``what``, ``remedy``, ``exit_code``.
- ``progress``, at every interval: the totals, ``updated_at``, ``bytes_per_s`` and ``eta_s`` (null while unknown),
  ``active`` (the files being fetched or verified, as in ``file``), ``workers`` (``active``, ``limit``, ``why``).
- ``end``, the last: ``state`` (``done``, ``failed``, ``cancelled``), ``exit_code``, ``updated_at``, the totals.

The totals: ``bytes_done`` (local already or fetched), ``bytes_total``, ``bytes_fetched`` (over the network),
``files_done``, ``files_total``. Keys and events may be added, never renamed. What cannot even start prints no line.

Exit code of a job that failed: that of its worst error, where what running it again would not mend goes before what it
may: integrity, space, access, not found, anything else, and the Hub out of reach last. So 5 means that nothing else was
wrong, and that trying later is worth it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any, Final, Literal, Protocol

from ..control.messages import Job, JobError
from ..errors import Cancelled, HffsError, worst
from . import output
from .parser import flags
from .stopping import stoppable

_ERRORS_SHOWN: Final = 10  # more would scroll the reason of the first one away
_LINE_SECONDS: Final = 5.0  # a log is no display
_SILENCE_SECONDS: Final = 60.0  # CI services end a job that prints nothing for some minutes
_TOTALS: Final = ("bytes_done", "bytes_total", "bytes_fetched", "files_done", "files_total")

State = Literal["done", "failed", "cancelled"]


class View(Protocol):
    """How a job is shown; entered before the first snapshot, left after the last or when it is interrupted."""

    def running(self) -> AbstractContextManager[object]: ...
    def show(self, job: Job, errors: list[JobError]) -> None:
        """A snapshot, with the errors that are new in it."""

    def end(self, job: Job | None, state: State, exit_code: int, errors: list[JobError]) -> None:
        """How it ended, with the last snapshot there was and the errors that ended it after that."""


def hydrate(args: argparse.Namespace) -> int:
    from ..api.hydrate import follow

    start_log(debug=getattr(args, "debug", False))
    names = {"type": args.type, "revision": args.revision, "subfolder": args.subfolder}
    more = {"to": args.to, "to_hf_cache": args.to_hf_cache, "force": args.force, **flags(args)}
    view: View = JsonLines() if args.json else screen() if output.on_terminal(sys.stderr) else LogLines()
    job: Job | None = None
    errors: dict[tuple[str, str], JobError] = {}
    waits = ""
    try:
        with stoppable(), view.running(), closing(follow(args.target, **names, **more)) as snapshots:
            for job in snapshots:
                told = {(error["path"], error["what"]): error for error in job["errors"]}
                new = [error for key, error in told.items() if key not in errors]
                errors |= told
                waits = say_waits(job, waits)
                view.show(job, new)
    except KeyboardInterrupt:
        view.end(job, "cancelled", Cancelled.exit_code, [])
        raise _interrupted("interrupted") from None
    except HffsError as wrong:  # it could not start, or whoever did the work is gone
        if job is not None:
            view.end(job, "failed", wrong.exit_code, [as_error(wrong)])
        raise
    if job is None or job["state"] == "running":
        raise AssertionError("a job is followed to its end")
    code = {"done": 0, "cancelled": Cancelled.exit_code}.get(job["state"], exit_code(errors.values()))
    view.end(job, job["state"], code, [])
    if job.get("warning"):
        print(f"hffs: {output.shown(job['warning'])}", file=sys.stderr)
    if job["state"] == "cancelled":
        raise _interrupted("cancelled")
    if not args.json:
        print(output.shown(summary(job, args.to or ("huggingface_hub's cache" if args.to_hf_cache else None))))
    if job["state"] == "failed":
        _tell(list(errors.values()))
    return code


def start_log(*, debug: bool) -> None:
    """With ``--debug`` to stderr; else nowhere: left alone, Python prints what is wrong, of which ``_tell`` tells."""
    import logging

    if debug:
        from ..config import Settings
        from ..system import log_setup

        log_setup.start(Settings(debug=True))
    elif not logging.root.handlers:
        logging.root.addHandler(logging.NullHandler())


def say_waits(job: Job, before: str) -> str:
    """Tells on stderr what a job waits for, when that is not what it waited for ``before``; gives it."""
    waits = job.get("waits", "")
    if waits and waits != before:
        print(f"hffs: waiting: {output.shown(waits)}", file=sys.stderr, flush=True)
    return waits


def exit_code(errors: Iterable[JobError]) -> int:
    """The exit code of a job that failed of these; 1 where it did not say why."""
    return worst(error["exit_code"] for error in errors)


def summary(job: Job, to: str | None = None) -> str:
    """What came of it: ``acme/tiny: 12 files, 522.7M, verified; 120.0M fetched in 3.4 s (35.0M/s)``."""
    if job["state"] == "done":
        files = f"{output.count(job['files_total'], 'file')}, {output.size(job['bytes_total'])}, verified"
    else:
        done = f"{output.size(job['bytes_done'])} of {output.size(job['bytes_total'])}"
        files = f"{job['files_done']} of {output.count(job['files_total'], 'file')}, {done}"
    laid = f", laid in {to}" if to and job["state"] == "done" else ""
    fetched, seconds = job["bytes_fetched"], job["updated_at"] - job["started_at"]
    if not fetched:
        return f"{job['target']}: {files}{laid}; nothing was fetched"
    took = f"{max(seconds, 0.0):.1f} s" if seconds < 100 else output.span(seconds)
    rate = f" ({output.rate(fetched / seconds)})" if seconds > 0 else ""
    return f"{job['target']}: {files}{laid}; {output.size(fetched)} fetched in {took}{rate}"


class JsonLines:
    """Every event as a line of JSON on stdout; nothing else."""

    def __init__(self) -> None:
        self._started = False

    def running(self) -> AbstractContextManager[object]:
        return nullcontext()

    def show(self, job: Job, errors: list[JobError]) -> None:
        if not self._started:
            self._started = True
            about = {key: job[key] for key in ("id", "kind", "target", "started_at")}
            event("start", **about, **_totals(job))
        for file in job["finished"]:
            event("file", **file)
        for error in errors:
            event("error", **error)
        if job["state"] == "running":
            now = {key: job[key] for key in ("updated_at", "bytes_per_s", "eta_s", "active")}
            workers = {key: job["workers"][key] for key in ("active", "limit", "why")}
            event("progress", **_totals(job), **now, workers=workers)

    def end(self, job: Job | None, state: State, exit_code: int, errors: list[JobError]) -> None:
        for error in errors:
            event("error", **error)
        if job is not None:
            checked = {"checked": job["checked"]} if "checked" in job else {}
            event("end", state=state, exit_code=exit_code, updated_at=job["updated_at"], **_totals(job), **checked)


class LogLines:
    """For logs: a line on stderr when another tenth is done or a minute has passed, at most one every 5 s."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, int] | None = None

    def running(self) -> AbstractContextManager[object]:
        return nullcontext()

    def show(self, job: Job, errors: list[JobError]) -> None:  # noqa: ARG002 - errors are told once it has ended
        now, whole = self._clock(), job["bytes_total"]
        tenth = 10 * job["bytes_done"] // whole if whole else 0
        at, before = self._last or (now, tenth)
        due = now - at >= (_LINE_SECONDS if tenth > before else _SILENCE_SECONDS)
        if due and job["state"] == "running":
            files = f"{job['files_done']} of {output.count(job['files_total'], 'file')}"
            speed = f"{output.rate(job['bytes_per_s'])}, ETA {output.eta(job['eta_s'])}"
            line = f"{job['target']}: {output.share(job['bytes_done'], whole or None)}, {files}, {speed}"
            print(output.shown(line), file=sys.stderr, flush=True)
        if due or self._last is None:
            self._last = now, tenth

    def end(self, job: Job | None, state: State, exit_code: int, errors: list[JobError]) -> None:
        pass


def screen() -> View:
    from .progress import Screen

    return Screen()


def _interrupted(what: str) -> Cancelled:
    return Cancelled(what, "what was fetched is kept; run the same command to go on")


def _tell(errors: list[JobError]) -> None:
    for error in errors[:_ERRORS_SHOWN]:
        words = [error["path"], error["what"], error["remedy"]]
        print(output.shown(f"hffs: {': '.join(word for word in words if word)}"), file=sys.stderr)
    if len(errors) > _ERRORS_SHOWN:
        print(f"hffs: and {len(errors) - _ERRORS_SHOWN} more", file=sys.stderr)
    if not errors:
        print("hffs: it failed, and did not say why", file=sys.stderr)


def as_error(wrong: HffsError) -> JobError:
    return {"path": "", "what": wrong.what, "remedy": wrong.remedy, "exit_code": wrong.exit_code}


def _totals(job: Job) -> dict[str, Any]:
    return {key: job[key] for key in _TOTALS}


def event(name: str, /, **fields: Any) -> None:
    """A line of ``--json``."""
    print(json.dumps({"event": name, **fields}), flush=True)
