"""Mounting: a mounted /dev/fuse descriptor by mount(2) as root, through fusermount3 otherwise.

Called once, before the binding serves. Reads nothing from the descriptor and does not access the mountpoint.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import subprocess
from typing import Final

from ...config import helper_environ
from ...errors import MountFailed

# sys/mount.h
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4

DEVICE: Final = "/dev/fuse"
FUSERMOUNT_SECONDS: Final = 20.0


def mount(mountpoint: str, *, device_name: str, allow_other: bool) -> int:
    """Mounts read-only at ``mountpoint`` and returns the descriptor that receives its requests. Raises MountFailed."""
    if os.geteuid() == 0:
        return _mount_as_root(mountpoint, device_name, allow_other)
    return _mount_by_helper(mountpoint, device_name, allow_other)


def _mount_as_root(mountpoint: str, device_name: str, allow_other: bool) -> int:
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountFailed(
            f"{DEVICE} cannot be opened: {error.strerror}", "modprobe fuse; in a container: --device /dev/fuse"
        ) from error
    options = f"fd={fd},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},default_permissions"
    if allow_other:
        options += ",allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.mount(
        device_name.encode(),
        os.fsencode(mountpoint),
        b"fuse.hffs",
        ctypes.c_ulong(MS_RDONLY | MS_NOSUID | MS_NODEV),
        options.encode(),
    )
    if failed:
        number = ctypes.get_errno()
        os.close(fd)
        remedy = "in a container: --cap-add SYS_ADMIN" if number in {errno.EPERM, errno.EACCES} else "see dmesg"
        raise MountFailed(f"the kernel refused to mount at {mountpoint}: {os.strerror(number)}", remedy)
    return fd


def _mount_by_helper(mountpoint: str, device_name: str, allow_other: bool) -> int:
    """Lets fusermount3 (setuid) mount; it sends the descriptor over the socket named in _FUSE_COMMFD."""
    helper = shutil.which("fusermount3")
    if helper is None:
        raise MountFailed("fusermount3 is not installed, and only root can mount without it", "apt-get install fuse3")
    options = f"ro,nosuid,nodev,default_permissions,fsname={_escaped(device_name)},subtype=hffs"
    if allow_other:
        options += ",allow_other"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.settimeout(FUSERMOUNT_SECONDS)
        try:
            done = subprocess.run(
                [helper, "-o", options, "--", mountpoint],
                env=helper_environ(_FUSE_COMMFD=str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=FUSERMOUNT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MountFailed(f"fusermount3 did not finish within {FUSERMOUNT_SECONDS:.0f} s") from None
        if done.returncode:
            raise _refused(mountpoint, done.stderr.decode(errors="replace"))
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise MountFailed(f"fusermount3 mounted {mountpoint} but sent no descriptor", f"fusermount3 -u {mountpoint}")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _refused(mountpoint: str, output: str) -> MountFailed:
    line = " ".join(output.split()).removeprefix("fusermount3: ") or "no reason given"
    remedy = ""
    if "user_allow_other" in line:
        remedy = "add the line user_allow_other to /etc/fuse.conf, or leave --allow-other out"
    elif "Permission denied" in line or "no write access" in line:
        remedy = "mount on a directory that belongs to you"
    elif DEVICE in line or "device not found" in line:
        remedy = "modprobe fuse; in a container: --device /dev/fuse"
    return MountFailed(f"fusermount3 could not mount {mountpoint}: {line}", remedy)


def _escaped(text: str) -> str:
    """Escapes the commas of an option, by libfuse's backslash."""
    return text.replace("\\", "\\\\").replace(",", "\\,")
