"""Starting a mount's daemon in the background, and learning whether it came up.

Called by the Python API. The child gets one JSON object on its standard input and answers with lines of JSON on a pipe:
its pid, then either that it is ready or what went wrong. Nothing secret is on its command line or in its environment.
Every wait here ends within the start's deadline. Runs in the caller's thread; starts no thread.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from .. import config
from ..control import mount_records
from ..control.messages import log_path as default_log_path
from ..errors import HffsError, MountFailed
from ..system import mount_table
from .mount_spec import MountSpec
from .supervisor import MODULE

_LOG_LIMIT: Final = 1024 * 1024  # bytes; a log that grew past this begins anew with the next start
_ANSWER_SECONDS: Final = 5.0  # for the mount to answer once its daemon said so
_REHEARSAL_SECONDS: Final = 20.0  # one to two on an idle machine; below what the control socket gives a route (30)
_END_SECONDS: Final = 5.0  # for a daemon that is told to end to do so


@dataclass(frozen=True, slots=True)
class Ready:
    """A mount that answers: the daemon's pid, the repo by its present name, the commit it serves, the file it logs to,
    and what the user should know about it, if anything."""

    pid: int
    repo: str
    commit: str
    warning: str
    log_file: str


class LaunchFailure(HffsError):
    """What the daemon said went wrong, in its own words and with its exit code."""

    def __init__(self, what: str, remedy: str, exit_code: int) -> None:
        super().__init__(what, remedy)
        self.exit_code = exit_code


def log_path(spec: MountSpec) -> str:
    """Where the daemon of this mount logs: as set, else beside its socket."""
    return spec.settings.log_file or default_log_path(spec.settings.runtime_dir, spec.mountpoint)


def start_daemon(spec: MountSpec, argv: Sequence[str] | None = None, deadline: float = 60.0) -> Ready:
    """Starts the daemon of this mount in a session of its own; returns once the mount answers.

    ``argv`` replaces the command (default: this Python, ``-m hffs.daemon``); ``deadline`` in seconds bounds the whole
    start, after which the daemon is ended. Raises Failure (what the daemon reported) or MountFailed.
    """
    end = time.monotonic() + deadline
    mount_records.runtime_dir(spec.settings.runtime_dir)
    log_file = log_path(spec)
    log, logged = _open_log(log_file, ours=not spec.settings.log_file)
    reports, report = os.pipe()
    try:
        process = subprocess.Popen(
            list(argv or [sys.executable, *MODULE]),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            pass_fds=(report,),
            cwd="/",
            env=environ(),
        )
    except OSError as wrong:
        os.close(reports)
        raise MountFailed(f"the daemon cannot be started ({wrong.strerror})") from wrong
    finally:
        os.close(log)
        os.close(report)
    start = _Start(process, reports, end)
    try:
        start.tell(_told(spec, report))
        ready = start.outcome(lambda: _last_line(log_file, logged))
        _await_answer(spec.mountpoint, min(end, time.monotonic() + _ANSWER_SECONDS))
    except BaseException:  # also when interrupted: a daemon nobody was told of would stay behind
        start.end()
        raise
    finally:
        start.close()
    told = {name: str(ready.get(name, "")) for name in ("repo", "commit", "warning")}
    return Ready(pid=ready["pid"], log_file=log_file, **told)


def stay(spec: MountSpec, announce: Callable[[dict[str, Any]], None]) -> NoReturn:
    """This process becomes the supervisor of the mount, in the foreground; a child of it announces the mount.

    Raises MountFailed when even that cannot be started.
    """
    mount_records.runtime_dir(spec.settings.runtime_dir)
    reports, report = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if not os.fork():
        try:
            os.close(report)
            with open(reports, "rb") as lines:
                for line in lines:
                    announce(json.loads(line))
        finally:
            os._exit(0)
    os.close(reports)
    told = os.memfd_create("hffs", 0)
    with open(told, "wb", closefd=False) as file:
        more = {"foreground": True, "journal": config.is_journal(2), "manager": config.service_manager()}
        file.write(json.dumps({**_told(spec, report), **more}).encode("ascii"))
    os.lseek(told, 0, os.SEEK_SET)
    os.set_inheritable(report, True)
    os.chdir("/")
    try:
        command = [sys.executable, *MODULE, "--supervise", str(told)]
        os.execve(command[0], command, environ())  # noqa: S606 - no shell is meant
    except OSError as wrong:
        raise MountFailed(f"the daemon cannot be started ({wrong.strerror})") from wrong


def rehearse(spec: MountSpec, handover: str | None) -> None:
    """Whether the version that is installed now could go on with this mount. Raises MountFailed saying why not."""
    told = json.dumps({"spec": spec.to_json(), "handover": handover})
    command = [sys.executable, *MODULE, "--rehearse"]
    try:
        done = subprocess.run(
            command, check=False, input=told, capture_output=True, text=True, timeout=_REHEARSAL_SECONDS,
            cwd="/", env=environ(),
        )  # fmt: skip
        lines = done.stderr.strip().splitlines() if done.returncode else None
    except subprocess.TimeoutExpired:
        lines = [f"it was not ready in {_REHEARSAL_SECONDS:.0f} s"]
    except OSError as wrong:
        lines = [f"{command[0]}: {wrong.strerror}"]
    if lines is not None:
        why = f" ({lines[-1].strip()})" if lines else ""
        raise MountFailed(
            f"the hffs that is installed now cannot start{why}", "the old one serves on; mend the new one"
        )


def _told(spec: MountSpec, report: int) -> dict[str, Any]:
    return {
        "report_fd": report,
        "spec": spec.to_json(),
        "secrets": config.split_secrets()[1],
        "supervised": spec.supervised,
        "mountpoint": spec.mountpoint,
        "log_format": spec.settings.log_format,
        "leftovers": mount_records.files(spec.settings.runtime_dir, spec.mountpoint),
    }


class _Start:
    """One start under way: the process, its report pipe, and when it must be done (monotonic seconds)."""

    def __init__(self, process: subprocess.Popen[bytes], reports: int, end: float) -> None:
        self._process = process
        self._reports = reports
        self._end = end
        self._pid: int | None = None  # of the daemon itself: the process started here leaves it behind and ends

    def tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:  # it died: the report pipe tells
            pipe.write(json.dumps(message).encode("ascii"))

    def outcome(self, last_words: Any) -> dict[str, Any]:
        """What it reported, once it is ready. Raises Failure or MountFailed for everything else."""
        for said in self._said():
            if "error" in said:
                raise LaunchFailure(str(said["error"]), str(said.get("remedy", "")), int(said.get("exit_code", 1)))
            if said.get("ready"):
                return {"pid": self._pid or self._process.pid, **said}
            self._pid = said.get("pid", self._pid)
        words = last_words()
        raise MountFailed("the daemon ended without a word" + (f", its log says: {words}" if words else ""))

    def _said(self) -> Iterator[dict[str, Any]]:
        """The lines of its report, until it closes the pipe. Raises MountFailed at the deadline."""
        received = b""
        while True:
            left = self._end - time.monotonic()
            if left <= 0 or not select.select([self._reports], [], [], left)[0]:
                raise MountFailed("the mount was not ready in time", "hffs mount --foreground --debug shows why")
            piece = os.read(self._reports, 65536)
            if not piece:
                return
            *lines, received = (received + piece).split(b"\n")
            for line in lines:
                yield json.loads(line)

    def end(self) -> None:
        """Ends the daemon: asked first, so that it takes its mount off; then not asked."""
        pid = self._pid or self._process.pid
        started = mount_records.process_start(pid)
        if started is None:
            return
        for number, seconds in ((signal.SIGTERM, _END_SECONDS), (signal.SIGKILL, 1.0)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                self._process.poll()
                if mount_records.process_start(pid) != started:
                    return
                time.sleep(0.01)

    def close(self) -> None:
        os.close(self._reports)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)


def _open_log(path: str, *, ours: bool) -> tuple[int, int]:
    """A descriptor that appends to the log, and where this start's lines will begin; ``ours`` is no link."""
    try:
        log = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_NOFOLLOW if ours else 0), 0o600
        )
        if os.fstat(log).st_size > _LOG_LIMIT:
            os.ftruncate(log, 0)
        return log, os.fstat(log).st_size
    except OSError as wrong:
        raise MountFailed(f"the log file {path} cannot be written ({wrong.strerror})", "set --log-file") from wrong


def _last_line(path: str, start: int) -> str:
    """The last line that was logged since ``start``: of a traceback, the exception."""
    with open(path, "rb") as file:
        file.seek(start)
        lines = file.read(_LOG_LIMIT).decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def environ() -> dict[str, str]:
    """Our environment, without its secrets, which go over the pipe, and what a service manager says to us alone; a
    package that is run from a checkout is found by the child too, whose directory is /."""
    shown, _ = config.split_secrets()
    ours = {name: value for name, value in shown.items() if name not in config.SYSTEMD_VARIABLES}
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.path.basename(home) in ("site-packages", "dist-packages"):
        return ours
    paths = [path for path in (ours.get("PYTHONPATH"), home) if path]
    return {**ours, "PYTHONPATH": os.pathsep.join(paths)}


def _await_answer(path: str, end: float) -> None:
    """Returns once our mount covers ``path`` and answers a stat. The table is looked at first: it never blocks."""
    while True:
        found = mount_table.table().get(path)
        if found is not None and found.is_hffs:
            break
        if time.monotonic() >= end:
            raise MountFailed(f"the daemon is ready but nothing is mounted at {path}", "see its log")
        time.sleep(0.01)
    code = mount_table.probe(path, max(0.1, end - time.monotonic()))
    if code:
        raise MountFailed(f"the mount at {path} does not answer ({os.strerror(code)})", "see its log")
