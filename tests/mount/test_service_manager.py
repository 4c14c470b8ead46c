"""``hffs mount -f`` as a service: what systemd hears of a real mount, and what becomes of one whose daemon hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub

from .conftest import Mount
from .mounted import CHECKOUT, Commands, on_both_bindings

WATCHDOG_SECONDS = 10.0  # a quarter of it is for a look by a new process, on a busy machine as well


class Service:
    """A mount as a service of Type=notify, whose manager this is."""

    def __init__(self, commands: Commands, place: Path, *before: str) -> None:
        self.commands = commands
        self.place = place
        place.mkdir()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listening.bind(f"\0hffs-test-{os.getpid()}")
        self._listening.settimeout(60)
        variables = {"NOTIFY_SOCKET": f"@hffs-test-{os.getpid()}", "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "hffs", "mount", "-f", "acme/tiny", str(place)],
            cwd=CHECKOUT, env={**commands.environment, **variables}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def until(self, word: str) -> list[str]:
        """What is heard up to the first message that begins so."""
        messages: list[str] = []
        while not messages or not messages[-1].startswith(word):
            messages.append(self._listening.recv(4096).decode())
        return messages

    def silent(self) -> bool:
        """Whether nothing more comes while two signs of life are missed, and a supervisor that can would act; what is
        on its way is taken first."""
        self._listening.settimeout(0.6 * WATCHDOG_SECONDS)
        try:
            while self._listening.recv(4096).startswith(b"WATCHDOG"):
                pass
        except TimeoutError:
            return True
        finally:
            self._listening.settimeout(60)
        return False

    def status(self) -> dict[str, Any]:
        (found,) = json.loads(self.commands.expect("status", "--json"))["mounts"]
        assert isinstance(found, dict)
        return found

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self._listening.close()


@pytest.fixture
def service(hub: Hub, commands: Commands, tmp_path: Path) -> Iterator[Service]:
    hub.add_repo("acme/tiny", files={"config.json": b"{}"})
    made = Service(commands, tmp_path / "mnt")
    yield made
    try:
        if made.process.poll() is None:
            commands.run("unmount", "--lazy", str(made.place))
    finally:
        made.end()


@on_both_bindings
def test_systemd_hears_that_it_is_ready_what_it_does_that_it_lives_and_that_it_ends(hub: Hub, service: Service) -> None:
    assert service.until("READY=1") == ["READY=1"]
    assert (service.place / "config.json").read_bytes() == b"{}"
    commit = service.status()["commit"][:12]
    service.until(f"STATUS=serving: acme/tiny@main, commit {commit}")
    hub.stop()  # no answer of the Hub is needed to be alive
    service.until("WATCHDOG=1")
    service.until("WATCHDOG=1")
    service.process.send_signal(signal.SIGTERM)
    service.until("STOPPING=1")
    _, output = service.process.communicate(timeout=30)
    assert (service.process.returncode, "Traceback" in output) == (0, False)


@pytest.mark.kernel
def test_a_daemon_that_hangs_falls_silent_and_is_replaced_under_its_readers(service: Service) -> None:
    service.until("WATCHDOG=1")
    before = service.status()
    with open(service.place / "config.json", "rb") as file:
        os.kill(before["pid"], signal.SIGSTOP)
        messages = service.until("READY=1")
        assert "STATUS=restarting: the daemon died (signal=9)" in messages
        service.until("WATCHDOG=1")
        after = service.status()
        assert after["pid"] != before["pid"]
        assert after["supervisor"] == {**before["supervisor"], "restarts": 1}
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read() == b"{}"


@pytest.mark.kernel
def test_a_service_whose_supervisor_hangs_too_is_left_to_systemd(service: Service) -> None:
    service.until("WATCHDOG=1")
    status = service.status()
    os.kill(status["supervisor"]["pid"], signal.SIGSTOP)
    os.kill(status["pid"], signal.SIGSTOP)
    try:
        assert service.silent()
    finally:
        os.kill(status["pid"], signal.SIGCONT)  # before the supervisor, which would kill it at once
        os.kill(status["supervisor"]["pid"], signal.SIGCONT)
    service.until("WATCHDOG=1")


@pytest.mark.kernel
def test_a_restart_is_a_reload(service: Service) -> None:
    service.until("WATCHDOG=1")
    before = service.status()["pid"]
    service.commands.expect("restart", str(service.place))
    messages = service.until("RELOADING=1\nMONOTONIC_USEC=")
    assert not [word for word in messages if word.startswith(("READY", "STOPPING"))]
    service.until("READY=1")
    service.until("WATCHDOG=1")
    assert service.status()["pid"] != before


@pytest.mark.kernel
def test_a_version_that_cannot_start_is_noticed_before_the_old_one_leaves(
    hub: Hub, commands: Commands, mount: Mount, tmp_path: Path
) -> None:
    hub.add_repo("acme/tiny", files={"config.json": b"{}"})
    (tmp_path / "site").mkdir()
    commands.environment["PYTHONPATH"] = str(tmp_path / "site")
    mounted = mount("acme/tiny")
    (tmp_path / "site" / "diskcache.py").write_text("raise ImportError('broken by an upgrade')")
    done = commands.run("restart", str(mounted.path))
    assert done.returncode == 1
    assert done.stderr == (
        "hffs: the installed hffs cannot start (ImportError: broken by an upgrade):"
        " the running version continues to serve; repair the installation, then run hffs restart again\n"
    )
    assert mounted.status()["pid"] == mounted.pid
    assert (mounted.path / "config.json").read_bytes() == b"{}"
    (tmp_path / "site" / "diskcache.py").unlink()
    commands.expect("restart", str(mounted.path))
    assert mounted.status()["pid"] != mounted.pid


def unit() -> dict[str, str]:
    lines = (CHECKOUT / "systemd" / "hffs@.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="NOT TESTED: only root has them to lose")
def test_the_few_capabilities_that_the_unit_leaves_are_enough(hub: Hub, commands: Commands, tmp_path: Path) -> None:
    """To mount, to serve files by the kernel itself where it can, to be restarted and to unmount."""
    hub.add_repo("acme/tiny", files={"model.bin": os.urandom(300_000)})
    kept = [f"+{name.removeprefix('CAP_').lower()}" for name in unit()["CapabilityBoundingSet"].split()]
    limits = ["setpriv", f"--bounding-set=-all,{','.join(kept)}", "--no-new-privs"]
    home = tmp_path / "mnt"
    service = Service(commands, home, *limits)
    try:
        service.until("READY=1")
        status = Path(f"/proc/{service.status()['pid']}/status").read_text()
        assert f"CapEff:\t{1 << 21 | 1 << 2:016x}\n" in status  # capability.h: SYS_ADMIN 21, DAC_READ_SEARCH 2
        commands.expect("hydrate", str(home))
        with open(home / "model.bin", "rb") as file:
            assert len(file.read()) == 300_000
            (opened,) = service.status()["open_files"]
            assert opened["served"] == expected_service(), opened["why"]
        for words in (["restart", str(home)], ["unmount", str(home)]):
            command = [*limits, sys.executable, "-m", "hffs", *words]
            done = subprocess.run(command, cwd=CHECKOUT, env=commands.environment, capture_output=True, timeout=60)
            assert done.returncode == 0, done.stderr
        assert service.process.wait(30) == 0
    finally:
        commands.run("unmount", "--lazy", str(home))
        service.end()


def expected_service() -> str:
    """How a file that is wholly here is read on this kernel (passthrough: Linux 6.9)."""
    numbers = [int(part) for part in os.uname().release.split("-")[0].split(".")[:2]]
    return "passthrough" if numbers >= [6, 9] else "kernel-cache"
