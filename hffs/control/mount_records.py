"""Mount records: the mounts of this user, and whether their processes still run.

A record is a small JSON file beside the control socket, written when a mount starts serving and removed when it ends; a
record without its process marks a dead mount. The daemon writes records, `hffs status` and `hffs unmount` read them.
Nothing here contacts a daemon or accesses a mountpoint. Functions only; safe from any thread and process, since records
are written atomically.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import Final, NotRequired, cast

from ..errors import HffsError
from ..files import atomic_write
from .messages import MountRecord, jobs_path, journal_path, record_path, socket_path

_LARGEST: Final = 64 * 1024  # bytes of a record; one has under 2000
_MOST: Final = 1 << 53  # the last integer that every JSON reader distinguishes from the next
_ENDED = ("Z", "X")  # states of proc(5): a zombie keeps its pid but serves no mount


class Record(MountRecord):
    """A mount record as stored. ``pid_start`` and ``supervisor_start`` distinguish the process from a later one with
    the same pid."""

    pid_start: int
    supervisor_start: NotRequired[int | None]


def runtime_dir(path: str) -> str:
    """Makes the user's directory for sockets and records, 0700, if it is missing. Returns ``path``.

    Raises HffsError when it cannot be made or belongs to another user (in /tmp any user could have made it first).
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        if not is_own(path):
            raise HffsError(f"{path} is not a directory of your own", "set HFFS_RUNTIME_DIR to one that is")
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        if mode & 0o022 and os.listdir(path):  # its content cannot be trusted
            raise HffsError(f"others may write to the runtime directory {path}", "remove it, or chmod 700 and empty it")
        if mode != 0o700:
            os.chmod(path, 0o700)
    except OSError as wrong:
        remedy = "set HFFS_RUNTIME_DIR to a directory you may write to"
        raise HffsError(f"the runtime directory {path} cannot be used ({wrong.strerror})", remedy) from wrong
    return path


def is_own(path: str) -> bool:
    """Returns whether ``path`` is a directory (not a link to one) of this user."""
    found = os.lstat(path)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def process_start(pid: int) -> int | None:
    """Returns the process's start time in clock ticks since boot (proc(5), field 22 of /proc/PID/stat); None if it
    does not run."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            after_name = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if after_name[0].decode() in _ENDED else int(after_name[19])


def write(directory: str, record: MountRecord) -> Record:
    """Stores the record of a mount whose process runs, 0600, replacing an older one of the same mountpoint."""
    start = process_start(record["pid"])
    if start is None:
        raise HffsError(f"no process {record['pid']} to record")
    supervisor = record.get("supervisor")
    watched = {"supervisor_start": process_start(supervisor["pid"])} if supervisor else {}
    stored = cast(Record, {**record, "pid_start": start, **watched})
    path = record_path(runtime_dir(directory), record["mountpoint"])
    try:
        atomic_write(path, json.dumps(stored))
    except OSError as wrong:
        raise HffsError(f"the mount's record {path} cannot be written ({wrong.strerror})") from wrong
    return stored


def read(directory: str, mountpoint: str) -> Record | None:
    """Returns the record of this mountpoint; None if it is missing or damaged."""
    return _load(record_path(directory, mountpoint))


def remove(directory: str, mountpoint: str) -> None:
    """Removes the record of a mount and the files that its daemon left."""
    for path in files(directory, mountpoint):
        with suppress(FileNotFoundError):
            os.unlink(path)


def files(directory: str, mountpoint: str) -> list[str]:
    """Returns the paths of a mount's record, socket, journal and jobs, which must not outlive it."""
    return [make(directory, mountpoint) for make in (record_path, socket_path, journal_path, jobs_path)]


def every(directory: str) -> list[Record]:
    """Returns all readable records, sorted by mountpoint; none if the directory does not exist.

    Raises HffsError when the directory belongs to, or may be written by, another user.
    """
    try:
        if not is_own(directory):
            raise HffsError(f"{directory} is not a directory of your own", "set HFFS_RUNTIME_DIR to one that is")
        if os.lstat(directory).st_mode & 0o022:
            raise HffsError(f"others may write to the runtime directory {directory}", f"chmod 700 {directory}")
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as wrong:
        raise HffsError(f"the runtime directory {directory} cannot be read ({wrong.strerror})") from wrong
    found = (_load(os.path.join(directory, name)) for name in names if name.endswith(".json"))
    return sorted((record for record in found if record), key=lambda record: record["mountpoint"])


def alive(record: Record) -> bool:
    """Returns whether the worker or the supervisor of the mount still runs."""
    return served(record) or supervised(record)


def served(record: Record) -> bool:
    """Returns whether the process that wrote the record still runs (not merely one with its pid)."""
    return process_start(record["pid"]) == record["pid_start"]


def supervised(record: Record) -> bool:
    """Returns whether the mount's supervisor still runs."""
    supervisor, start = record.get("supervisor"), record.get("supervisor_start")
    return supervisor is not None and start is not None and process_start(supervisor["pid"]) == start


def _number(value: object) -> bool:
    """Returns whether ``value`` can be a pid, a tick count or a time: finite, not negative, no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MOST


def _text(path: str) -> str:
    """Reads a regular file of this user, not through a link, of at most ``_LARGEST`` bytes. Raises OSError,
    ValueError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size > _LARGEST:
            raise ValueError("no record of ours")
        with open(fd, encoding="ascii", closefd=False) as file:
            return file.read(_LARGEST)
    finally:
        os.close(fd)  # open() leaks the descriptor of a directory


def _load(path: str) -> Record | None:
    try:
        value = json.loads(_text(path))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    texts = ("mountpoint", "repo", "type", "revision", "commit")
    numbers = ("pid", "pid_start", "started_at")
    whole = all(isinstance(value.get(key), str) for key in texts) and all(_number(value.get(key)) for key in numbers)
    supervisor = value.get("supervisor")
    if supervisor is not None and not (isinstance(supervisor, dict) and _number(supervisor.get("pid"))):
        return None
    # A record under another mountpoint's file name was copied here: it must not steer an unmount.
    try:
        if not whole or record_path(os.path.dirname(path), value["mountpoint"]) != path:
            return None
    except UnicodeError:  # a lone surrogate: no possible path
        return None
    return cast(Record, value)
