"""Secrets in other processes: a daemon gets them by pipe, a helper gets none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hffs import config
from hffs.config import Settings
from hffs.daemon import launcher
from hffs.daemon.mount_spec import MountSpec
from hffs.errors import HffsError
from hffs.fuse.kernel import mount_syscall
from hffs.fuse.kernel.invalidation import drop_pages
from hffs.system import mount_table

SECRET = "hf_recognisable"
DUMP = "#!/bin/sh\n/usr/bin/env > {seen}\nexit 1\n"


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a program, which replaces every helper, writes its environment."""
    for name in config.SECRETS:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    tools, found = tmp_path / "tools", tmp_path / "seen"
    tools.mkdir()
    for name in ("fusermount3", "python"):
        (tools / name).write_text(DUMP.format(seen=found))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(tools / "python"))
    return found


def environment(seen: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in seen.read_text().splitlines())


def test_a_probe_of_a_mountpoint_gets_no_secret(seen: Path, tmp_path: Path) -> None:
    assert mount_table.probe(str(tmp_path)) == 1
    assert "PATH" in environment(seen)
    assert SECRET not in seen.read_text()


def test_fusermount_gets_no_secret_to_unmount(seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HffsError):
        mount_table.detach(str(tmp_path))
    assert environment(seen)["LC_ALL"] == "C"
    assert SECRET not in seen.read_text()


def test_fusermount_gets_no_secret_to_mount(seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HffsError, match="could not mount"):
        mount_syscall.mount(str(tmp_path), device_name="hffs", allow_other=False)
    assert environment(seen)["_FUSE_COMMFD"].isdigit()
    assert SECRET not in seen.read_text()


@pytest.mark.allow_warnings  # the replaced helper fails
def test_the_helper_that_drops_pages_gets_no_secret(seen: Path) -> None:
    with open(os.devnull, "wb") as device:
        assert not drop_pages(device.fileno(), 1)
    assert SECRET not in seen.read_text()


def test_a_daemon_gets_its_secrets_on_its_pipe_only(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in config.SECRETS:
        monkeypatch.setenv(name, SECRET)
    seen = tmp_path / "seen"
    script = (
        "import json, os, sys\n"
        "given = json.load(sys.stdin)\n"
        f"shown = open('/proc/self/environ').read() + open('/proc/self/cmdline').read()\n"
        f"json.dump([given['secrets'], shown], open({str(seen)!r}, 'w'))\n"
        "os.write(given['report_fd'], b'{\"error\": \"enough\"}\\n')\n"
    )
    spec = MountSpec("acme/tiny", f"{tmp_path}/mnt", settings)
    with pytest.raises(launcher.LaunchFailure):
        launcher.start_daemon(spec, [sys.executable, "-c", script], 20.0)
    secrets, shown = json.loads(seen.read_text())
    assert secrets == dict.fromkeys(config.SECRETS, SECRET)
    assert "PATH=" in shown
    assert SECRET not in shown
    assert SECRET not in spec.to_json()


def test_only_secrets_are_put_into_the_environment_of_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "old")
    config.keep_secrets({"HF_TOKEN": SECRET, "PATH": "/evil"})
    assert os.environ["HF_TOKEN"] == SECRET
    assert os.environ["PATH"] != "/evil"
    assert config.token_variable() == "HF_TOKEN"
    inherited = subprocess.run(["/usr/bin/env"], capture_output=True, text=True, check=True).stdout
    assert "PATH=" in inherited
    assert SECRET not in inherited
