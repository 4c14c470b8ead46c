"""What pytest-timeout leaves open: a test of hypothesis, and one stuck in a call that no signal interrupts.

pytest-timeout raises in the main thread, and so waits for a call into the kernel or into C to return. A read of a FUSE
mount whose daemon hangs never does: its connection is aborted, and the read fails. What is stuck even then ends its
process, with the stacks of all threads; pytest-xdist reports that test as failed and goes on in a new process.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

# After the test's own timeout. The first leaves a teardown the time of its longest wait, a command of 60 s.
ABORT_SECONDS = 75.0
EXIT_SECONDS = 90.0


class TimedOut(BaseException):
    """A test exceeded its timeout. Not pytest's ``Failed``, which hypothesis takes for a failing example, to shrink."""


class LastResort:
    """One thread for the session; a phase of a test arms it, its end disarms it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._ended = False
        self._stderr = os.dup(2)  # pytest's capture has not begun, or is suspended
        self._thread = threading.Thread(target=self._watch, name="last-resort", daemon=True)
        self._thread.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_timeout_set_timer(self):  # type: ignore[no-untyped-def]
        done = yield
        handler = signal.getsignal(signal.SIGALRM)
        if callable(handler):
            signal.signal(signal.SIGALRM, partial(_raise_timed_out, handler))
        return done

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item):  # type: ignore[no-untyped-def]
        self._arm(timeout_of(item))
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item):  # type: ignore[no-untyped-def]
        self._arm(0)  # the test's timeout may have passed already, and then bounds no teardown
        return (yield)

    def pytest_runtest_logfinish(self) -> None:
        self._arm(None)

    def pytest_unconfigure(self) -> None:
        self._arm(None)
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(1)
        os.close(self._stderr)

    def _arm(self, seconds: float | None) -> None:
        if seconds is None:
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(seconds + EXIT_SECONDS, exit=True, file=self._stderr)
        with self._changed:
            self._deadline = None if seconds is None else time.monotonic() + seconds + ABORT_SECONDS
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._ended:
                if self._deadline is None:
                    self._changed.wait()
                elif (left := self._deadline - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    self._deadline = None
                    self._abort()

    def _abort(self) -> None:
        below = str(self._config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]
        for connection in fuse_connections(below):
            try:
                Path(f"/sys/fs/fuse/connections/{connection}/abort").write_text("1")
            except OSError as error:
                os.write(self._stderr, f"connection {connection} is not aborted: {error}\n".encode())


def _raise_timed_out(handler: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None) -> None:
    try:
        handler(number, frame)
    except pytest.fail.Exception as error:
        raise TimedOut(str(error)) from None


def timeout_of(item: pytest.Item) -> float:
    """Seconds that pytest-timeout gives the test; 0: none."""
    marker = item.get_closest_marker("timeout")
    if marker is not None and (marker.args or "timeout" in marker.kwargs):
        return float(marker.args[0] if marker.args else marker.kwargs["timeout"])
    return float(item.config.getvalue("timeout") or item.config.getini("timeout") or 0)


def fuse_connections(below: str) -> list[int]:
    """Numbers of the connections of FUSE mounts below a folder."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        words = fields.split()
        if kind.startswith("fuse") and words[4].startswith(below + "/"):
            found.append(int(words[2].partition(":")[2]))
    return found
