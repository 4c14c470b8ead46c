"""Machines that lack something: each message says what, and how to get it. A user other than root needs only fuse3.

Each test makes such a machine of a mount namespace of its own, which is gone with the command that ran in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub
from tests.mount.mounted import CHECKOUT, Commands

from .refusing import Refusals, error_line

UNPRIVILEGED_UID = 65534
# env: only with another exec behind the one of setpriv are root's capabilities gone.
UNPRIVILEGED = f"setpriv --reuid={UNPRIVILEGED_UID} --regid={UNPRIVILEGED_UID} --clear-groups env"
# A /dev that has what a Python needs, and no fuse.
NO_DEVICE = "mount -t tmpfs none $DEV; cp -a /dev/null /dev/zero /dev/random /dev/urandom $DEV; mount --bind $DEV /dev"
FREE_DEVICE = "mknod -m 666 $DEV/fuse c 10 229; mount --bind $DEV/fuse /dev/fuse"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT, NOT TESTED: makes machines of mount namespaces")


class Machine:
    """A mount namespace, and in it ``hffs`` as a shell function. ``place`` is an empty directory to mount at."""

    def __init__(self, commands: Commands, home: Path, python: str) -> None:
        self.commands = commands
        self.home = home
        self.place = home / "place"
        self.place.mkdir()
        (home / "dev").mkdir()
        self.python = python

    def run(self, before: str, script: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Root changes the machine (``before``), then the script runs, in which $M is ``place``."""
        environment = {
            **self.commands.environment,
            "HOME": str(self.home),
            "HF_HOME": str(self.home / "hf"),
            "HFFS_CACHE_DIR": str(self.home / "blocks"),
            "HFFS_RUNTIME_DIR": str(self.home / "run"),
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *(path for path in sys.path if "site-packages" in path)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DEV": str(self.home / "dev"),
            "M": str(self.place),
            **more,
        }
        whole = f"set -eu\nexport PYTHON='{self.python}'\n{before}\n{script}"
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", whole],
            cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90,
        )  # fmt: skip


MOUNT = '"$PYTHON" -m hffs mount acme/tiny "$M"'


@pytest.fixture(autouse=True)
def tiny(hub: Hub) -> None:
    hub.add_repo("acme/tiny", files={"config.json": b"{}"})


@pytest.fixture
def machine(commands: Commands, tmp_path: Path) -> Machine:
    return Machine(commands, tmp_path, sys.executable)


@pytest.fixture
def others_machine(commands: Commands) -> Iterator[Machine]:
    """A machine used by an unprivileged account, with a Python that this account may run."""
    home = Path(tempfile.mkdtemp(prefix="hffs-unprivileged-"))
    try:
        machine = Machine(commands, home, unprivileged_python())
        for path in (home, machine.place):
            os.chown(path, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
        yield machine
    finally:
        shutil.rmtree(home)


def unprivileged_python() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    tell = "import sys; print('%d.%d' % sys.version_info[:2])"
    for python in (sys.executable, f"/usr/bin/python{version}"):
        try:
            done = subprocess.run(
                [*UNPRIVILEGED.split(), python, "-c", tell], capture_output=True, text=True, timeout=20
            )
        except FileNotFoundError:
            pytest.skip("NO setpriv, NOT TESTED: mounting without root")
        if done.stdout.strip() == version:
            return python
    pytest.skip("NO PYTHON THAT AN UNPRIVILEGED USER MAY RUN, NOT TESTED: mounting without root")


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, f"{done.returncode}\n{done.stdout}{done.stderr}"
    return error_line(done.stderr)


@pytest.mark.usefixtures("nothing_left")
def test_without_the_device_the_line_says_how_to_get_it(hub: Hub, machine: Machine) -> None:
    line = refused(machine.run(NO_DEVICE, MOUNT))
    assert line.startswith("there is no /dev/fuse: modprobe fuse")
    assert "--device /dev/fuse" in line, "in a container it is not for the user to load a module"
    assert hub.journal.requests() == []


@pytest.mark.usefixtures("nothing_left")
def test_root_that_may_not_mount_is_told_how_to_start_its_container(machine: Machine) -> None:
    line = refused(machine.run("", f"exec setpriv --bounding-set -sys_admin {MOUNT}"))
    assert "may not mount" in line
    assert "--cap-add SYS_ADMIN" in line


@pytest.mark.usefixtures("nothing_left")
def test_without_libfuse_the_line_says_what_to_install(refusals: Refusals, place: Path) -> None:
    line = refusals.of(1, "mount", "acme/tiny", place, "--binding", "libfuse", FUSE_LIBRARY_PATH="/nope/libfuse.so")
    assert line == "libfuse cannot be loaded from /nope/libfuse.so: unset FUSE_LIBRARY_PATH, or apt-get install fuse3"


@pytest.mark.parametrize("binding", ["auto", "libfuse"])
def test_an_unprivileged_user_mounts_with_fusermount3(others_machine: Machine, binding: str) -> None:
    script = f"""
    {UNPRIVILEGED} sh -euc '
        {MOUNT} --binding {binding}
        cat "$M/config.json"
        "$PYTHON" -m hffs status "$M"
        "$PYTHON" -m hffs unmount "$M"
        ls -A "$M"
    '
    """
    done = others_machine.run(FREE_DEVICE, script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "{}" in done.stdout
    assert "serving" in done.stdout
    assert done.stdout.endswith("\n")
    left = [path.name for path in (others_machine.home / "run").iterdir() if path.suffix != ".log"]
    assert left == []


def test_without_permission_for_the_device_the_message_names_roots_command(others_machine: Machine) -> None:
    line = refused(others_machine.run(FREE_DEVICE.replace("666", "600"), f"exec {UNPRIVILEGED} {MOUNT}"))
    assert line.startswith("no permission to open /dev/fuse: chmod 666 /dev/fuse as root")


@pytest.mark.parametrize("binding", ["auto", "libfuse"])
def test_a_user_without_fusermount3_is_told_to_install_it(others_machine: Machine, binding: str) -> None:
    hidden = f"{FREE_DEVICE}; mount --bind /dev/null $(readlink -f $(command -v fusermount3))"
    line = refused(others_machine.run(hidden, f"exec {UNPRIVILEGED} {MOUNT} --binding {binding}"))
    assert "fusermount3" in line
    assert "apt-get install fuse3" in line


def test_a_mountpoint_of_another_user_is_refused_before_any_request(hub: Hub, others_machine: Machine) -> None:
    os.chown(others_machine.place, 0, 0)
    line = refused(others_machine.run(FREE_DEVICE, f"exec {UNPRIVILEGED} {MOUNT}"))
    assert line == f"no permission to mount at {others_machine.place}: name a directory that you may write to"
    assert hub.journal.requests() == []


def test_allow_other_that_is_not_allowed_says_where_it_is(others_machine: Machine) -> None:
    conf = "printf '' > $DEV/conf; mount --bind $DEV/conf /etc/fuse.conf"
    if not Path("/etc/fuse.conf").exists():
        pytest.skip("NO /etc/fuse.conf, NOT TESTED")
    line = refused(others_machine.run(f"{FREE_DEVICE}; {conf}", f"exec {UNPRIVILEGED} {MOUNT} --allow-other"))
    assert "user_allow_other" in line
    assert "/etc/fuse.conf" in line


@pytest.mark.usefixtures("nothing_left")
def test_the_doctor_says_what_is_missing_and_how_to_get_it(machine: Machine) -> None:
    done = machine.run(NO_DEVICE, '"$PYTHON" -m hffs doctor')
    assert done.returncode == 1, done.stdout + done.stderr
    assert "fail   fuse     there is no /dev/fuse\n" in done.stdout
    assert "→ modprobe fuse, or in a container give it --device /dev/fuse" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.usefixtures("nothing_left")
def test_the_doctor_mounts_for_a_user_too_and_says_what_only_root_gets(others_machine: Machine) -> None:
    done = others_machine.run(
        FREE_DEVICE, f'{UNPRIVILEGED} "$PYTHON" -m hffs doctor; grep -c hffs-doctor /proc/self/mountinfo'
    )
    output = done.stdout.splitlines()
    assert output[-1] == "0", "the trial mount is still there"
    assert any("a trial mount works" in line for line in output), done.stdout + done.stderr
    (no,) = [line for line in output if "no passthrough" in line]
    assert no.endswith("needs root (CAP_SYS_ADMIN)") or "this kernel has no passthrough" in no
