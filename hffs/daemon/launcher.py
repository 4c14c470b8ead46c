"""Starts a mount's daemon in the background, and waits until it is ready.

Called by the Python API. The child gets one JSON object on its standard input and reports in lines of JSON on a pipe:
its pid, then that it is ready or what went wrong. No secret is on its command line or in its environment. Every wait
ends within the start's deadline. Runs in the caller's thread; starts no thread.
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

_LOG_LIMIT: Final = 1024 * 1024  # bytes; a larger log is truncated at the next start
_ANSWER_SECONDS: Final = 5.0  # for the mount to answer once its daemon is ready
_PREFLIGHT_SECONDS: Final = 20.0  # one to two on an idle machine; below what the control socket gives a route (30)
_END_SECONDS: Final = 5.0  # for a daemon to end after SIGTERM


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
    """The error that the daemon reported, with its exit code."""

    def __init__(self, what: str, remedy: str, exit_code: int) -> None:
        super().__init__(what, remedy)
        self.exit_code = exit_code


def log_path(spec: MountSpec) -> str:
    """The daemon's log file: as set, else beside its socket."""
    return spec.settings.log_file or default_log_path(spec.settings.runtime_dir, spec.mountpoint)


def start_daemon(spec: MountSpec, argv: Sequence[str] | None = None, deadline: float = 60.0) -> Ready:
    """Starts the daemon of this mount in a session of its own; returns once the mount answers.

    ``argv`` replaces the command (default: this Python, ``-m hffs.daemon``); ``deadline`` in seconds bounds the whole
    start, after which the daemon is ended. Raises LaunchFailure (what the daemon reported) or MountFailed.
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
    except OSError as error:
        os.close(reports)
        raise MountFailed(f"the daemon cannot be started ({error.strerror})") from error
    finally:
        os.close(log)
        os.close(report)
    start = _Start(process, reports, end)
    try:
        start.send(_parameters(spec, report))
        ready = start.wait_ready(lambda: _last_line(log_file, logged))
        _await_answer(spec.mountpoint, min(end, time.monotonic() + _ANSWER_SECONDS))
    except BaseException:  # also when interrupted: a daemon unknown to the user would stay behind
        start.end()
        raise
    finally:
        start.close()
    texts = {name: str(ready.get(name, "")) for name in ("repo", "commit", "warning")}
    return Ready(pid=ready["pid"], log_file=log_file, **texts)


def exec_supervisor(spec: MountSpec, announce: Callable[[dict[str, Any]], None]) -> NoReturn:
    """Executes the supervisor of the mount in this process, in the foreground; a child calls ``announce``.

    Raises MountFailed when it cannot be executed.
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
    state = os.memfd_create("hffs", 0)
    with open(state, "wb", closefd=False) as file:
        more = {"foreground": True, "journal": config.is_journal(2), "manager": config.service_manager()}
        file.write(json.dumps({**_parameters(spec, report), **more}).encode("ascii"))
    os.lseek(state, 0, os.SEEK_SET)
    os.set_inheritable(report, True)
    os.chdir("/")
    try:
        command = [sys.executable, *MODULE, "--supervise", str(state)]
        os.execve(command[0], command, environ())  # noqa: S606 - no shell is meant
    except OSError as error:
        raise MountFailed(f"the daemon cannot be started ({error.strerror})") from error


def preflight(spec: MountSpec, handover: str | None) -> None:
    """Raises MountFailed, with the reason, if the installed version could not take over this mount."""
    parameters = json.dumps({"spec": spec.to_json(), "handover": handover})
    command = [sys.executable, *MODULE, "--preflight"]
    try:
        done = subprocess.run(
            command, check=False, input=parameters, capture_output=True, text=True, timeout=_PREFLIGHT_SECONDS,
            cwd="/", env=environ(),
        )  # fmt: skip
        lines = done.stderr.strip().splitlines() if done.returncode else None
    except subprocess.TimeoutExpired:
        lines = [f"it was not ready in {_PREFLIGHT_SECONDS:.0f} s"]
    except OSError as error:
        lines = [f"{command[0]}: {error.strerror}"]
    if lines is not None:
        why = f" ({lines[-1].strip()})" if lines else ""
        raise MountFailed(
            f"the installed hffs cannot start{why}",
            "the running version continues to serve; repair the installation, then run hffs restart again",
        )


def _parameters(spec: MountSpec, report: int) -> dict[str, Any]:
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
    """A start in progress: the process, its report pipe, and its deadline (monotonic seconds)."""

    def __init__(self, process: subprocess.Popen[bytes], reports: int, end: float) -> None:
        self._process = process
        self._pipe = reports
        self._end = end
        self._pid: int | None = None  # of the daemon itself: the process started here leaves it behind and ends

    def send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:  # it died: its pipe is closed, too
            pipe.write(json.dumps(message).encode("ascii"))

    def wait_ready(self, last_line: Callable[[], str]) -> dict[str, Any]:
        """The report that it is ready. Raises LaunchFailure or MountFailed for everything else."""
        for report in self._reports():
            if "error" in report:
                raise LaunchFailure(
                    str(report["error"]), str(report.get("remedy", "")), int(report.get("exit_code", 1))
                )
            if report.get("ready"):
                return {"pid": self._pid or self._process.pid, **report}
            self._pid = report.get("pid", self._pid)
        line = last_line()
        raise MountFailed(f"the daemon ended unexpectedly: {line}" if line else "the daemon ended unexpectedly")

    def _reports(self) -> Iterator[dict[str, Any]]:
        """The lines of its reports, until it closes the pipe. Raises MountFailed at the deadline."""
        received = b""
        while True:
            left = self._end - time.monotonic()
            if left <= 0 or not select.select([self._pipe], [], [], left)[0]:
                raise MountFailed("the mount was not ready in time", "hffs mount --foreground --debug shows why")
            piece = os.read(self._pipe, 65536)
            if not piece:
                return
            *lines, received = (received + piece).split(b"\n")
            for line in lines:
                yield json.loads(line)

    def end(self) -> None:
        """Ends the daemon: SIGTERM first, so that it unmounts; then SIGKILL."""
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
        os.close(self._pipe)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)


def _open_log(path: str, *, ours: bool) -> tuple[int, int]:
    """A descriptor that appends to the log, and the offset of this start's first line; ``ours``: links are refused."""
    try:
        log = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_NOFOLLOW if ours else 0), 0o600
        )
        if os.fstat(log).st_size > _LOG_LIMIT:
            os.ftruncate(log, 0)
        return log, os.fstat(log).st_size
    except OSError as error:
        raise MountFailed(f"the log file {path} cannot be written ({error.strerror})", "set --log-file") from error


def _last_line(path: str, start: int) -> str:
    """The last line logged since offset ``start``: of a traceback, the exception."""
    with open(path, "rb") as file:
        file.seek(start)
        lines = file.read(_LOG_LIMIT).decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def environ() -> dict[str, str]:
    """This process's environment without secrets, which the pipe carries, and without the variables that a service
    manager sets for this process alone. PYTHONPATH names a checkout that hffs runs from: the child's directory is /."""
    shown, _ = config.split_secrets()
    ours = {name: value for name, value in shown.items() if name not in config.SYSTEMD_VARIABLES}
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.path.basename(home) in ("site-packages", "dist-packages"):
        return ours
    paths = [path for path in (ours.get("PYTHONPATH"), home) if path]
    return {**ours, "PYTHONPATH": os.pathsep.join(paths)}


def _await_answer(path: str, end: float) -> None:
    """Returns once an hffs mount covers ``path`` and answers stat. Reads the mount table first, which never blocks."""
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
