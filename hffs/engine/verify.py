"""A verification under way: files looked at one after another, then what is bad mended, told as ``messages.Job``.

What is looked at, how, and what mending is, a ``FileSource`` knows: the cache (``verifying_held``) or any folder
(``verifying_folder``). One thread at low priority where there may be readers. It may be cancelled at any moment: what
was mended stays so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from ..control import messages
from ..control.messages import CheckedReport, FindingReport
from ..errors import HffsError, IntegrityError
from ..transfer.progress import Outcome, Snapshot
from ..transfer.throughput import Throughput
from ..vfs import Patterns

log = logging.getLogger(__name__)

_RATE_SECONDS: Final = 5.0  # as of a hydration
_IDLE: Final[messages.Workers] = {"active": 0, "limit": 0, "bytes_per_s": 0, "why": "", "list": []}

Verdict = Literal["right", "plausible", "partial", "absent", "wrong", "others"]
GivenUp = Callable[[], bool]


@dataclass(slots=True, eq=False)
class CheckedFile:
    """A file to look at; ``local`` of its bytes are here. ``path`` is as users name it."""

    path: str
    size: int | None
    etag: str | None
    local: int
    required: bool = False
    findings: list[FindingReport] = field(default_factory=list)


class FileSource(Protocol):
    """``subjects`` is asked first; ``look`` says what a file is and adds to its findings; ``mend`` gets those with
    damage and marks what it mended, or says what keeps it (``unmended``). ``mending`` and ``fetched`` tell of it."""

    target: str
    warning: str

    def subjects(self, given_up: GivenUp) -> Iterable[CheckedFile]: ...
    def look(self, subject: CheckedFile, given_up: GivenUp, counted: Callable[[int], None]) -> Verdict: ...
    def mend(self, bad: Sequence[CheckedFile], given_up: GivenUp) -> None: ...
    def mending(self) -> Snapshot | None: ...
    def fetched(self) -> int: ...
    def workers(self) -> messages.Workers | None: ...
    def close(self) -> None: ...


class Requirements:
    """Patterns of files that must be there; those that no file fitted are ``unmet``."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = {pattern: Patterns((pattern,)) for pattern in patterns}
        self._met: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def ask(self, path: str) -> bool:
        """Whether this file, which exists, must be there."""
        fit = [pattern for pattern, matching in self._patterns.items() if matching.match(path)]
        self._met.update(fit)
        return bool(fit)

    def unmet(self, where: str) -> list[CheckedFile]:
        """What to report for each pattern that nothing fitted."""
        return [
            CheckedFile(pattern, None, None, 0, True, [damage(pattern, "missing", f"no file of {where} fits it")])
            for pattern in self._patterns
            if pattern not in self._met
        ]


class Verification:
    """``start`` once; any thread may ask and cancel. ``nice`` is that of its thread, ``ended`` is called last."""

    def __init__(
        self, source: FileSource, *, fix: bool = False, nice: int = 0, ended: Callable[[], None] = lambda: None
    ) -> None:
        self._source = source
        self._fix = fix
        self._nice = nice
        self._tell_end = ended
        self._thread = threading.Thread(target=self._run, name="hffs-verify-job", daemon=True)
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        # guarded by _lock
        self._state: Outcome = "running"
        self._error: HffsError | None = None
        self._total = self._done = self._files = 0
        self._at: tuple[CheckedFile, int] | None = None  # the file that is looked at, and its bytes so far
        self._ended: list[tuple[CheckedFile, bool]] = []
        self._findings: list[FindingReport] = []
        self._checked: CheckedReport = {
            "right": 0,
            "plausible": 0,
            "partial": 0,
            "absent": 0,
            "wrong": 0,
            "others": 0,
            "bytes": 0,
        }
        self._meter = Throughput(time.monotonic(), _RATE_SECONDS)

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        self._cancelled.set()

    def join(self, timeout: float | None = None) -> bool:
        """Whether it has ended, after waiting for that at most ``timeout`` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def state(self) -> Outcome:
        return self._state

    def told(self, number: str, target: str, started_at: float, since: int) -> messages.Job:
        """As its watchers see it."""
        mending = self._source.mending()
        now = time.monotonic()
        with self._lock:
            ended, findings = self._ended[since:], [each.copy() for each in self._findings]
            at, state, error = self._at, self._state, self._error
            done, total, rate = self._done, self._total, self._meter.rate(now)
            count, files, checked = len(self._ended), self._files, self._checked.copy()
        active: list[messages.JobFile] = []
        if at is not None:
            active.append(_file(at[0], at[1], "verifying"))
        if mending is not None:
            done, total, rate = done + mending.bytes_done, total + mending.bytes_total, mending.bytes_per_s
            active += [
                {
                    "path": part.file.path,
                    "size": part.size,
                    "etag": part.file.blob.etag,
                    "bytes_done": part.local,
                    "state": part.state,
                }
                for part in mending.active
            ]
        running = state == "running"
        errors = [_error("", error.what, error.remedy, error.exit_code)] if error is not None else []
        errors += [
            _error(each["path"], each["what"], each["remedy"], each["exit_code"])
            for each in ([] if running else findings)
            if each["severity"] == "damage" and not each["mended"]
        ]
        job: messages.Job = {
            "id": number,
            "kind": "verify",
            "target": target,
            "state": state,
            "started_at": started_at,
            "updated_at": time.time(),
            "bytes_done": done,
            "bytes_total": total,
            "bytes_fetched": self._source.fetched(),
            "bytes_per_s": rate if running else 0.0,
            "eta_s": (total - done) / rate if running and rate else None,
            "files_done": count,
            "files_total": files,
            "active": active if running else [],
            "ended": count,
            "finished": [_file(subject, subject.local, "done" if fine else "failed") for subject, fine in ended],
            "errors": errors,
            "workers": self._source.workers() or _IDLE,
            "findings": findings,
            "checked": checked,
        }
        if self._source.warning:
            job["warning"] = self._source.warning
        return job

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self._nice:
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        error: HffsError | None = None
        given_up = self._cancelled.is_set
        try:
            bad = self._look(given_up)
            if self._fix and bad and not given_up():
                self._source.mend(bad, given_up)
        except HffsError as wrong:
            error = wrong
        except Exception as bug:  # a bug of ours must be seen as a failure, not as a wait without end
            log.error("event=verify-bug", exc_info=bug)
            error = HffsError(f"verifying failed unexpectedly: {bug!r}")
        finally:
            self._source.close()
        with self._lock:
            self._error = error
            stays = any(each["severity"] == "damage" and not each["mended"] for each in self._findings)
            self._state = "cancelled" if given_up() else "failed" if error is not None or stays else "done"
        self._tell_end()

    def _look(self, given_up: GivenUp) -> list[CheckedFile]:
        """Every file, one after another; those with damage."""
        subjects = list(self._source.subjects(given_up))
        with self._lock:
            self._total = sum(subject.local for subject in subjects)
            self._files = len(subjects)
            self._meter = Throughput(time.monotonic(), _RATE_SECONDS)
        bad = []
        for subject in subjects:
            if given_up():
                break
            with self._lock:
                self._at, before = (subject, 0), self._done
            word = self._source.look(subject, given_up, self._count)
            if given_up():
                break
            with self._lock:
                self._at = None
                self._done = before + subject.local
                self._ended.append((subject, word != "wrong"))
                self._checked[word] += 1
                self._checked["bytes"] = self._done
                self._findings += subject.findings
            if any(each["severity"] == "damage" for each in subject.findings):
                bad.append(subject)
        return bad

    def _count(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._meter.add(size, time.monotonic())
            if self._at is not None:
                self._at = self._at[0], self._at[1] + size


def damage(path: str, kind: str, what: str, remedy: str = "", *, expected: str = "", got: str = "") -> FindingReport:
    """A finding that stays until it is mended."""
    return _finding(path, kind, "damage", what, remedy, expected, got)


def warning(path: str, kind: str, what: str, remedy: str = "") -> FindingReport:
    """A finding to be known, which nothing here can mend."""
    return _finding(path, kind, "warning", what, remedy, "", "")


def unmended(subject: CheckedFile, error: HffsError, *, stays: bool) -> None:
    """What keeps the damage of a file from being mended. Where it does not stay, its bytes were dropped, and that they
    are missing is as bad as what keeps them away."""
    for each in subject.findings:
        if each["severity"] == "damage" and not each["mended"]:
            each["remedy"] = f"{error.what}: {error.remedy}" if error.remedy else error.what
            each["exit_code"] = IntegrityError.exit_code if stays else error.exit_code


def mended(subject: CheckedFile) -> None:
    for each in subject.findings:
        each["mended"] = each["severity"] == "damage"


def _finding(path: str, kind: str, severity: str, what: str, remedy: str, expected: str, got: str) -> FindingReport:
    return {
        "path": path,
        "kind": kind,  # type: ignore[typeddict-item]  # of the literals, by those who make one
        "severity": severity,  # type: ignore[typeddict-item]
        "what": what,
        "remedy": remedy,
        "expected": expected,
        "got": got,
        "mended": False,
        "exit_code": IntegrityError.exit_code if severity == "damage" else 0,
    }


def _file(subject: CheckedFile, done: int, state: Literal["verifying", "done", "failed"]) -> messages.JobFile:
    return {"path": subject.path, "size": subject.size, "etag": subject.etag, "bytes_done": done, "state": state}


def _error(path: str, what: str, remedy: str, exit_code: int) -> messages.JobError:
    return {"path": path, "what": what, "remedy": remedy, "exit_code": exit_code}
