"""``mount -t hffs``, lines of /etc/fstab and ``umount``, by the real mount(8) with our helper in its place.

/sbin is covered for the test's processes only: they have a mount namespace of their own, whose mounts vanish with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub import Hub

from .mounted import CHECKOUT, Commands

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: mount(8) mounts for root only"),
]

# Covers the folder of helpers by one that has ours as well; then does what the test wants.
SETUP = """
set -eu
mount --make-rprivate /
helpers=$(readlink -f /sbin)
mkdir "$HOME/over" && mount -t tmpfs tmpfs "$HOME/over" && mkdir "$HOME/over/upper" "$HOME/over/work"
mount -t overlay overlay -o "lowerdir=$helpers,upperdir=$HOME/over/upper,workdir=$HOME/over/work" "$helpers"
printf '#!/bin/sh\\nPYTHONPATH=%s exec %s -m hffs.cli.mount_helper "$@"\\n' "$CHECKOUT" "$PYTHON" >/sbin/mount.hffs
chmod 755 /sbin/mount.hffs
code() { if "$@"; then echo 0; else echo $?; fi; }
gone() { for _ in $(seq 500); do if ! hffs status --json | grep -q '"pid"'; then return; fi; sleep 0.02; done; exit 9; }
hffs() { "$PYTHON" -m hffs "$@"; }
cd "$CHECKOUT"
"""

Machine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def machine(hub: Hub, commands: Commands, tmp_path: Path) -> Machine:
    """``machine(SCRIPT)`` runs it where mount(8) finds our helper; ``$MNT`` is an empty directory. What it printed."""
    hub.add_repo("acme/tiny", files={"config.json": b"{}", "a b.txt": b"text"})
    (tmp_path / "mnt").mkdir()
    environ = {
        **commands.environment,
        "CHECKOUT": str(CHECKOUT),
        "PYTHON": sys.executable,
        "MNT": str(tmp_path / "mnt"),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "bash",
            "-c",
            SETUP + script,
        ]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return done

    return run


def test_mount_and_umount_with_the_systems_own_commands(machine: Machine) -> None:
    done = machine("""
        mount -t hffs acme/tiny@main "$MNT" -o prefetch=none,cache_size=50M
        cat "$MNT/config.json"; echo
        findmnt -n -o SOURCE,FSTYPE,OPTIONS "$MNT"
        df --output=source "$MNT" | tail -1
        hffs status --json
        umount "$MNT"
        gone
        hffs status
    """)
    lines = done.stdout.splitlines()
    source, kind, options = lines[1].split()
    assert (lines[0], source, kind, lines[2]) == ("{}", "acme/tiny@main", "fuse.hffs", "acme/tiny@main")
    assert {"ro", "nosuid", "nodev"} <= set(options.split(","))
    assert lines[-1] == "no mounts"
    (status,) = json.loads("\n".join(lines[3:-1]))["mounts"]
    assert (status["state"], status["repo"], status["cache"]["limit"]) == ("serving", "acme/tiny", 50 << 20)


def test_lines_of_fstab(machine: Machine) -> None:
    done = machine(r"""
        mkdir "$MNT/a" "$MNT/b c"
        cat >"$HOME/fstab" <<END
acme/tiny $MNT/a hffs ro,noauto,user,_netdev,nofail,x-systemd.automount,include=*.json 0 0
hf://acme/tiny@main $MNT/b\040c hffs defaults,_netdev,x-systemd.idle-timeout=60 0 0
END
        mount -T "$HOME/fstab" "$MNT/a"
        ls "$MNT/a"
        mount -T "$HOME/fstab" -a
        ls "$MNT/b c"
        findmnt -n -o OPTIONS "$MNT/a" | tr , '\n' | grep exec
        code mount -T "$HOME/fstab" -a
        hffs status | grep -c serving
        umount "$MNT/a" "$MNT/b c"
        gone
    """)
    assert done.stdout.split("\n") == ["config.json", "a b.txt", "config.json", "noexec", "0", "2", ""]


def test_what_does_not_work_is_told_and_has_the_exit_codes_of_mount(machine: Machine) -> None:
    done = machine("""
        code mount -t hffs acme/tiny "$MNT" -o cachesize=5G
        code mount -t hffs acme/absent "$MNT"
        code mount -t hffs acme/tiny "$MNT/nowhere"
        code mount -f -t hffs acme/tiny "$MNT"
        code mount -s -t hffs acme/tiny "$MNT" -o zzz
        code mount -t hffs acme/tiny "$MNT"
        code mount -t hffs -o remount,cache_size=1G acme/tiny "$MNT"
        umount "$MNT"
        gone
    """)
    assert done.stdout.split() == ["1", "32", "32", "0", "0", "32", "1"]
    reported = done.stderr
    assert "mount.hffs: unknown option cachesize: did you mean cache_size?\n" in reported
    assert "acme/absent" in reported
    assert "is already the mount of acme/tiny" in reported
    assert "Traceback" not in reported


def test_another_mount_namespace(machine: Machine) -> None:
    done = machine("""
        unshare --mount sleep 60 & other=$!
        for _ in $(seq 500); do
            [ "$(readlink /proc/$other/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ] && break
            sleep 0.01
        done
        mount -N $other -t hffs acme/tiny "$MNT"
        ls "$MNT"; echo -
        nsenter -t $other -m ls "$MNT"
        nsenter -t $other -m umount "$MNT"
        gone
        kill $other
    """)
    assert done.stdout.split("\n") == ["-", "a b.txt", "config.json", ""]


# A direct automount as systemd makes one: other processes that look into it wait until something is mounted there.
AUTOMOUNT = """
import ctypes, os, subprocess, sys
where, command = sys.argv[1], sys.argv[2:]
os.setpgid(0, 0)  # the one that may look: systemd's
asked, told = os.pipe()
options = f"fd={told},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
if ctypes.CDLL(None).mount(b"systemd-1", where.encode(), b"autofs", 0, options.encode()):
    sys.exit("autofs is not to be had")
sys.exit(subprocess.run(command, start_new_session=True, timeout=40).returncode)
"""


@pytest.mark.skipif("autofs" not in Path("/proc/filesystems").read_text(), reason="NOT TESTED: no autofs here")
def test_an_automount_that_waits_at_the_mountpoint_is_not_looked_into(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "automount.py").write_text(AUTOMOUNT)
    done = machine("""
        "$PYTHON" "$HOME/automount.py" "$MNT" mount -t hffs acme/tiny "$MNT"
        findmnt -n -o FSTYPE "$MNT"
        cat "$MNT/config.json"
        umount "$MNT"
        gone
        umount "$MNT"
    """)
    assert done.stdout.split() == ["autofs", "fuse.hffs", "{}"]
