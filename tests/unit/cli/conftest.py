"""Fixtures of the command line's tests: a runtime directory, control sockets of mounts, the command as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hffs.api import mounts
from hffs.control import mount_records
from hffs.control.messages import FileBlockMap, FileStatus, MountRecord, Status, socket_path
from hffs.control.server import ControlServer, Request
from hffs.errors import NotFound

CHECKOUT = str(Path(__file__).parents[3])
Daemon = Callable[..., Status]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A runtime directory with a path short enough for a socket, set in the environment of the command."""
    with tempfile.TemporaryDirectory(prefix="hffs-t-", dir="/tmp") as directory:
        monkeypatch.setenv("HFFS_RUNTIME_DIR", f"{directory}/run")
        yield f"{directory}/run"


@pytest.fixture
def daemon(runtime: str) -> Iterator[Daemon]:
    """``daemon(mountpoint, files=…, **status)``: a control socket that answers with that status, and its record."""
    with ExitStack() as stack:

        def start(
            mountpoint: str = "/mnt/model",
            files: tuple[FileStatus, ...] = (),
            blocks: FileBlockMap | None = None,
            **more: Any,
        ) -> Status:
            record: MountRecord = {
                "mountpoint": mountpoint,
                "repo": "acme/tiny",
                "type": "model",
                "revision": "main",
                "commit": "0123456789abcdef0123456789abcdef01234567",
                "pid": os.getpid(),
                "started_at": 1_700_000_000.0,
            }
            made: Any = {
                **mounts.placeholder_status(record, "serving", "", runtime),
                "binding": "libfuse",
                "endpoint": "https://hub.example",
                "uptime_s": 12.5,
                "listing": "complete",
                "files": 12,
                "bytes_total": 548_105_171,
                "bytes_local": 1_048_576,
                "bytes_fetched": 1_048_576,
                "requests": 3,
                "workers": {"active": 2, "limit": 8, "bytes_per_s": 3_000_000, "why": "", "list": []},
                "cache": {"dir": "/var/cache/hffs", "bytes": 1_048_576, "limit": None, "disk_free": 20 * 2**30},
                "last_errors": [],
                "read_ahead": {"kb": 1024, "command": ""},
                "log": "",
                **more,
            }

            def listed(request: Request) -> Any:
                return {"path": request.query["path"], "complete": True, "files": list(files)}

            def limited(request: Request) -> Any:
                made["bandwidth"] = {"limit": request.json()["bytes_per_s"]}
                return {}

            def mapped(request: Request) -> Any:
                file = request.path.removeprefix("/v1/files/").removesuffix("/blocks")
                if blocks is None or file != blocks["path"]:
                    raise NotFound(f"{file} is not in this mount")
                return blocks

            routes = {("GET", "/v1/status"): lambda _: made, ("GET", "/v1/files"): listed}
            routes |= {("POST", "/v1/bandwidth"): limited}
            if blocks is not None:
                routes |= {("GET", f"/v1/files/{name}/blocks"): mapped for name in (blocks["path"], "missing")}
            server = ControlServer(socket_path(runtime, mountpoint), routes)
            server.start()
            stack.callback(server.stop)
            mount_records.write(runtime, {**record, **{key: made[key] for key in record if key in made}})  # type: ignore[typeddict-item]
            return made  # type: ignore[no-any-return]

        yield start


@pytest.fixture
def hffs(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command as a process of its own, in a directory of its own, with warnings as errors."""

    def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "hffs", *words]
        environ = {**os.environ, "PYTHONPATH": CHECKOUT}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environ, **more)

    return run
