"""The mount table (/proc/self/mountinfo) and unmounting.

Used by the checks of a mountpoint, by the launcher and by the Python API. Never stats a path that may be in a FUSE file
system, since a dead or stuck daemon would block this process: ``probe`` does it in a child process with a deadline.
Functions only; safe from any thread.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from dataclasses import dataclass
from typing import Final

from ..config import helper_environ
from ..errors import MountFailed, MountNotFound, UsageError

TYPE: Final = "fuse.hffs"  # the file system type of hffs mounts
_TABLE: Final = "/proc/self/mountinfo"
_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2})")
_MNT_DETACH: Final = 2
# mount.h: read-only, no set-uid, no devices (always set), no execution; and the flags that change an existing mount
_NO_EXECUTION: Final = 1 | 2 | 4 | 8
_REMOUNT_BIND: Final = 32 | 4096
_UMOUNT_NOFOLLOW: Final = 8
# Its exit status is the first errno met; -I -S: nothing but the interpreter, about 10 ms. An lstat may be answered from
# the kernel's cache long after the daemon died, a statfs never is; not every FUSE file system has one (ENOSYS, 38).
_LOOK: Final = (
    "import os,sys\n"
    "try: os.lstat(sys.argv[1]); os.statvfs(sys.argv[1])\n"
    "except OSError as e: sys.exit(e.errno if e.errno != 38 else 0)"
)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A line of mountinfo (proc(5)): the file system ``type`` of ``source`` seen at ``mountpoint``."""

    mountpoint: str
    type: str
    source: str
    device: str = ""  # MAJOR:MINOR

    @property
    def is_hffs(self) -> bool:
        return self.type == TYPE

    @property
    def is_fuse(self) -> bool:
        return self.type == "fuse" or self.type.startswith(("fuse.", "fuseblk"))


def table(path: str = _TABLE) -> dict[str, Mounted]:
    """Returns all mounts of this mount namespace by mountpoint; of several on one mountpoint, the visible one."""
    found: dict[str, Mounted] = {}
    with open(path, "rb") as file:
        for line in file:
            mounted = _mounted(line)
            if mounted is not None:
                found[mounted.mountpoint] = mounted  # lines are in order of mounting
    return found


def _mounted(line: bytes) -> Mounted | None:
    """Parses one line; None if malformed. Any user may mount a FUSE file system with any name and source."""
    words = line.split(b" ")  # the source may be empty
    try:
        separator = words.index(b"-", 6)
        kind, source = words[separator + 1 : separator + 3]
        return Mounted(_plain(words[4]), _plain(kind), _plain(source.rstrip(b"\n")), _plain(words[2]))
    except ValueError:
        return None


def _plain(word: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda octal: bytes([int(octal[1], 8)]), word))


def mounts() -> list[Mounted]:
    """Returns the hffs mounts of this mount namespace, those of other users included."""
    return [mounted for mounted in table().values() if mounted.is_hffs]


def locate(path: str, mounted: dict[str, Mounted]) -> tuple[str, Mounted | None]:
    """Returns the real absolute path of ``path``, and the outermost FUSE mount that contains it (or is it), if any.

    Symbolic links are resolved up to that mount; the rest is taken literally, because resolving it would be a request
    to the mount's daemon. A FUSE file system at / (as in rootless containers) is not counted.
    """
    if "\0" in path:
        raise UsageError(f"{path!r} cannot be a path", "name a directory")
    path = os.path.expanduser(path)
    start = path if path.startswith("/") else f"{os.getcwd()}/{path}"
    current, inside, links = "/", None, 0
    todo = start.split("/")[::-1]
    while todo:
        name = todo.pop()
        if name in ("", "."):
            continue
        if name == "..":
            current = os.path.dirname(current)
            if inside is not None and not f"{current}/".startswith(f"{inside.mountpoint}/"):
                inside = None
            continue
        current = os.path.join(current, name)
        if inside is None and current in mounted and mounted[current].is_fuse:
            inside = mounted[current]
        if inside is not None:
            continue
        try:
            target = os.readlink(current)
        except OSError:  # no link, or missing: reported by later checks
            continue
        links += 1
        if links > 40:  # as the kernel: ELOOP
            raise UsageError(f"{path} is a loop of symbolic links", "name a directory")
        current = "/" if target.startswith("/") else os.path.dirname(current)
        todo.extend(target.split("/")[::-1])
    return current, inside


def probe(path: str, seconds: float = 5.0) -> int:
    """Returns the errno of an access by a child process: 0 when the path answers, ETIMEDOUT after ``seconds``."""
    import subprocess  # imported here and below: `hffs status` needs the table only, and this costs 5 ms

    command = [sys.executable, "-I", "-S", "-c", _LOOK, path]
    try:
        return subprocess.run(
            command, check=False, timeout=seconds, stdin=subprocess.DEVNULL, cwd="/", env=helper_environ()
        ).returncode
    except subprocess.TimeoutExpired:  # the child was killed, which ends its wait for a FUSE daemon at once
        return errno.ETIMEDOUT


def forbid_execution(mountpoint: str) -> None:
    """Sets noexec on the mount, which also forbids executable mappings. Root only. Raises MountFailed."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_REMOUNT_BIND | _NO_EXECUTION)
    if libc.mount(None, os.fsencode(mountpoint), None, flags, None):
        raise MountFailed(f"{mountpoint} cannot be made noexec ({os.strerror(ctypes.get_errno())})")


def detach(mountpoint: str, lazy: bool = False) -> None:
    """Unmounts; with ``lazy`` the mount disappears from the tree now and ends with its last user.

    Raises MountFailed (busy, not permitted) or MountNotFound (nothing is mounted there).
    """
    code = _umount(mountpoint, lazy) if os.geteuid() == 0 else _fusermount(mountpoint, lazy)
    if code == errno.EBUSY:
        raise MountFailed(f"{mountpoint} is busy", "close the programs that use it, or hffs unmount --lazy")
    if code in (errno.EINVAL, errno.ENOENT):
        raise MountNotFound(f"nothing is mounted at {mountpoint}", "hffs status lists the mounts")
    if code:
        raise MountFailed(f"cannot unmount {mountpoint} ({os.strerror(code)})", "unmount it as its user, or as root")


def _umount(mountpoint: str, lazy: bool) -> int:
    """Calls umount2(2) and returns its errno. Does not follow links: the mountpoint is a real path."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    return ctypes.get_errno() if libc.umount2(os.fsencode(mountpoint), flags) else 0


def _fusermount(mountpoint: str, lazy: bool) -> int:
    import subprocess

    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", mountpoint]
    environ = helper_environ(LC_ALL="C")  # its messages are parsed below
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20, env=environ)
    except FileNotFoundError:
        raise MountFailed("fusermount3 is missing", "apt install fuse3") from None
    except subprocess.TimeoutExpired:
        return errno.EBUSY
    if done.returncode == 0:
        return 0
    output = done.stderr.lower()
    if "busy" in output:
        return errno.EBUSY
    if "not found in" in output or "invalid argument" in output:  # not in /etc/mtab; not a mount for umount(2)
        return errno.EINVAL
    return errno.EPERM
