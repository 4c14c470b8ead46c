"""For every test: no warning logged, no thread or descriptor left behind, a private home, FUSE where it is needed."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest

from .support import caller, profile
from .support.last_resort import LastResort

profile.load()  # before any test is decorated


def pytest_configure(config: pytest.Config) -> None:
    caller.inherit_nothing()
    config.pluginmanager.register(LastResort(config), "last-resort")
    config.addinivalue_line("markers", "allow_warnings(*words): log records of WARNING and above are part of the test")
    config.addinivalue_line("markers", "allow_leaks: threads or descriptors may outlive the test (say why)")


def missing_fuse() -> str | None:
    """Why no FUSE mount can be tried here; None when it can."""
    if not os.path.exists("/dev/fuse"):
        return "/dev/fuse is missing"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be opened"
    if not (find_library("fuse3") or find_library("fuse")):
        return "libfuse is not installed"
    if os.geteuid() != 0 and not shutil.which("fusermount3"):
        return "fusermount3 is not installed"
    return None


@pytest.fixture(autouse=True)
def _fuse_where_needed(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("fuse") is None:
        return
    why = missing_fuse()
    if why and os.environ.get("HFFS_REQUIRE_FUSE"):
        pytest.fail(f"this test needs FUSE: {why}")
    if why:
        pytest.skip(f"NO FUSE, NOT TESTED: {why}")


@pytest.fixture(autouse=True)
def _clean_log(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A record of WARNING or above fails a test that did not announce it."""
    caplog.set_level(logging.INFO)
    yield
    if request.node.get_closest_marker("allow_warnings"):
        return
    found = [
        record for when in ("setup", "call") for record in caplog.get_records(when) if record.levelno >= logging.WARNING
    ]
    assert not found, [f"{record.name}: {record.getMessage()}" for record in found]


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads and descriptors opened by a test are gone after it (what a session fixture holds was there before)."""
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    if request.node.get_closest_marker("allow_leaks"):
        return
    ends = time.monotonic() + 5
    while True:  # a joined thread's stack and a closed socket's descriptor may take a moment to go
        left = [thread for thread in threading.enumerate() if thread not in threads]
        more = {number: what for number, what in _descriptors().items() if descriptors.get(number) != what}
        if not left and not more:
            return
        if time.monotonic() > ends:
            break
        gc.collect()
        time.sleep(0.02)  # not synchronisation: the bound is the deadline above
    assert not left, f"threads left: {[thread.name for thread in left]}"
    assert not more, f"descriptors left: {more}"


def _descriptors() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            what = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the listing's own descriptor
        if "/__pycache__/" not in what and not what.startswith(("/proc/", "/dev/")):
            found[number] = what
    return found


@pytest.fixture(autouse=True)
def _private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's token, caches or settings, and none reports to anybody."""
    for name in list(os.environ):
        if name.startswith(("HFFS_", "HF_", "HUGGING")) and name != "HFFS_REQUIRE_FUSE":
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
