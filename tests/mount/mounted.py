"""A mount as users have it: mounted, queried and unmounted through the command line, in processes of its own.

The fixtures in ``conftest`` make these. Every call has a timeout. Nothing here imports hffs, so that tests exercise
the program. Used by one thread.
"""

from __future__ import annotations

import ctypes
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
COMMAND_SECONDS = 60.0  # hffs mount, status, unmount: each takes 0.3 to 2 s on an idle machine
PROGRAM_SECONDS = 110.0  # a program that reads a mount; below the test's own timeout, so that its output is still shown
END_SECONDS = 10.0  # for a daemon to end after its mount was unmounted
WARNING_LINE = re.compile(r"\blevel=(warning|error|critical)\b|Traceback")
_MNT_DETACH = 2  # mount.h

# For tests of what every binding promises; the others run on the one that users get.
on_both_bindings = pytest.mark.parametrize("binding", ["kernel", "libfuse"], indirect=True)


class Commands:
    """``hffs`` against one hub, with a cache and a runtime directory under ``home``."""

    def __init__(self, home: Path, endpoint: str, binding: str) -> None:
        self.binding = binding
        self.home = home
        self.cache = home / "blocks"
        self.runtime = home / "run"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HFFS_CACHE_DIR": str(self.cache),
            "HFFS_RUNTIME_DIR": str(self.runtime),
            "HFFS_BINDING": binding,
            "LC_ALL": "C.UTF-8",
        }

    def run(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
        """Runs ``hffs ARGUMENTS``, whatever its exit code."""
        return subprocess.run(
            [sys.executable, "-m", "hffs", *arguments],
            cwd=CHECKOUT, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip

    def expect(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> str:
        """Runs ``hffs ARGUMENTS``, which must succeed. Returns its standard output."""
        done = self.run(*arguments, timeout=timeout)
        assert done.returncode == 0, f"hffs {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


class Mounted:
    """One mount. ``path`` is its mountpoint, ``pid`` its daemon (0 before ``start``)."""

    def __init__(self, commands: Commands, path: Path) -> None:
        self.commands = commands
        self.path = path
        self.pid = 0
        self._supervisor: int | None = None
        self._started: int | None = None

    def start(self, repo: str, options: Sequence[str]) -> None:
        """Mounts through the command, and asserts that the mount answers when it returns."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.commands.expect("mount", repo, str(self.path), *options)
        assert self.is_mounted(), f"hffs mount ended with 0 and nothing is mounted at {self.path}"
        status = self.status()
        self.pid = int(status["pid"])
        self._supervisor = int(status["supervisor"]["pid"]) if status["supervisor"] else None
        self._started = process_start(self.pid)
        assert self.commands.binding in (status["binding"], "auto")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def status(self, timeout: float = COMMAND_SECONDS) -> dict[str, Any]:
        """Returns the daemon's status of this mount, or ``hffs status --json`` if the daemon does not answer."""
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16] + ".sock"
        connection = _Control(str(self.commands.runtime / name), timeout)
        try:
            connection.request("GET", "/v1/status")
            answer = connection.getresponse()
            found = json.loads(answer.read())
            assert answer.status == 200, found
        except (OSError, http.client.HTTPException):
            (found,) = json.loads(self.commands.expect("status", str(self.path), "--json", timeout=timeout))["mounts"]
        finally:
            connection.close()
        assert isinstance(found, dict)
        return found

    def post(self, name: str, timeout: float = COMMAND_SECONDS) -> dict[str, Any]:
        """Returns the daemon's answer to a POST without a body."""
        socket_name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16] + ".sock"
        with closing(_Control(str(self.commands.runtime / socket_name), timeout)) as connection:
            connection.request("POST", f"/v1/{name}")
            answer = connection.getresponse()
            found = json.loads(answer.read())
            assert answer.status == 200, found
        assert isinstance(found, dict)
        return found

    def unmount(self, *options: str) -> None:
        """Unmounts through the command, and asserts that mount and daemon have ended."""
        self.commands.expect("unmount", str(self.path), *options)
        assert not self.is_mounted(), f"hffs unmount ended with 0 and {self.path} is still mounted"
        assert eventually(lambda: not self.is_alive(), END_SECONDS), f"the daemon {self.pid} outlives its mount"

    def is_mounted(self) -> bool:
        return any(line.split()[4] == str(self.path) for line in mountinfo())

    def is_alive(self) -> bool:
        return self._started is not None and process_start(self.pid) == self._started

    def kill(self) -> None:
        """Kills daemon and supervisor, so that neither reacts to the end of the other."""
        for pid, number in (
            (self._supervisor, signal.SIGSTOP),
            (self.pid, signal.SIGKILL),
            (self._supervisor, signal.SIGKILL),
        ):
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def force_unmount(self) -> None:
        """Kills the daemon and detaches the mount. Does nothing where they have ended."""
        if self.is_alive():
            self.kill()
        if self.is_mounted():
            ctypes.CDLL(None).umount2(os.fsencode(self.path), _MNT_DETACH)

    def log(self) -> str:
        """Returns the logs of all daemons that used this runtime directory."""
        return "".join(file.read_text(errors="replace") for file in sorted(self.commands.runtime.glob("*.log")))

    def warnings_logged(self) -> list[str]:
        return [line for line in self.log().splitlines() if WARNING_LINE.search(line)]


class _Control(http.client.HTTPConnection):
    """A connection to the control socket: a status request costs no process."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("hffs", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def program(*command: str | Path, timeout: float = PROGRAM_SECONDS, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program, which must succeed. Returns its output."""
    done = subprocess.run(
        list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, **options
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done


def python(module: str, *arguments: str | Path | int) -> list[str]:
    """Returns the command that runs a module of this folder."""
    return [sys.executable, "-m", f"tests.mount.{module}", *map(str, arguments)]


def read(way: str, *arguments: str | Path | int, timeout: float = PROGRAM_SECONDS) -> None:
    """Runs a program of ``reading``, which must succeed."""
    program(*python("reading", way, *arguments), cwd=CHECKOUT, timeout=timeout)


def load(loader: str, *arguments: str | Path | int, timeout: float = PROGRAM_SECONDS) -> None:
    """Runs a loader of ``loading``, which must succeed. It runs offline: everything it reads comes from the mount."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    program(*python("loading", loader, *arguments), cwd=CHECKOUT, timeout=timeout, env={**os.environ, **quiet})


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Returns whether the condition becomes true in time. Polls: other processes do not announce their state."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.02)  # between two polls; the deadline is the bound
    return True


def forget_pages(path: Path) -> None:
    """Makes the kernel drop the file's pages, so that the next read reaches the file system."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def mountinfo() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def process_start(pid: int) -> int | None:
    """Returns the start time of a process, in ticks since boot (proc(5)); None if it has ended or is a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in (b"Z", b"X") else int(after_name[19])
