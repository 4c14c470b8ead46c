"""What a daemon and its clients agree on: where the socket is, and the shape of the messages. JSON-ready values only.

``Status`` is the answer to ``GET /v1/status``; keys may be added, never renamed.
"""

from __future__ import annotations

import hashlib
import os
from typing import Literal, NotRequired, TypedDict

API = "/v1"

State = Literal["starting", "serving", "degraded", "offline", "restarting", "dead"]


def socket_name(mountpoint: str) -> str:
    """The socket's file name: 16 hex digits of the mountpoint's sha256 (a unix socket's path holds 108 bytes)."""
    return hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16] + ".sock"


def socket_path(runtime_dir: str, mountpoint: str) -> str:
    return os.path.join(runtime_dir, socket_name(mountpoint))


def record_path(runtime_dir: str, mountpoint: str) -> str:
    """The mount's record (a small JSON file: mountpoint, repo, pid), by which a dead mount is still known."""
    return socket_path(runtime_dir, mountpoint).removesuffix(".sock") + ".json"


def journal_path(runtime_dir: str, mountpoint: str) -> str:
    """The journal of the mount's open handles, which a worker leaves to the next."""
    return socket_path(runtime_dir, mountpoint).removesuffix(".sock") + ".handles"


class MountRecord(TypedDict):
    """``pid`` is the process that serves; ``supervisor`` the one that would start it again, if there is one."""

    mountpoint: str
    repo: str
    type: str
    revision: str
    commit: str
    pid: int
    started_at: float
    supervisor: NotRequired[Supervisor | None]


class Supervisor(TypedDict):
    pid: int
    restarts: int


class Hydration(TypedDict):
    state: Literal["idle", "running", "done", "failed", "cancelled"]
    bytes_done: int
    bytes_total: int | None
    bytes_per_s: float
    eta_s: float | None
    files_done: int
    files_total: int | None


class Verification(TypedDict):
    verified: int
    pending: int | None
    failed: list[str]


class Workers(TypedDict):
    active: int
    limit: int
    bytes_per_s: float
    why: str
    list: list[dict[str, object]]


class OpenFile(TypedDict):
    path: str
    handles: int
    served: Literal["passthrough", "kernel-cache"]
    why: str


class CacheUse(TypedDict):
    dir: str
    bytes: int
    limit: int | None
    disk_free: int


class WaitingRead(TypedDict):
    path: str
    offset: int
    size: int
    seconds: float
    on: str


class LastError(TypedDict):
    at: float
    what: str
    path: NotRequired[str]


class ReadAhead(TypedDict):
    """The kernel's read-ahead on the mount; ``command`` raises it, and is empty where nothing is to be gained."""

    kb: int | None
    command: str


class Status(TypedDict):
    mountpoint: str
    repo: str
    type: str
    revision: str
    commit: str
    pid: int
    state: State
    socket: str
    binding: str
    supervisor: Supervisor | None
    endpoint: str
    uptime_s: float
    listing: Literal["complete", "partial"]
    files: int | None
    bytes_total: int | None
    bytes_local: int
    bytes_fetched: int
    requests: int
    hydration: Hydration
    verification: Verification
    workers: Workers
    open_files: list[OpenFile]
    cache: CacheUse
    waiting_reads: list[WaitingRead]
    last_errors: list[LastError]
    read_ahead: ReadAhead


class FileStatus(TypedDict):
    """A file of the mount; ``size`` is None until it is known, ``bytes_local`` counts bytes on this machine's disk."""

    path: str
    size: int | None
    bytes_local: int
    state: Literal["remote", "partial", "local", "verified"]


class FileList(TypedDict):
    """The answer to ``GET /v1/files?path=``: every file known at or below ``path`` (of the mount; "" is all of it).
    ``complete`` is False where directories below it have not been listed yet."""

    path: str
    complete: bool
    files: list[FileStatus]
