"""The units as systemd reads them, what a mount namespace would hide, and the script that installs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hffs.cli import mount_helper

CHECKOUT = Path(__file__).parents[2]
UNITS = CHECKOUT / "systemd"
# systemd.exec(5): each of these gives the service a mount namespace of its own, whose mounts no other process sees.
NAMESPACED = {
    "PrivateMounts", "PrivateTmp", "PrivateDevices", "PrivateIPC", "PrivateUsers", "ProtectSystem", "ProtectHome",
    "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectProc",
    "ProcSubset", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "BindPaths",
    "BindReadOnlyPaths", "TemporaryFileSystem", "RootDirectory", "RootImage", "DynamicUser", "LogNamespace",
    "MountFlags", "MountImages", "ExtensionImages",
}  # fmt: skip

needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="NOT TESTED: no systemd-analyze here")
Install = Callable[..., subprocess.CompletedProcess[str]]


def options(unit: Path) -> set[str]:
    return {line.split("=")[0] for line in unit.read_text().splitlines() if "=" in line and line[0] != "#"}


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """The script, for a program that exists, below ``tmp_path/root``."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("hffs", "mount.hffs"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "DESTDIR": str(tmp_path / "root"), "HOME": "/home/alice"}
        environ.pop("XDG_CONFIG_HOME")
        command = [str(CHECKOUT / "scripts" / "install-systemd"), "--hffs", str(programs / "hffs"), *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done

    return run


def tree(root: Path) -> dict[str, str]:
    """What lies there: path to content, or to where a link leads."""
    found = [path for path in root.rglob("*") if path.is_symlink() or path.is_file()]
    return {
        f"/{path.relative_to(root)}": str(path.readlink()) if path.is_symlink() else path.read_text() for path in found
    }


@pytest.mark.parametrize("unit", ["hffs@.service", "user/hffs@.service"])
def test_no_option_hides_the_mount_from_everybody_else(unit: str) -> None:
    given = options(UNITS / unit)
    assert not given & NAMESPACED
    assert {"NotifyAccess", "WatchdogSec", "ExecReload", "ExecStop", "RuntimeDirectoryPreserve"} <= given
    if unit.startswith("user/"):  # fusermount3 is set-uid
        implied = {"SystemCallFilter", "SystemCallArchitectures", "RestrictAddressFamilies", "RestrictNamespaces"}
        implied |= {"LockPersonality", "RestrictRealtime", "RestrictSUIDSGID", "ProtectHostname", "NoNewPrivileges"}
        assert not given & implied


def test_it_installs_twice_alike_and_removes_all_of_it(install: Install, tmp_path: Path) -> None:
    root, program = tmp_path / "root", tmp_path / "bin" / "hffs"
    said = install().stdout
    first = tree(root)
    assert set(first) == {
        "/etc/systemd/system/hffs@.service", "/etc/systemd/system/hffs.slice", "/sbin/mount.hffs",
    }  # fmt: skip
    assert [f"{root}{path}" for path in first if path in said] == [f"{root}{path}" for path in first]
    assert first["/sbin/mount.hffs"] == f"{program.parent}/mount.hffs"
    ran = re.findall(r"^Exec\w+=-?(\S+)", first["/etc/systemd/system/hffs@.service"], re.MULTILINE)
    assert set(ran) == {str(program), "/bin/mkdir"}
    install()
    assert tree(root) == first
    install("--remove")
    assert tree(root) == {}
    install("--remove")


def test_it_installs_for_one_user_and_below_a_prefix(install: Install, tmp_path: Path) -> None:
    root = tmp_path / "root"
    install("--user")
    assert set(tree(root)) == {f"/home/alice/.config/systemd/user/{name}" for name in ("hffs@.service", "hffs.slice")}
    install("--user", "--remove")
    install("--prefix", "/usr")
    assert set(tree(root)) == {
        "/usr/lib/systemd/system/hffs@.service", "/usr/lib/systemd/system/hffs.slice", "/usr/sbin/mount.hffs",
    }  # fmt: skip


def test_files_not_installed_by_hffs_are_left_alone(install: Install, tmp_path: Path) -> None:
    theirs = tmp_path / "root" / "etc" / "systemd" / "system" / "hffs@.service"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("[Service]\n")
    assert "was not installed by this script" in install(code=1).stderr
    install("--remove")
    assert theirs.read_text() == "[Service]\n"
    assert list(theirs.parent.iterdir()) == [theirs]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--prefix"], 2, "--prefix needs a value"),
        (["--prefix", "usr"], 2, "is no whole path"),
        (["--wrong"], 2, "unknown option --wrong"),
        (["--hffs", "/nowhere/hffs"], 1, "/nowhere/hffs is no program"),
        (["--hffs", "b n/hffs"], 1, "systemd would not read the path"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    install: Install, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    (tmp_path / "b n").mkdir()
    shutil.copy(tmp_path / "bin" / "hffs", tmp_path / "b n")
    done = install(*words, code=code)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "root").exists()


@needs_analyze
@pytest.mark.parametrize("kind", ["system", "user"])
def test_systemd_reads_them_without_a_complaint(install: Install, tmp_path: Path, kind: str) -> None:
    install(*(["--user"] if kind == "user" else []), "--prefix", "/usr")
    units = tmp_path / "root" / "usr" / "lib" / "systemd" / kind
    (units / "hffs@mnt-model.service").symlink_to("hffs@.service")
    (tmp_path / "run").mkdir(0o700)
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run"), "LC_ALL": "C"}
    command = ["systemd-analyze", "verify", f"--{kind}", "--man=no", str(units / "hffs@mnt-model.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)
    ours = [line for line in done.stderr.splitlines() if "hffs" in line]
    assert (done.returncode, ours) == (0, [])


GENERATOR = Path("/lib/systemd/system-generators/systemd-fstab-generator")
FSTAB = r"""
acme/tiny@main /mnt/model hffs noauto,_netdev,x-systemd.automount,x-systemd.idle-timeout=10min,cache_size=50G 0 0
hf://datasets/acme/data /mnt/my\040data hffs _netdev,nofail,allow_other 0 0
"""


@pytest.mark.skipif(not GENERATOR.exists(), reason="NOT TESTED: no systemd-fstab-generator here")
def test_systemd_makes_units_of_lines_of_fstab(tmp_path: Path) -> None:
    (tmp_path / "fstab").write_text(FSTAB)
    folders = [tmp_path / name for name in ("normal", "early", "late")]
    for folder in folders:
        folder.mkdir()
    environ = {**os.environ, "SYSTEMD_FSTAB": str(tmp_path / "fstab")}
    subprocess.run([str(GENERATOR), *map(str, folders)], env=environ, check=True, capture_output=True, timeout=60)
    made = tree(folders[0])
    model, data = made["/mnt-model.mount"], made["/mnt-my\\x20data.mount"]
    assert {"What=acme/tiny@main", "Where=/mnt/model", "Type=hffs"} <= set(model.splitlines())
    assert {"What=hf://datasets/acme/data", "Where=/mnt/my data", "Type=hffs"} <= set(data.splitlines())
    assert "TimeoutIdleSec=10min" in made["/mnt-model.automount"]
    assert "/remote-fs.target.requires/mnt-model.automount" in made
    # What systemd passes on, mount.hffs understands.
    options = [re.search("^Options=(.*)$", unit, re.MULTILINE) for unit in (model, data)]
    parsed = [mount_helper.parse(found[1]).settings for found in options if found]
    assert parsed == [{"cache_size": 50 << 30}, {"allow_other": True}]
