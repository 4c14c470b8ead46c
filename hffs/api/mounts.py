"""The mounts of this user: which exist, the status of each, unmounting and restarting one.

Used by the command line and by ``mount``. Joins the mount records (which mounts there should be), the mount table
(which there are) and the control sockets (their status). Never stats a path inside a mount: on a dead or stuck one that
would block the caller. Any thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from .. import config
from ..control import client, messages, mount_records
from ..control.messages import FileBlockMap, FileList, Status
from ..control.mount_records import Record
from ..errors import DeadlineExceeded, HffsError, MountFailed, MountNotFound, UsageError
from ..system import mount_table

_UNMOUNT_SECONDS: Final = 10.0
_PREFLIGHT_SECONDS: Final = 25.0  # the old daemon tries whether the new one can start; it gives that 20
_RESTART_SECONDS: Final = 30.0  # 10 for the old daemon to end, the rest for the new one to start on a busy machine


def status(runtime_dir: str | None = None) -> list[Status]:
    """Every mount of this user by mountpoint; one whose daemon has died has the state ``dead``."""
    directory = _directory(runtime_dir)
    return _statuses(mount_records.every(directory), directory)


def status_of(target: str, runtime_dir: str | None = None) -> list[Status]:
    """The mounts that ``target`` names: a mountpoint, a path inside one, or a repo (mounted perhaps several times).

    Raises MountNotFound when there is none.
    """
    directory = _directory(runtime_dir)
    return _statuses(find(target, directory), directory)


def files(target: str, runtime_dir: str | None = None) -> tuple[str, FileList]:
    """The mountpoint that ``target`` is below, and the files at or below it with the local bytes of each.

    Raises MountNotFound (no such mount), MountFailed (it is dead), DeadlineExceeded.
    """
    directory = _directory(runtime_dir)
    record = _one(target, directory)
    with _alive(record) as where:
        return where, client.files(messages.socket_path(directory, where), _inside(target, record))


def blocks(target: str, runtime_dir: str | None = None) -> tuple[str, FileBlockMap]:
    """The mountpoint that a file is below, and which of its blocks are local or being fetched.

    Raises MountNotFound (no such mount), UsageError (not a file in one), MountFailed (it is dead), DeadlineExceeded,
    Refused (no such file).
    """
    directory = _directory(runtime_dir)
    record = _one(target, directory)
    file = _inside(target, record)
    if not file:
        raise UsageError(f"{target} is a mount, not a file", f"name a file in it: hffs map {record['mountpoint']}/FILE")
    try:
        with _alive(record) as where:
            return where, client.blocks(messages.socket_path(directory, where), file)
    except client.Refused:
        if os.path.isdir(target):  # in the mount, whose daemon has just answered
            remedy = f"name a file in it: hffs map {target}/FILE"
            raise UsageError(f"{target} is a folder, not a file", remedy) from None
        raise


@contextmanager
def _alive(record: Record) -> Iterator[str]:
    """The mountpoint. Raises MountFailed where its daemon does not exist any more."""
    where = record["mountpoint"]
    try:
        yield where
    except MountNotFound as error:
        raise MountFailed(f"the mount at {where} is dead", f"hffs unmount {where}") from error


def place(target: str, runtime_dir: str | None = None) -> tuple[str, str]:
    """The mountpoint that a path is below, and the path from there ("" for the mountpoint itself).

    Raises MountNotFound, UsageError (a repo that is mounted several times).
    """
    record = _one(target, _directory(runtime_dir))
    return record["mountpoint"], _inside(target, record)


def unmount(target: str, lazy: bool = False, runtime_dir: str | None = None) -> str:
    """Unmounts and returns the mountpoint; ``lazy``: also when it is busy, and the kernel keeps it until it is unused.

    The daemon unmounts; where it is dead or does not answer, this process does. Raises MountNotFound, MountFailed
    (busy), UsageError (``target`` is a repo that is mounted several times).
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
        _request_unmount(record, lazy, directory)
    _wait_for_end(record, lazy)
    if not mount_records.alive(record):
        if _is_mounted(where):  # without a process that serves it: reads fail already
            mount_table.detach(where, lazy=True)
        mount_records.remove(directory, where)
    return where


def set_bandwidth(target: str, bytes_per_s: int | None, runtime_dir: str | None = None) -> None:
    """Limits what a mount fetches from now on; None: no limit. Raises MountNotFound, UsageError."""
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
    with _alive(record):
        # From the daemon, not from the record: one that has just been started again may not have written it.
        before = client.ask(socket, "GET", f"{messages.API}/status", _UNMOUNT_SECONDS)["pid"]
        client.restart(socket, _PREFLIGHT_SECONDS)
    deadline = time.monotonic() + _RESTART_SECONDS
    while time.monotonic() < deadline:
        answer = client.statuses([socket])[0]
        if not isinstance(answer, HffsError) and answer["pid"] != before and answer["state"] != "restarting":
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
        raise MountNotFound(f"the mount at {where} is not one of yours", "it belongs to another user")
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
    """The path in the mount that a target names; "" for its root and for a repo."""
    real, _ = mount_table.locate(target, mount_table.table())
    where = record["mountpoint"]
    return real[len(where) :].strip("/") if real.startswith(f"{where}/") else ""


def _is_of(record: Record, target: str) -> bool:
    """Whether the record is of the repo that ``target`` names: compared as text, no server is asked."""
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


def _statuses(records: list[Record], directory: str) -> list[Status]:
    living = [record for record in records if mount_records.alive(record)]
    answers = client.statuses([messages.socket_path(directory, record["mountpoint"]) for record in living])
    by_mountpoint = {record["mountpoint"]: answer for record, answer in zip(living, answers, strict=True)}
    return [_status(record, by_mountpoint.get(record["mountpoint"]), directory) for record in records]


def _status(record: Record, answer: Status | HffsError | None, directory: str) -> Status:
    """A daemon's answer; without one, what the record shows."""
    if answer is not None and not isinstance(answer, HffsError):
        return answer
    if answer is None or not mount_records.alive(record):
        why = f"its process {record['pid']} has died: hffs unmount {record['mountpoint']}"
        return placeholder_status(record, "dead", why, directory)
    if not mount_records.served(record):
        why = "its daemon died or is being replaced; another one starts"
        return placeholder_status(record, "restarting", why, directory)
    return placeholder_status(record, "degraded", answer.what, directory)


def placeholder_status(record: messages.MountRecord, state: messages.State, why: str, runtime_dir: str) -> Status:
    """The status of a mount whose daemon does not answer: what is unknown is null, empty or 0."""
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
        "snapshots": [],
        "log": log if os.path.exists(log) else "",
    }


def _request_unmount(record: Record, lazy: bool, directory: str) -> None:
    where = record["mountpoint"]
    try:
        client.unmount(messages.socket_path(directory, where), lazy, _UNMOUNT_SECONDS)
    except (MountNotFound, DeadlineExceeded):  # it ends already, or is stuck
        if mount_records.alive(record) and _is_mounted(where):
            mount_table.detach(where, lazy)
    except client.Refused as refused:
        if _is_mounted(where):
            raise MountFailed(refused.what, refused.remedy) from refused


def _wait_for_end(record: Record, lazy: bool) -> None:
    """Waits until the mount has left the table and, unless lazy, its process has ended: both free the mountpoint."""
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
