"""A pseudo-terminal for a program under test: its output, key presses, resizes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Final

from .conftest import CHECKOUT

SECONDS: Final = 30.0  # for a program to write the expected output
# The controlling terminal of its session, so that Ctrl-C and a resize reach the program.
_START: Final = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from hffs.cli import main
sys.exit(main(sys.argv[1:]))
"""
CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program and its output so far."""

    def __init__(self, screen: IO[bytes], process: subprocess.Popen[bytes]) -> None:
        self._screen = screen
        self.process = process
        self.written = ""
        self._seen = 0

    def read(self, seconds: float) -> bool:
        """Reads more output; False: none came in time, or the terminal is closed."""
        if not select.select([self._screen], [], [], seconds)[0]:
            return False
        try:
            piece = self._screen.read(65536)
        except OSError:  # EIO: no process has the terminal open any more
            return False
        self.written += piece.decode()
        return bool(piece)

    def wait_for(self, pattern: str) -> str:
        """Waits for a match of ``pattern``; returns the output since the last wait, up to its end."""
        end = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.written[self._seen :], re.DOTALL)) is None:
            assert self.read(max(end - time.monotonic(), 0.0)), f"no {pattern!r} in {self.written[-3000:]!r}"
        text = self.written[self._seen : self._seen + found.end()]
        self._seen += found.end()
        return text

    def press(self, keys: bytes) -> None:
        self._screen.write(keys)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._screen, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def end(self) -> int:
        """Reads all output; returns the exit code."""
        while self.read(SECONDS):
            pass
        return self.process.wait(SECONDS)


@contextmanager
def on_a_terminal(*words: str, width: int = 80, height: int = 24, **environ: str) -> Iterator[Terminal]:
    """``hffs WORDS`` on a terminal of that size; killed if it does not end by itself."""
    controller, inside = pty.openpty()
    with open(controller, "r+b", buffering=0) as screen:
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        more = {**os.environ, "PYTHONPATH": CHECKOUT, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environ}
        streams: Any = {"stdin": inside, "stdout": inside, "stderr": inside}
        command = [sys.executable, "-c", _START, *words]
        with subprocess.Popen(command, env=more, start_new_session=True, **streams) as process:
            os.close(inside)
            try:
                yield Terminal(screen, process)
            finally:
                if process.poll() is None:
                    process.kill()
                with suppress(OSError):
                    while screen.read(65536):
                        pass
