"""Whether this machine can mount: the device, permission to use it, and the kernel's features, by a trial mount."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from typing import Final

from ...config import Settings
from ...errors import HffsError
from ...fuse import probe
from ...system import mount_table, mountpoint
from .finding import Area, DoctorFinding

FUSE_CONF: Final = "/etc/fuse.conf"
_AREA: Final = Area("fuse")


def check(settings: Settings) -> Iterator[DoctorFinding]:
    yield _AREA.ok(f"Linux {os.uname().release}")
    try:
        mountpoint.check_fuse()
    except HffsError as error:
        yield _AREA.fail(error.what, error.remedy)
        return
    yield _AREA.ok(f"{mountpoint.DEVICE} can be opened")
    yield _helper()
    yield _others(settings)
    yield from _trial(settings)


def _helper() -> DoctorFinding:
    path = shutil.which("fusermount3")
    if path is None:  # as root only: check_fuse refuses otherwise
        return _AREA.ok("fusermount3 is not installed; root does not need it")
    found = os.stat(path)
    if os.geteuid() != 0 and not (found.st_mode & stat.S_ISUID and found.st_uid == 0):
        return _AREA.warn(f"{path} is not setuid root", f"chown root {path} && chmod u+s {path}, as root")
    return _AREA.ok(f"{path} is installed")


def _others(settings: Settings, conf: str = FUSE_CONF) -> DoctorFinding:
    if os.geteuid() == 0:
        return _AREA.ok("--allow-other works: it is always granted to root")
    if allows_other(conf):
        return _AREA.ok(f"user_allow_other is set in {conf}: --allow-other works")
    remedy = f"echo user_allow_other | sudo tee -a {conf}"
    if settings.allow_other:
        return _AREA.fail(f"allow_other is set, but user_allow_other is not in {conf}", remedy)
    return _AREA.ok(f"user_allow_other is not in {conf}: --allow-other is for root only")


def allows_other(conf: str) -> bool:
    """Whether fusermount3 grants allow_other to every user (fuse.conf(5))."""
    try:
        with open(conf, encoding="utf-8", errors="replace") as file:
            return any(line.split("#")[0].strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def _trial(settings: Settings) -> Iterator[DoctorFinding]:
    """Mounts an empty file system at a temporary folder, asks the kernel for its features, and unmounts it."""
    folder = tempfile.mkdtemp(prefix="hffs-doctor-")
    try:
        with tempfile.TemporaryFile(dir=_nearest(settings.cache_dir)) as backing:
            backing.write(bytes(4096))
            backing.flush()
            offer = probe(os.path.realpath(folder), backing.fileno())
    except HffsError as error:
        yield _AREA.fail(f"a trial mount failed: {error.what}", error.remedy)
        return
    finally:
        if os.path.realpath(folder) in mount_table.table():
            mount_table.detach(os.path.realpath(folder), lazy=True)
        os.rmdir(folder)
    yield _AREA.ok(f"a trial mount works; the kernel speaks FUSE {offer.major}.{offer.minor}")
    if offer.passthrough:
        yield _AREA.ok("passthrough works: verified local files are read at disk speed")
    else:
        yield _AREA.warn(f"no passthrough: {offer.refused}", "local files are read through the daemon")


def _nearest(path: str) -> str | None:
    """The folder itself, or the first existing one above it, if it may be written to; else None: the default for
    temporary files."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    return path if os.access(path, os.W_OK | os.X_OK) else None
