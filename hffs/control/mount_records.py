"""Mount records: which mounts this user has, and whether the process that serves one still lives.

A record is a small JSON file beside the control socket, written when a mount begins to serve and removed when it ends;
one that is left behind is how a dead mount is known. The daemon writes, `hffs status` and `hffs unmount` read. Never
talks to a daemon and never touches a mountpoint. Functions only; safe from any thread and process, since a record
appears whole (temporary name, then rename) or not at all.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import Final, NotRequired, cast

from ..errors import HffsError
from .messages import MountRecord, jobs_path, journal_path, record_path, socket_path

_LARGEST: Final = 64 * 1024  # bytes of a record; one has under 2000
_MOST: Final = 1 << 53  # the last whole number that every JSON reader tells from the next
_GONE = ("Z", "X")  # a zombie holds a pid but no longer serves anybody


class Record(MountRecord):
    """A mount record as stored: ``pid_start`` tells the process from a later one with the same pid, and so does
    ``supervisor_start``."""

    pid_start: int
    supervisor_start: NotRequired[int | None]


def runtime_dir(path: str) -> str:
    """The user's own folder for sockets and records, made 0700 where it is missing. Returns ``path``.

    Raises HffsError when it cannot be made or belongs to somebody else (in /tmp anyone could have made it first).
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        if not is_own(path):
            raise HffsError(f"{path} is not a directory of your own", "set HFFS_RUNTIME_DIR to one that is")
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        if mode & 0o022 and os.listdir(path):  # who put what there, nobody can tell
            raise HffsError(f"others may write to the runtime directory {path}", "remove it, or chmod 700 and empty it")
        if mode != 0o700:
            os.chmod(path, 0o700)
    except OSError as wrong:
        remedy = "set HFFS_RUNTIME_DIR to a directory you may write to"
        raise HffsError(f"the runtime directory {path} cannot be used ({wrong.strerror})", remedy) from wrong
    return path


def is_own(path: str) -> bool:
    """Whether ``path`` is a directory (no link to one) of this user."""
    found = os.lstat(path)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def process_start(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (proc(5), field 22 of /proc/PID/stat); None: no such."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            after_name = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if after_name[0].decode() in _GONE else int(after_name[19])


def write(directory: str, record: MountRecord) -> Record:
    """Stores the record of a mount whose process lives, 0600, replacing an older one of the same mountpoint."""
    start = process_start(record["pid"])
    if start is None:
        raise HffsError(f"no process {record['pid']} to record")
    supervisor = record.get("supervisor")
    watched = {"supervisor_start": process_start(supervisor["pid"])} if supervisor else {}
    stored = cast(Record, {**record, "pid_start": start, **watched})
    path = record_path(runtime_dir(directory), record["mountpoint"])
    temporary = f"{path}.{os.urandom(4).hex()}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump(stored, file)
        os.replace(temporary, path)
    except OSError as wrong:
        with suppress(OSError):
            os.unlink(temporary)
        raise HffsError(f"the mount's record {path} cannot be written ({wrong.strerror})") from wrong
    return stored


def read(directory: str, mountpoint: str) -> Record | None:
    """The record of this mountpoint; None where there is none or it is damaged."""
    return _load(record_path(directory, mountpoint))


def remove(directory: str, mountpoint: str) -> None:
    """Takes the record of a mount away, and what a daemon left that can no longer do so itself."""
    for path in files(directory, mountpoint):
        with suppress(FileNotFoundError):
            os.unlink(path)


def files(directory: str, mountpoint: str) -> list[str]:
    """The record of a mount, its socket, its journal and its jobs: what must not outlive it."""
    return [make(directory, mountpoint) for make in (record_path, socket_path, journal_path, jobs_path)]


def every(directory: str) -> list[Record]:
    """All readable records, by mountpoint. A directory that does not exist holds none.

    Raises HffsError when the directory is somebody else's: what lies there was not written by us.
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
    """Whether a process of the mount still runs: the very one that serves it, or the one that would start it again."""
    return served(record) or supervised(record)


def served(record: Record) -> bool:
    """Whether the very process that wrote the record still runs (not merely one with its number)."""
    return process_start(record["pid"]) == record["pid_start"]


def supervised(record: Record) -> bool:
    """Whether the mount's supervisor still runs."""
    supervisor, start = record.get("supervisor"), record.get("supervisor_start")
    return supervisor is not None and start is not None and process_start(supervisor["pid"]) == start


def _number(value: object) -> bool:
    """Whether that is a pid, a count of ticks or a time: none of those is endless, and none is a switch."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MOST


def _text(path: str) -> str:
    """A file that this user wrote, no link to one, and no bigger than a record gets. Raises OSError, ValueError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size > _LARGEST:
            raise ValueError("no record of ours")
        with open(fd, encoding="ascii", closefd=False) as file:
            return file.read(_LARGEST)
    finally:
        os.close(fd)  # open() would keep that of a folder


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
    # A record under another mountpoint's name was not written here: whoever copied it must not steer an unmount.
    try:
        if not whole or record_path(os.path.dirname(path), value["mountpoint"]) != path:
            return None
    except UnicodeError:  # half of a surrogate pair, which names nothing
        return None
    return cast(Record, value)
