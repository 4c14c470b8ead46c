"""Fixtures for tests of the daemon's interface: a runtime directory, leak checks, a mount namespace of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hffs.config import Settings
from hffs.control.messages import MountRecord


@pytest.fixture(autouse=True)
def _no_child_stays() -> Iterator[None]:
    """A daemon is no child of the caller: it is neither a zombie nor returned by the caller's os.wait()."""
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def runtime() -> Iterator[str]:
    """A runtime directory whose path is short enough for a unix socket (108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="hffs-t-", dir="/tmp") as directory:
        yield f"{directory}/run"


@pytest.fixture
def settings(runtime: str, tmp_path: Path) -> Settings:
    return Settings(runtime_dir=runtime, cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def record() -> MountRecord:
    return {
        "mountpoint": "/mnt/model",
        "repo": "acme/tiny",
        "type": "model",
        "revision": "main",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "pid": os.getpid(),
        "started_at": 1_700_000_000.0,
    }


_PROLOGUE = """
import atexit, ctypes, errno, os, signal, sys, tempfile
from hffs import errors
from hffs.control import messages
from hffs.api import mounts
from hffs.system import mount_table, mountpoint
from hffs.control import mount_records

work = tempfile.mkdtemp(dir="/tmp")
ctypes.CDLL(None).mount(b"none", work.encode(), b"tmpfs", 0, None)
run, where = work + "/run", work + "/mnt"
os.mkdir(where)

def fuse(path, kind="fuse.hffs"):
    "Mounts a FUSE file system that no daemon serves; with its descriptor closed it is dead."
    fd = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
    assert ctypes.CDLL(None).mount(b"hffs:acme/tiny", path.encode(), kind.encode(), 0, data) == 0
    return fd

def record(pid=os.getpid(), path=where):
    stored = {"mountpoint": path, "repo": "acme/tiny", "type": "model", "revision": "main",
              "commit": "0" * 40, "pid": pid, "started_at": 1.0}
    return mount_records.write(run, stored)

def dead_record():
    child = os.fork()
    if not child:
        os.read(gate[0], 1)
        os._exit(0)
    stored = record(child)
    os.write(gate[1], b"x")
    os.waitpid(child, 0)
    return stored

gate = os.pipe()

def kill(stored):
    "All processes of a mount, the one that would start the other again first."
    if mount_records.supervised(stored):
        os.kill(stored["supervisor"]["pid"], signal.SIGKILL)
    if mount_records.served(stored):
        os.kill(stored["pid"], signal.SIGKILL)

@atexit.register
def end():
    "A daemon left behind by a failing test would keep this namespace and its mounts alive."
    for stored in mount_records.every(run):
        if stored["pid"] != os.getpid():
            kill(stored)

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
"""


@pytest.fixture
def in_namespace() -> Callable[..., None]:
    """Runs Python code as root in a mount namespace of its own, with more variables in its environment. Its mounts
    vanish with it; it fails by its exit status, and a warning is an error."""
    check = "import os; os.close(os.open('/dev/fuse', os.O_RDWR))"
    probe = subprocess.run(["unshare", "-m", sys.executable, "-c", check], capture_output=True)
    if os.geteuid() or probe.returncode:
        if os.environ.get("HFFS_REQUIRE_FUSE") == "1":
            pytest.fail("FUSE is required (HFFS_REQUIRE_FUSE=1) but cannot be mounted here")
        pytest.skip("needs root, /dev/fuse and mount namespaces")

    def run(code: str, **environ: str) -> None:
        python = [sys.executable, "-W", "error", "-c", _PROLOGUE + code]
        command = ["timeout", "-k", "5", "60", "unshare", "-m", *python]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environ})
        assert done.returncode == 0, done.stderr

    return run
