"""The contract of daemon and clients: paths of a mount's files, and the shapes of messages. JSON values only.

``Status`` is the answer to ``GET /v1/status``; keys may be added, never renamed.
"""

from __future__ import annotations

import hashlib
import os
from typing import Literal, NotRequired, TypedDict

API = "/v1"

State = Literal["starting", "serving", "degraded", "offline", "restarting", "dead"]


def _path(runtime_dir: str, mountpoint: str, suffix: str) -> str:
    # 16 hex digits of the mountpoint's hash: the path of a unix socket has 108 bytes at most
    return os.path.join(runtime_dir, hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16] + suffix)


def socket_path(runtime_dir: str, mountpoint: str) -> str:
    return _path(runtime_dir, mountpoint, ".sock")


def record_path(runtime_dir: str, mountpoint: str) -> str:
    """Returns the path of the mount's record, a small JSON file (mountpoint, repo, pid) that identifies a dead
    mount."""
    return _path(runtime_dir, mountpoint, ".json")


def journal_path(runtime_dir: str, mountpoint: str) -> str:
    """Returns the path of the journal of open handles, which the next worker reads."""
    return _path(runtime_dir, mountpoint, ".handles")


def jobs_path(runtime_dir: str, mountpoint: str) -> str:
    """Returns the path of the file of unfinished jobs, which the next worker resumes."""
    return _path(runtime_dir, mountpoint, ".jobs")


def log_path(runtime_dir: str, mountpoint: str) -> str:
    """Returns the default log file of a background daemon."""
    return _path(runtime_dir, mountpoint, ".log")


class MountRecord(TypedDict):
    """``pid`` is the worker; ``supervisor`` the process that restarts it, if there is one."""

    mountpoint: str
    repo: str
    type: str
    revision: str
    commit: str
    pid: int
    started_at: float
    supervisor: NotRequired[SupervisorStatus | None]


class SupervisorStatus(TypedDict):
    pid: int
    restarts: int


class HydrationStatus(TypedDict):
    state: Literal["idle", "running", "done", "failed", "cancelled"]
    bytes_done: int
    bytes_total: int | None
    bytes_per_s: float
    eta_s: float | None
    files_done: int
    files_total: int | None


class MismatchReport(TypedDict):
    """A copy of a file that did not match its hash; ``copies`` in a row did not."""

    at: float
    path: str
    expected: str
    got: str
    origin: str
    copies: int


class VerificationStatus(TypedDict):
    """``failed`` are refused: two copies in a row did not match. ``passed`` count as pending, too: they matched while
    they were read, and are larger than the cache. ``unchecked`` have no hash. ``mismatches`` are not mended."""

    verified: int
    pending: int | None
    failed: list[str]
    passed: NotRequired[int]
    unchecked: NotRequired[int]
    mismatches: NotRequired[list[MismatchReport]]


# In functional form, since ``for`` is a keyword.
Worker = TypedDict(
    "Worker",
    {
        "worker": int,
        "path": str,
        "for": Literal["demand", "ahead", "background", "bulk"],
        "offset": int,
        "size": int,
        "bytes_per_s": float,
        "seconds": float,
    },
)


class Workers(TypedDict):
    """``active`` of ``limit`` workers are fetching (``list``); ``why`` there are no more."""

    active: int
    limit: int
    bytes_per_s: float
    why: str
    list: list[Worker]


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


class WaitingReadStatus(TypedDict):
    path: str
    offset: int
    size: int
    seconds: float
    on: str


class LastError(TypedDict):
    at: float
    what: str
    path: NotRequired[str]


class BandwidthStatus(TypedDict):
    """``limit`` in bytes a second; None: there is none."""

    limit: int | None


class QuotaStatus(TypedDict):
    """``left`` requests of the kind (the Hub's word: api, resolvers, pages) may be sent in the next ``resets_s``
    seconds, of ``limit`` in a whole window; None: not reported by the Hub."""

    kind: str
    left: int
    limit: int | None
    resets_s: float


class HubStatus(TypedDict):
    """The state of access to the Hub. ``refused`` is why it denies access, with ``remedy``; ``slowed`` is why
    background work is slowed or paused; empty if not. ``quotas`` are those of its last answers."""

    refused: str
    remedy: str
    slowed: str
    quotas: list[QuotaStatus]


class ReadAheadStatus(TypedDict):
    """The kernel's read-ahead on the mount; ``command`` raises it, empty if it is high enough."""

    kb: int | None
    command: str


class FileProblem(TypedDict):
    """A file whose listed size does not fit its name; ``hffs verify`` finds out more."""

    path: str
    what: str


class CommitStatus(TypedDict):
    """What a mount shows of a repo: a commit, or its folder ``root``."""

    repo: str
    type: str
    revision: str
    commit: str
    endpoint: str
    root: str
    listing: Literal["complete", "partial"]
    files: int | None
    bytes_total: int | None
    bytes_local: int
    verification: VerificationStatus
    problems: list[FileProblem]


class SnapshotStatus(CommitStatus):
    """``path`` is the directory below the mountpoint."""

    path: str


class Status(CommitStatus):
    """The keys of ``CommitStatus`` are those of the first of ``snapshots``; daemons of 0.1.0 send no ``snapshots``."""

    mountpoint: str
    pid: int
    state: State
    socket: str
    binding: str
    supervisor: SupervisorStatus | None
    uptime_s: float
    bytes_fetched: int
    requests: int
    hydration: HydrationStatus
    workers: Workers
    open_files: list[OpenFile]
    cache: CacheUse
    waiting_reads: list[WaitingReadStatus]
    last_errors: list[LastError]
    read_ahead: ReadAheadStatus
    bandwidth: BandwidthStatus
    hub: HubStatus
    log: str  # the file it logs to; "" where that is none: a terminal, the journal
    snapshots: list[SnapshotStatus]


class FileStatus(TypedDict):
    """A file of the mount. ``size`` is None until it is known, ``bytes_local`` counts bytes on the local disk.
    ``failed``: two copies in a row did not match the hash, and reads are refused for a while."""

    path: str
    size: int | None
    bytes_local: int
    state: Literal["remote", "partial", "local", "verified", "failed"]


class FileList(TypedDict):
    """The answer to ``GET /v1/files?path=``: every file known at or below ``path`` (of the mount; "" is all of it).
    ``complete`` is False where directories below it have not been listed yet."""

    path: str
    complete: bool
    files: list[FileStatus]


class BlockRun(TypedDict):
    """``count`` adjacent blocks from block ``start`` on: on disk, being fetched, queued, or none of these."""

    state: Literal["local", "in_flight", "queued", "absent"]
    start: int
    count: int


class FileBlockMap(TypedDict):
    """The answer to ``GET /v1/files/PATH/blocks``: ``runs`` cover the file in order, the last block may be shorter.
    There are none while the file's size is unknown."""

    path: str
    size: int | None
    block_size: int
    runs: list[BlockRun]


class EvictReply(TypedDict):
    """The answer to ``POST /v1/evict``: blobs evicted completely, disk space freed, and how many were kept for which
    reason (pinned, shared, in use, elsewhere, unreadable). ``complete`` is False if not all files are known."""

    path: str
    blobs: int
    bytes_freed: int
    stay: dict[str, int]
    complete: bool


class PinReply(TypedDict):
    """The answer to ``POST /v1/pin``: ``changed`` of the local ``blobs`` changed state; ``absent`` files have no local
    data to pin."""

    path: str
    pinned: bool
    blobs: int
    changed: int
    absent: int
    complete: bool


class RefreshReply(TypedDict):
    """The answer to ``POST /v1/refresh``: the mounted commit, and the revision's current commit (``newest``)."""

    revision: str
    commit: str
    newest: str
    moved: bool


class ProgressEvent(TypedDict):
    """The content of a ``progress`` event of ``GET /v1/events``."""

    bytes_fetched: int
    bytes_per_s: float
    workers: int
    waiting_reads: int
    hydration: HydrationStatus


class JobList(TypedDict):
    """The answer to ``GET /v1/jobs``: each without its ended files."""

    jobs: list[Job]


class JobFile(TypedDict):
    """A file of a job; ``bytes_done`` of ``size`` are on the local disk."""

    path: str
    size: int | None
    etag: str | None
    bytes_done: int
    state: Literal["waiting", "fetching", "verifying", "done", "failed"]


class JobError(TypedDict):
    """An error of a file (``path`` is empty if it concerns no single file), and its exit code."""

    path: str
    what: str
    remedy: str
    exit_code: int


class FindingReport(TypedDict):
    """A finding of a verification. ``damage`` counts until it is ``mended``; a ``warning`` is information that hffs
    cannot mend. ``exit_code`` applies while it is not mended. Hashes are in hex, empty if none were compared."""

    path: str
    kind: Literal[
        "hash", "size", "blocks", "unreadable", "pointer", "tiny", "structure", "missing", "unchecked",
        "leftover", "mark", "newer",
    ]  # fmt: skip
    severity: Literal["damage", "warning"]
    what: str
    remedy: str
    expected: str
    got: str
    mended: bool
    exit_code: int


class CheckedReport(TypedDict):
    """The number of files by result: hash matches (or file empty); plausible, without a hash; incomplete, with intact
    blocks; absent; damaged or missing; not part of the repo. And the bytes and blocks that are checked."""

    right: int
    plausible: int
    partial: int
    absent: int
    wrong: int
    others: int
    bytes: int
    blocks: int


class JobProgress(TypedDict):
    """How far a job is. ``bytes_done`` counts what was local before, ``bytes_fetched`` what came over the network
    since.
    Of the ``ended`` files that are done or have failed, ``finished`` lists those after the first N, where the request
    named N. A verification counts in bytes and files what was checked, and what it fetches to mend; all its
    ``findings`` so far are in every report, since one may become mended."""

    bytes_done: int
    bytes_total: int
    bytes_fetched: int
    bytes_per_s: float
    eta_s: float | None
    files_done: int
    files_total: int
    active: list[JobFile]
    ended: int
    finished: list[JobFile]
    errors: list[JobError]
    workers: Workers
    findings: NotRequired[list[FindingReport]]
    checked: NotRequired[CheckedReport]


class Job(JobProgress):
    """The answer to ``POST /v1/hydrate``, ``POST /v1/verify`` and ``GET /v1/jobs/ID?since=N``: a client that sends the
    ``ended`` of the last answer as N misses no finished file. ``warning`` applies to the whole job, as that the Hub is
    unreachable; ``waits`` is what the user must do for it to continue, as getting another token."""

    id: str
    kind: Literal["hydrate", "verify"]
    target: str
    state: Literal["running", "done", "failed", "cancelled"]
    started_at: float
    updated_at: float
    warning: NotRequired[str]
    waits: NotRequired[str]
