"""``hffs mount -f``: what systemd and containers run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import Hub

from .mounted import CHECKOUT, Commands, eventually, mountinfo, on_both_bindings


@on_both_bindings
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_mount_in_the_foreground_ends_well_when_it_is_told_to(
    hub: Hub, commands: Commands, tmp_path: Path, number: signal.Signals
) -> None:
    hub.add_repo("acme/tiny", files={"config.json": b"{}"})
    place = tmp_path / "mnt"
    place.mkdir()
    mount = subprocess.Popen(
        [sys.executable, "-m", "hffs", "mount", "--foreground", "acme/tiny", str(place)],
        cwd=CHECKOUT, env=commands.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert eventually((place / "config.json").exists, 30)
        mount.send_signal(number)
        _, reported = mount.communicate(timeout=30)
    finally:
        mount.kill()
        mount.communicate()
    assert mount.returncode in (0, 130), reported
    assert "hffs: " not in reported
    assert not any(line.split()[4] == str(place) for line in mountinfo())
    assert list(commands.runtime.glob("*.sock")) == list(commands.runtime.glob("*.json")) == []


@pytest.mark.kernel
def test_lines_for_the_journal_have_priorities_and_lines_for_programs_are_json(
    hub: Hub, commands: Commands, tmp_path: Path
) -> None:
    """Both processes of a mount find out that stderr is the journal, and keep to what was asked for."""
    hub.add_repo("acme/tiny", files={"config.json": b"{}"})
    place = tmp_path / "mnt"
    place.mkdir()
    with open(tmp_path / "journal", "w") as journal:
        found = os.fstat(journal.fileno())
        mount = subprocess.Popen(
            [sys.executable, "-m", "hffs", "mount", "-f", "--log-format", "json", "acme/tiny", str(place)],
            cwd=CHECKOUT, env={**commands.environment, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=journal,
        )  # fmt: skip
    try:
        assert eventually((place / "config.json").exists, 30)
        status = json.loads(commands.expect("status", str(place), "--json"))["mounts"][0]
        os.kill(status["pid"], signal.SIGKILL)  # for a line of the supervisor
        assert eventually(lambda: "resumed" in (tmp_path / "journal").read_text(), 30)
        mount.send_signal(signal.SIGTERM)
        mount.wait(30)
    finally:
        mount.kill()
        mount.wait(30)
    lines = (tmp_path / "journal").read_text().splitlines()
    reported = {json.loads(line[3:])["event"]: line[:3] for line in lines}
    assert reported["mounted"] == reported["resumed"] == reported["unmounted"] == "<6>"
    assert reported["worker-died"] == "<4>"
    assert not any("time" in json.loads(line[3:]) for line in lines)
