"""Checks of a mountpoint before anything is started: one message for each way it can be unusable.

Called by the Python API before a mount. Its only side effect: a dead mount of this user that still covers the
mountpoint is unmounted. Never accesses a FUSE file system that may not answer. Functions only, any thread.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat

from ..control import mount_records
from ..errors import MountFailed, NotFound, UsageError
from . import mount_table

DEVICE = "/dev/fuse"
# A systemd automount waits for a mount on top of it. Accessing it here would deadlock.
_AUTOMOUNT = "autofs"
_CAP_SYS_ADMIN = 1 << 21  # capabilities(7); the bit of /proc/self/status, CapEff


def check(path: str, runtime_dir: str, device: str = DEVICE) -> str:
    """Returns the real absolute path of an empty directory that this process may mount on.

    Raises UsageError (no path at all), NotFound (missing) or MountFailed (any other obstacle).
    """
    if not path.strip() or "\0" in path:
        raise UsageError("the mountpoint is empty", "name an empty directory")
    mounted = mount_table.table()
    real, inside = mount_table.locate(path, mounted)
    if inside is not None and inside.mountpoint != real:
        _refuse_inside(real, inside, runtime_dir)
    elif real in mounted and mounted[real].type != _AUTOMOUNT:
        _clear_or_refuse(mounted[real], runtime_dir)
    waiting = mount_table.table().get(real)
    if waiting is None or waiting.type != _AUTOMOUNT:
        _empty_directory(real)
    record = mount_records.read(runtime_dir, real)
    if record is not None and mount_records.alive(record):
        raise MountFailed(
            f"process {record['pid']} serves {record['repo']} at {real}, though it is not mounted here",
            "it is starting, is ending with its last user (unmount --lazy), or is in another mount namespace",
        )
    if record is not None:
        mount_records.remove(runtime_dir, real)
    check_fuse(device)
    return real


def _refuse_inside(real: str, outer: mount_table.Mounted, runtime_dir: str) -> None:
    """Refuses a mountpoint inside an hffs mount, or inside another FUSE mount that does not answer."""
    if outer.is_hffs:
        record = mount_records.read(runtime_dir, outer.mountpoint)
        repo = f" of {record['repo']}" if record else ""
        raise MountFailed(f"{real} is inside the mount{repo} at {outer.mountpoint}", "name a directory outside of it")
    code = mount_table.probe(outer.mountpoint)
    if code:
        raise MountFailed(
            f"{real} is in the {outer.type} file system at {outer.mountpoint}, which does not answer"
            f" ({os.strerror(code)})",
            "name a directory on a local disk",
        )


def _clear_or_refuse(there: mount_table.Mounted, runtime_dir: str) -> None:
    path = there.mountpoint
    if path == "/":
        raise UsageError("/ cannot be a mountpoint", "name an empty directory")
    record = mount_records.read(runtime_dir, path) if there.is_hffs else None
    if record is not None and not mount_records.alive(record):
        mount_table.detach(path, lazy=True)
        mount_records.remove(runtime_dir, path)
        return
    if record is not None:
        raise MountFailed(f"{path} is already the mount of {record['repo']}", f"hffs unmount {path}")
    remedy = f"hffs unmount {path}, or fusermount3 -u {path}" if there.is_hffs else f"fusermount3 -u {path}"
    if there.is_fuse and mount_table.probe(path) == errno.ENOTCONN:
        raise MountFailed(f"{path} is a dead {there.type} mount", remedy)
    if there.is_hffs:  # of another user, or with another runtime directory
        raise MountFailed(f"{path} is already the mount of {there.source}", remedy)
    raise MountFailed(f"{path} is already a mount ({there.type})", "name another directory, or unmount it")


def _empty_directory(path: str) -> None:
    try:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise MountFailed(f"{path} is not a directory", "name an empty directory")
        with os.scandir(path) as inside:
            if next(inside, None) is not None:
                raise MountFailed(f"{path} is not empty", "name an empty directory")
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist", f"mkdir -p {path}") from None
    except OSError as wrong:
        raise MountFailed(
            f"{path} cannot be used ({wrong.strerror})", "name a directory that belongs to you"
        ) from wrong
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        raise MountFailed(f"no permission to mount at {path}", "name a directory that you may write to")


def check_fuse(device: str = DEVICE) -> None:
    """Raises MountFailed, with the missing piece and how to get it, if this process cannot mount at all."""
    container = "in a container give it --device /dev/fuse --cap-add SYS_ADMIN"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise MountFailed(f"there is no {device}", f"modprobe fuse, or {container}") from None
    except PermissionError:
        raise MountFailed(f"no permission to open {device}", f"chmod 666 {device} as root, or {container}") from None
    except OSError as wrong:
        raise MountFailed(f"{device} does not work ({wrong.strerror})", f"modprobe fuse, or {container}") from wrong
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise MountFailed("fusermount3 is not installed, and only root can mount without it", "apt-get install fuse3")
    if os.geteuid() == 0 and not _may_mount():
        raise MountFailed("this container may not mount", "start it with --device /dev/fuse --cap-add SYS_ADMIN")


def _may_mount(status: str = "/proc/self/status") -> bool:
    with open(status, encoding="ascii", errors="replace") as file:
        effective = next((line.split()[1] for line in file if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) & _CAP_SYS_ADMIN)
