"""The mounts of this user: which there are, what each says of itself, and taking one off.

Used by the command line and by ``mounting``. Joins what three rooms know: the records (which mounts there should be),
the mount table (which there are) and the control sockets (what they say). Never stats a path inside a mount, so that a
dead or stuck one cannot take its caller along. Any thread.
"""

from __future__ import annotations

import os
import time
from typing import Final

from .. import config
from ..control import client, messages, mount_records
from ..control.messages import FileBlockMap, FileList, Status
from ..control.mount_records import Record
from ..errors import DeadlineExceeded, HffsError, MountFailed, MountNotFound, UsageError
from ..system import mount_table

_UNMOUNT_SECONDS: Final = 10.0
_REHEARSAL_SECONDS: Final = 25.0  # the old daemon tries whether the new one can start; it gives that 20
_RESTART_SECONDS: Final = 30.0  # 10 for the old daemon to leave, the rest for the new one to start on a busy machine


def status(runtime_dir: str | None = None) -> list[Status]:
    """Every mount of this user by mountpoint; one whose daemon is gone has the state ``dead``."""
    directory = _directory(runtime_dir)
    return _statuses(mount_records.every(directory), directory)


def status_of(target: str, runtime_dir: str | None = None) -> list[Status]:
    """The mounts that ``target`` names: a mountpoint, a path inside one, or a repo (mounted perhaps several times).

    Raises MountNotFound when there is none.
    """
    directory = _directory(runtime_dir)
    return _statuses(find(target, directory), directory)


def files(target: str, runtime_dir: str | None = None) -> tuple[str, FileList]:
    """The mountpoint that ``target`` lies in, and the files at or below it with what is local of each.

    Raises MountNotFound (no such mount), MountFailed (it is dead), DeadlineExceeded.
    """
    directory = _directory(runtime_dir)
    record = _one(target, directory)
    where = record["mountpoint"]
    try:
        return where, client.files(messages.socket_path(directory, where), _inside(target, record))
    except MountNotFound as nobody:
        raise MountFailed(f"the mount at {where} is dead", f"hffs unmount {where}") from nobody


def blocks(target: str, runtime_dir: str | None = None) -> tuple[str, FileBlockMap]:
    """The mountpoint that a file lies in, and what is here and under way of it, block by block.

    Raises MountNotFound (no such mount), UsageError (not a file in one), MountFailed (it is dead), DeadlineExceeded,
    Refused (no such file).
    """
    directory = _directory(runtime_dir)
    record = _one(target, directory)
    where, file = record["mountpoint"], _inside(target, record)
    if not file:
        raise UsageError(f"{target} is a mount, not a file", f"name a file in it: hffs map {where}/FILE")
    try:
        return where, client.blocks(messages.socket_path(directory, where), file)
    except client.Refused:
        if os.path.isdir(target):  # a look into the mount, whose daemon has just answered
            raise UsageError(
                f"{target} is a folder, not a file", f"name a file in it: hffs map {target}/FILE"
            ) from None
        raise
    except MountNotFound as nobody:
        raise MountFailed(f"the mount at {where} is dead", f"hffs unmount {where}") from nobody


def place(target: str, runtime_dir: str | None = None) -> tuple[str, str]:
    """The mountpoint that a path lies in, and where in that mount it is ("" for its root).

    Raises MountNotFound, UsageError (a repo that is mounted several times).
    """
    record = _one(target, _directory(runtime_dir))
    return record["mountpoint"], _inside(target, record)


def unmount(target: str, lazy: bool = False, runtime_dir: str | None = None) -> str:
    """Takes a mount off and returns its mountpoint; ``lazy``: even when it is busy, gone once nobody uses it.

    The daemon does it itself; a dead or silent one is helped out. Raises MountNotFound, MountFailed (busy), UsageError
    (``target`` is a repo that is mounted several times).
    """
    directory = _directory(runtime_dir)
    try:
        record = _one(target, directory)
    except MountNotFound:
        _, inside = mount_table.locate(target, mount_table.table())
        if inside is None or not inside.is_hffs:
            raise
        mount_table.detach(inside.mountpoint, lazy)  # a mount whose record was lost
        return inside.mountpoint
    where = record["mountpoint"]
    if mount_records.alive(record):
        _ask_to_end(record, lazy, directory)
    _await_end(record, lazy)
    if not mount_records.alive(record):
        if _is_mounted(where):  # nobody serves it: for its users it has ended already
            mount_table.detach(where, lazy=True)
        mount_records.remove(directory, where)
    return where


def set_bandwidth(target: str, bytes_per_s: int | None, runtime_dir: str | None = None) -> None:
    """From now on a mount fetches no more than that, None: as fast as it can. Raises MountNotFound, UsageError."""
    directory = _directory(runtime_dir)
    socket = messages.socket_path(directory, _one(target, directory)["mountpoint"])
    client.ask(socket, "POST", f"{messages.API}/bandwidth", _UNMOUNT_SECONDS, {"bytes_per_s": bytes_per_s})


def restart(target: str, runtime_dir: str | None = None) -> str:
    """Replaces the processes of a mount by those of the version installed now, under running readers; returns its
    mountpoint once the new daemon answers.

    Raises MountNotFound, MountFailed (no supervisor, or no answer in time), DeadlineExceeded, UsageError.
    """
    directory = _directory(runtime_dir)
    record = _one(target, directory)
    where = record["mountpoint"]
    socket = messages.socket_path(directory, where)
    try:
        # Asked of the daemon, not taken from the record: one that has just been started again may not have written it.
        before = client.ask(socket, "GET", f"{messages.API}/status", _UNMOUNT_SECONDS)["pid"]
        client.restart(socket, _REHEARSAL_SECONDS)
    except MountNotFound as nobody:
        raise MountFailed(f"the mount at {where} is dead", f"hffs unmount {where}") from nobody
    end = time.monotonic() + _RESTART_SECONDS
    while time.monotonic() < end:
        told = client.statuses([socket])[0]
        if not isinstance(told, HffsError) and told["pid"] != before and told["state"] != "restarting":
            return where
        if not mount_records.alive(record):
            raise MountFailed(f"the mount at {where} ended", "see its log")
        time.sleep(0.05)
    raise MountFailed(f"the new daemon of {where} did not answer in {_RESTART_SECONDS:.0f} s", "see its log")


def find(target: str, runtime_dir: str) -> list[Record]:
    """The records of the mounts that ``target`` names; a path counts before a repo. Raises MountNotFound."""
    known = mount_records.every(runtime_dir)
    real, inside = mount_table.locate(target, mount_table.table())
    where = inside.mountpoint if inside is not None and inside.is_hffs else real
    found = [record for record in known if record["mountpoint"] == where]
    if not found and not is_path(target):
        found = [record for record in known if _is_of(record, target)]
    if found:
        return found
    if inside is not None and inside.is_hffs:
        raise MountNotFound(f"the mount at {where} is not one of yours", "ask the user who mounted it")
    raise MountNotFound(f"{target} is not mounted", "hffs status lists the mounts")


def records_of(runtime_dir: str) -> list[Record]:
    """The records of all mounts of this user, dead ones too."""
    return mount_records.every(runtime_dir)


def is_path(target: str) -> bool:
    """Whether a target can only be a path: no repo begins so."""
    return target in (".", "..") or target.startswith(("/", "./", "../", "~"))


def _one(target: str, runtime_dir: str) -> Record:
    found = find(target, runtime_dir)
    if len(found) > 1:
        places = ", ".join(record["mountpoint"] for record in found)
        raise UsageError(f"{target} is mounted {len(found)} times", f"name one of {places}")
    return found[0]


def _inside(target: str, record: Record) -> str:
    """The folder of the mount that a target names; "" for its root and for a repo."""
    real, _ = mount_table.locate(target, mount_table.table())
    where = record["mountpoint"]
    return real[len(where) :].strip("/") if real.startswith(f"{where}/") else ""


def _is_of(record: Record, target: str) -> bool:
    """Whether the record is of the repo that ``target`` names: compared as text, without asking anybody."""
    text = target.removeprefix("hf://")
    kind = "model"
    for name in ("dataset", "space"):
        if text.startswith(f"{name}s/"):
            kind, text = name, text.removeprefix(f"{name}s/")
    name, at, revision = text.partition("@")
    if record["type"] != kind or "/".join(name.split("/")[:2]) != record["repo"]:
        return False
    from urllib.parse import unquote

    wanted = unquote(revision)
    is_commit = len(wanted) >= 7 and record["commit"].startswith(wanted)
    return not at or is_commit or f"{wanted}/".startswith(f"{record['revision']}/")


def _statuses(known: list[Record], directory: str) -> list[Status]:
    living = [record for record in known if mount_records.alive(record)]
    answers = client.statuses([messages.socket_path(directory, record["mountpoint"]) for record in living])
    told = {record["mountpoint"]: answer for record, answer in zip(living, answers, strict=True)}
    return [_told(record, told.get(record["mountpoint"]), directory) for record in known]


def _told(record: Record, answer: Status | HffsError | None, directory: str) -> Status:
    """What a mount said; where it said nothing, what its record tells."""
    if answer is not None and not isinstance(answer, HffsError):
        return answer
    if answer is None or not mount_records.alive(record):
        why = f"its process {record['pid']} is gone: hffs unmount {record['mountpoint']}"
        return silent(record, "dead", why, directory)
    if not mount_records.served(record):
        return silent(record, "restarting", "its daemon died or is being replaced; another one starts", directory)
    return silent(record, "degraded", answer.what, directory)


def silent(record: messages.MountRecord, state: messages.State, why: str, runtime_dir: str) -> Status:
    """The status of a mount whose daemon does not say it: what is unknown is null, empty or 0."""
    log = messages.log_path(runtime_dir, record["mountpoint"])
    return {
        "mountpoint": record["mountpoint"],
        "repo": record["repo"],
        "type": record["type"],
        "revision": record["revision"],
        "commit": record["commit"],
        "pid": record["pid"],
        "state": state,
        "socket": messages.socket_path(runtime_dir, record["mountpoint"]),
        "binding": "",
        "supervisor": record.get("supervisor") if state == "restarting" else None,
        "endpoint": "",
        "uptime_s": max(0.0, round(time.time() - record["started_at"], 3)) if state != "dead" else 0.0,
        "listing": "partial",
        "files": None,
        "bytes_total": None,
        "bytes_local": 0,
        "bytes_fetched": 0,
        "requests": 0,
        "hydration": {
            "state": "idle",
            "bytes_done": 0,
            "bytes_total": None,
            "bytes_per_s": 0,
            "eta_s": None,
            "files_done": 0,
            "files_total": None,
        },
        "verification": {"verified": 0, "pending": None, "failed": []},
        "workers": {"active": 0, "limit": 0, "bytes_per_s": 0, "why": "", "list": []},
        "open_files": [],
        "cache": {"dir": "", "bytes": 0, "limit": None, "disk_free": 0},
        "waiting_reads": [],
        "last_errors": [{"at": time.time(), "what": why}],
        "read_ahead": {"kb": None, "command": ""},
        "bandwidth": {"limit": None},
        "hub": {"refused": "", "remedy": "", "slowed": "", "quotas": []},
        "root": "",
        "problems": [],
        "log": log if os.path.exists(log) else "",
    }


def _ask_to_end(record: Record, lazy: bool, directory: str) -> None:
    where = record["mountpoint"]
    try:
        client.unmount(messages.socket_path(directory, where), lazy, _UNMOUNT_SECONDS)
    except (MountNotFound, DeadlineExceeded):  # it ends already, or is stuck: then without its help
        if mount_records.alive(record) and _is_mounted(where):
            mount_table.detach(where, lazy)
    except client.Refused as refused:
        if _is_mounted(where):
            raise MountFailed(refused.what, refused.remedy) from refused


def _await_end(record: Record, lazy: bool) -> None:
    """Until the mount has left the table and, unless lazy, its process has ended, so that the place is free again."""
    where = record["mountpoint"]
    end = time.monotonic() + _UNMOUNT_SECONDS
    while mount_records.alive(record) and (_is_mounted(where) or not lazy):
        if time.monotonic() >= end:
            if _is_mounted(where):
                raise MountFailed(f"{where} is still mounted after {_UNMOUNT_SECONDS:.0f} s", "hffs unmount --lazy")
            return
        time.sleep(0.01)


def _is_mounted(where: str) -> bool:
    found = mount_table.table().get(where)
    return found is not None and found.is_hffs


def _directory(given: str | None) -> str:
    return os.path.abspath(given) if given else config.load().runtime_dir
