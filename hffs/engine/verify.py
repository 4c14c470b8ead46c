"""A verification as the work of a job: files checked one after another, then damaged ones mended by a hydration.

Which files there are, what each is checked against and what mending one drops or replaces, a ``FileSource`` knows: the
cache (``verify_cache``) or any folder (``verify_folder``). It may be cancelled at any moment: what was mended stays so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from ..cache import StoredBlob
from ..control.messages import CheckedReport, FindingReport, JobProgress
from ..errors import HffsError, IntegrityError
from ..model import Commit, RemoteFile
from ..ranges import block_count
from ..transfer import Fetcher, Hydration
from ..transfer.throughput import Throughput
from ..vfs import Patterns
from .hydrate import part_file
from .jobs import NO_WORKERS, job_file, worker_report

_RATE_SECONDS: Final = 5.0  # as of a hydration

Verdict = Literal["right", "plausible", "partial", "absent", "wrong", "others"]
IsCancelled = Callable[[], bool]


@dataclass(slots=True, eq=False)
class CheckedFile:
    """A file to check, of which ``local`` bytes are on the disk. ``path`` is as users name it. ``stays``: its damaged
    bytes are in place until they are replaced; those of other files are dropped first."""

    path: str
    size: int | None
    etag: str | None
    local: int
    required: bool = False
    stays: bool = False
    findings: list[FindingReport] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        return any(is_damage(each) for each in self.findings)

    def damage(self, kind: str, what: str, remedy: str = "", *, expected: str = "", got: str = "") -> Verdict:
        """Adds a finding that stays until it is mended."""
        self._add("damage", kind, what, remedy, expected, got)
        return "wrong"

    def warn(self, kind: str, what: str, remedy: str = "", *, mended: bool = False) -> None:
        """Adds a finding that the user should know of, and that does no harm or cannot be mended."""
        self._add("warning", kind, what, remedy, "", "", mended=mended)

    def _add(
        self, severity: str, kind: str, what: str, remedy: str, expected: str, got: str, *, mended: bool = False
    ) -> None:
        self.findings.append(
            {
                "path": self.path,
                "kind": kind,  # type: ignore[typeddict-item]  # of the literals, by the sources
                "severity": severity,  # type: ignore[typeddict-item]
                "what": what,
                "remedy": remedy,
                "expected": expected,
                "got": got,
                "mended": mended,
                "exit_code": IntegrityError.exit_code if severity == "damage" else 0,
            }
        )


@dataclass(frozen=True, slots=True)
class Repair:
    """What is to be fetched for a damaged file: all of it, or only ``blocks``."""

    file: RemoteFile
    blocks: Sequence[range] = ()


class FileSource(Protocol):
    """``files`` is called first, then ``check`` for each: it adds findings and returns the verdict. ``repair`` prepares
    a damaged file for mending and returns what is to be fetched, None where it is mended already; it raises HffsError
    where the damage must stay. ``replace`` gets the verified content of a file that was fetched whole."""

    name: str
    require: Requirements

    def files(self, cancelled: IsCancelled) -> Iterable[CheckedFile]: ...
    def check(self, file: CheckedFile, cancelled: IsCancelled, count: Callable[[int], None]) -> Verdict: ...
    def repair(self, file: CheckedFile) -> Repair | None: ...
    def replace(self, file: CheckedFile, content: RemoteFile, stored: StoredBlob) -> None: ...


class Requirements:
    """Patterns of files that must be there; those that no file matched are ``unmet``."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = {pattern: Patterns((pattern,)) for pattern in patterns}
        self._met: set[str] = set()

    def match(self, path: str) -> bool:
        """Whether this file, which exists, must be there."""
        matched = [pattern for pattern, patterns in self._patterns.items() if patterns.match(path)]
        self._met.update(matched)
        return bool(matched)

    def unmet(self, where: str) -> Iterator[CheckedFile]:
        """A finding for each pattern that no file matched."""
        for pattern in self._patterns:
            if pattern not in self._met:
                unmet = CheckedFile(pattern, None, None, 0, required=True)
                unmet.damage("missing", f"no file of {where} matches this required pattern")
                yield unmet


class VerificationWork:
    """``fetcher`` returns what fetches the content of damaged files; it is called only if ``fix`` finds any."""

    kind: Literal["hydrate", "verify"] = "verify"

    def __init__(self, source: FileSource, *, fix: bool, fetcher: Callable[[Commit], Fetcher], big_file: int) -> None:
        self._source = source
        self._fix = fix
        self._fetcher_for = fetcher
        self._big_file = big_file
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        # guarded by _lock
        self._mending: tuple[Hydration, Fetcher, int] | None = None  # with the bytes it had fetched before
        self._total = self._done = self._files = 0
        self._at: tuple[CheckedFile, int] | None = None  # the file that is checked, and its bytes so far
        self._ended: list[tuple[CheckedFile, bool]] = []
        self._findings: list[FindingReport] = []
        self._checked: CheckedReport = {
            "right": 0, "plausible": 0, "partial": 0, "absent": 0, "wrong": 0, "others": 0,
            "bytes": 0, "blocks": 0,
        }  # fmt: skip
        self._throughput = Throughput(time.monotonic(), _RATE_SECONDS)

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()
        with self._lock:
            mending = self._mending
        if mending is not None:
            mending[0].cancel()

    def run(self) -> bool:
        damaged = self._check_all()
        if self._fix and damaged and not self.cancelled:
            self._mend(damaged)
        with self._lock:
            return not any(is_damage(each) for each in self._findings)

    def progress(self, since: int, *, running: bool) -> JobProgress:
        now = time.monotonic()
        with self._lock:
            ended, findings = self._ended[since:], [each.copy() for each in self._findings]
            at, mending = self._at, self._mending
            done, total, rate = self._done, self._total, self._throughput.rate(now)
            count, files, checked = len(self._ended), self._files, self._checked.copy()
        active = [job_file(at[0].path, at[0].size, at[0].etag, at[1], "verifying")] if at is not None else []
        fetched, workers = 0, NO_WORKERS
        if mending is not None:
            hydration, fetcher, before = mending
            snapshot = hydration.progress()
            done, total, rate = done + snapshot.bytes_done, total + snapshot.bytes_total, snapshot.bytes_per_s
            active += [part_file(part) for part in snapshot.active]
            fetched, workers = fetcher.bytes_fetched - before, worker_report(fetcher)
        stays = [] if running else [each for each in findings if is_damage(each)]
        return {
            "bytes_done": done,
            "bytes_total": total,
            "bytes_fetched": fetched,
            "bytes_per_s": rate,
            "eta_s": (total - done) / rate if rate else None,
            "files_done": count,
            "files_total": files,
            "active": active,
            "ended": count,
            "finished": [
                job_file(each.path, each.size, each.etag, each.local, "done" if right else "failed")
                for each, right in ended
            ],
            "errors": [
                {"path": each["path"], "what": each["what"], "remedy": each["remedy"], "exit_code": each["exit_code"]}
                for each in stays
            ],
            "workers": workers,
            "findings": findings,
            "checked": checked,
        }

    def _check_all(self) -> list[CheckedFile]:
        """Checks every file, one after another; returns those with damage."""
        cancelled = self._cancelled.is_set
        files = [*self._source.files(cancelled), *self._source.require.unmet(self._source.name)]
        with self._lock:
            self._total = sum(file.local for file in files)
            self._files = len(files)
            self._throughput = Throughput(time.monotonic(), _RATE_SECONDS)
        damaged = []
        for file in files:
            if cancelled():
                break
            with self._lock:
                self._at, before = (file, 0), self._done
            unmet = file.damaged  # before it is checked: a requirement that no file of the source matched
            verdict = "wrong" if unmet else self._source.check(file, cancelled, self._count)
            if cancelled():
                break
            with self._lock:
                self._at = None
                self._done = before + file.local
                self._ended.append((file, verdict != "wrong"))
                self._checked[verdict] += 1
                self._checked["bytes"] = self._done
                self._checked["blocks"] += block_count(file.local)
                self._findings += file.findings
            if file.damaged and not unmet:
                damaged.append(file)
        return damaged

    def _count(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._throughput.add(size, time.monotonic())
            if self._at is not None:
                self._at = self._at[0], self._at[1] + size

    def _mend(self, damaged: Iterable[CheckedFile]) -> None:
        """Hydrates what the source says is to be fetched, and marks each finding as mended or with what prevents it."""
        wanted: dict[RemoteFile, CheckedFile] = {}
        only: dict[RemoteFile, Sequence[range]] = {}
        for file in damaged:
            if self.cancelled:
                return
            try:
                repair = self._source.repair(file)
            except HffsError as error:
                _not_mended(file, error, stays=True)
                continue
            if repair is None:
                _mended(file)
                continue
            wanted[repair.file] = file
            if repair.blocks:
                only[repair.file] = repair.blocks
        if wanted:
            failure = self._fetch(wanted, only) or HffsError("it was not fetched", "run it again")
            if not self.cancelled:
                for file in wanted.values():
                    _not_mended(file, failure, stays=file.stays)

    def _fetch(
        self, wanted: dict[RemoteFile, CheckedFile], only: dict[RemoteFile, Sequence[range]]
    ) -> HffsError | None:
        """Takes those that ended out of ``wanted``; returns why the others were not tried."""
        files = list(wanted)
        fetcher = self._fetcher_for(files[0].commit)
        hydration = Hydration(
            fetcher,
            lambda: [(file, 0) for file in files],
            big_file=self._big_file,
            export_file=lambda file, stored: self._source.replace(wanted[file], file, stored),
            only=only,
        )
        with self._lock:
            self._mending = hydration, fetcher, fetcher.bytes_fetched
        if self.cancelled:  # before the hydration was known to cancel()
            return None
        failure: HffsError | None = None
        try:
            hydration.run()
        except HffsError as error:
            failure = error
        for part in hydration.progress().ended:
            file = wanted.pop(part.file)
            if part.error is None:
                _mended(file)
            else:
                _not_mended(file, part.error, stays=file.stays)
                failure = failure or part.error
        return failure


def crc_mismatch(bad: Sequence[range]) -> str:
    """What is wrong with these runs of blocks, of which three are named."""
    names = [f"block {run.start}" if len(run) == 1 else f"blocks {run.start} to {run.stop - 1}" for run in bad[:3]]
    more = " and more" if len(bad) > 3 else ""
    return f"CRC mismatch in {', '.join(names)}{more}: not what was written to the disk"


def hashes(expected: str, got: str) -> str:
    return f"expected {expected[:12]}…, got {got[:12]}…"


def is_damage(finding: FindingReport) -> bool:
    """Whether it is damage that is not mended."""
    return finding["severity"] == "damage" and not finding["mended"]


def _not_mended(file: CheckedFile, error: HffsError, *, stays: bool) -> None:
    """Records what prevents mending. Where the damaged bytes were dropped, the exit code is that of the error."""
    for each in file.findings:
        if is_damage(each):
            each["remedy"] = f"{error.what}: {error.remedy}" if error.remedy else error.what
            each["exit_code"] = IntegrityError.exit_code if stays else error.exit_code


def _mended(file: CheckedFile) -> None:
    for each in file.findings:
        each["mended"] |= each["severity"] == "damage"
