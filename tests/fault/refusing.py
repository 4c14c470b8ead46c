"""Commands that must fail: each prints one line with what happened and what to do, and leaves nothing behind.

``conftest`` makes a Refusals for a test. Nothing here imports hffs. Used by one thread.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.mount.mounted import COMMAND_SECONDS, Commands, eventually, mountinfo


class Refusals:
    """Runs commands that must fail, and checks that they leave nothing behind."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands

    def of(self, code: int, *arguments: str | Path, timeout: float = COMMAND_SECONDS, **environment: str) -> str:
        """Runs ``hffs ARGUMENTS``, which must exit with ``code``. Returns its error message without the ``hffs: ``.

        ``environment`` adds to the variables of the command.
        """
        before = dict(self.commands.environment)
        self.commands.environment.update(environment)
        try:
            done = self.commands.run(*map(str, arguments), timeout=timeout)
        finally:
            self.commands.environment = before
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}{done.stderr}"
        assert done.stdout == ""
        return error_line(done.stderr)

    def nothing_left(self) -> None:
        """Asserts that no daemon, socket, mount record or mount of this home exists."""
        home = str(self.commands.home)
        assert [line for line in mountinfo() if home in line] == []
        assert eventually(lambda: not self.daemons(), 10), [command for _, command in self.daemons()]
        runtime = self.commands.runtime
        assert sorted(path.name for path in runtime.glob("*") if path.suffix != ".log") == []

    def daemons(self) -> list[tuple[int, str]]:
        """Returns pids and command lines of the hffs processes that were started with this home."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
                environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "hffs" in command and f"HFFS_RUNTIME_DIR={self.commands.runtime}" in environment:
                found.append((int(pid), command))
        return found

    def statuses(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self.commands.expect("status", "--json"))["mounts"]
        return found


def error_line(stderr: str) -> str:
    """Returns the message of ``stderr``, which must be a single line without traceback or class names."""
    assert stderr.startswith("hffs: "), stderr
    assert stderr.count("\n") == 1, stderr
    assert stderr.endswith("\n"), stderr
    line = stderr.removeprefix("hffs: ").removesuffix("\n")
    print(line)  # shown when the test fails, and with -s
    for word in ("Traceback", "Error(", "internal error", "None", "errno", "Errno", "<class"):
        assert word not in line, line
    return line


def at(path: Path) -> list[str]:
    """Returns the lines of the mount table for this mountpoint, whatever characters its name has."""
    shown = str(path).replace("\\", "\\134").replace(" ", "\\040").replace("\n", "\\012").replace("#", "\\043")
    return [line for line in mountinfo() if line.split()[4] in (shown, shown.replace("\\043", "#"))]
