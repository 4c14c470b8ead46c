"""``hffs mount -f``: what systemd and containers run."""

from __future__ import annotations

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
        _, told = mount.communicate(timeout=30)
    finally:
        mount.kill()
        mount.communicate()
    assert mount.returncode in (0, 130), told
    assert "hffs: " not in told
    assert not any(line.split()[4] == str(place) for line in mountinfo())
    assert list(commands.runtime.glob("*.sock")) == list(commands.runtime.glob("*.json")) == []
