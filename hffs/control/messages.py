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


def jobs_path(runtime_dir: str, mountpoint: str) -> str:
    """What the mount was asked to do in the background, for a worker after this one to go on with."""
    return socket_path(runtime_dir, mountpoint).removesuffix(".sock") + ".jobs"


def log_path(runtime_dir: str, mountpoint: str) -> str:
    """Where a daemon in the background logs, unless it was told where."""
    return socket_path(runtime_dir, mountpoint).removesuffix(".sock") + ".log"


class MountRecord(TypedDict):
    """``pid`` is the process that serves; ``supervisor`` the one that would start it again, if there is one."""

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
    """A copy of a file that was not what its hash says; ``copies`` of it were wrong in a row."""

    at: float
    path: str
    expected: str
    got: str
    origin: str
    copies: int


class VerificationStatus(TypedDict):
    """``failed`` are refused: two copies in a row were wrong. ``passed`` count as pending too: larger than the cache,
    they were right when they were read. ``unchecked`` have no hash. ``mismatches`` are not mended yet."""

    verified: int
    pending: int | None
    failed: list[str]
    passed: NotRequired[int]
    unchecked: NotRequired[int]
    mismatches: NotRequired[list[MismatchReport]]


# By its functional form: ``for`` is a word of Python's.
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
    """``active`` of ``limit`` are at work (``list``); ``why`` there are no more."""

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
    seconds, of ``limit`` in a whole window; None: the Hub does not say."""

    kind: str
    left: int
    limit: int | None
    resets_s: float


class HubStatus(TypedDict):
    """How we stand with the Hub. ``refused`` is why it does not let us in, with ``remedy``; ``slowed`` why what nobody
    waits for is slow or waits; both empty where it is not so. ``quotas`` as its last answers told."""

    refused: str
    remedy: str
    slowed: str
    quotas: list[QuotaStatus]


class ReadAheadStatus(TypedDict):
    """The kernel's read-ahead on the mount; ``command`` raises it, and is empty where nothing is to be gained."""

    kb: int | None
    command: str


class FileProblem(TypedDict):
    """A file that seems not to be what its name says, by its listing alone; ``hffs verify`` tells more."""

    path: str
    what: str


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
    supervisor: SupervisorStatus | None
    endpoint: str
    uptime_s: float
    listing: Literal["complete", "partial"]
    files: int | None
    bytes_total: int | None
    bytes_local: int
    bytes_fetched: int
    requests: int
    hydration: HydrationStatus
    verification: VerificationStatus
    workers: Workers
    open_files: list[OpenFile]
    cache: CacheUse
    waiting_reads: list[WaitingReadStatus]
    last_errors: list[LastError]
    read_ahead: ReadAheadStatus
    bandwidth: BandwidthStatus
    hub: HubStatus
    root: str  # the folder of the repo that is mounted, "" for all of it
    problems: list[FileProblem]
    log: str  # the file it logs to; "" where that is none: a terminal, the journal


class FileStatus(TypedDict):
    """A file of the mount; ``size`` is None until it is known, ``bytes_local`` counts bytes on this machine's disk.
    ``failed``: two copies in a row were not what its hash says, and it is not read for a while."""

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
    """``count`` neighbouring blocks from block ``start`` on. On the disk, being fetched, waiting to be, none of it."""

    state: Literal["local", "in_flight", "queued", "absent"]
    start: int
    count: int


class FileBlockMap(TypedDict):
    """The answer to ``GET /v1/files/PATH/blocks``: ``runs`` cover the file in order, the last block may be shorter. Of
    a file whose size is not known yet nothing is told."""

    path: str
    size: int | None
    block_size: int
    runs: list[BlockRun]


class EvictReply(TypedDict):
    """The answer to ``POST /v1/evict``: blobs that went wholly, bytes of disk given back, and how many stay for which
    reason (pinned, shared, in use, elsewhere, unreadable). ``complete`` is False where not all files are known."""

    path: str
    blobs: int
    bytes_freed: int
    stay: dict[str, int]
    complete: bool


class PinReply(TypedDict):
    """The answer to ``POST /v1/pin``: of ``blobs`` that are here ``changed`` were not so before; of ``absent`` files
    nothing is here that could be pinned."""

    path: str
    pinned: bool
    blobs: int
    changed: int
    absent: int
    complete: bool


class RefreshReply(TypedDict):
    """The answer to ``POST /v1/refresh``: the commit shown, the one that the revision stands for now."""

    revision: str
    commit: str
    newest: str
    moved: bool


class ProgressEvent(TypedDict):
    """What a ``progress`` event of ``GET /v1/events`` tells."""

    bytes_fetched: int
    bytes_per_s: float
    workers: int
    waiting_reads: int
    hydration: HydrationStatus


class JobList(TypedDict):
    """The answer to ``GET /v1/jobs``: each without the files that have ended."""

    jobs: list[Job]


class JobFile(TypedDict):
    """A file of a job; ``bytes_done`` of ``size`` are on this machine's disk."""

    path: str
    size: int | None
    etag: str | None
    bytes_done: int
    state: Literal["waiting", "fetching", "verifying", "done", "failed"]


class JobError(TypedDict):
    """What went wrong with a file (``path`` is empty where it is not about one), and the exit code it stands for."""

    path: str
    what: str
    remedy: str
    exit_code: int


class FindingReport(TypedDict):
    """What a verification found. ``damage`` counts until it is ``mended``; a ``warning`` is to be known, and nothing
    that hffs could mend. ``exit_code`` is what it stands for while it stays. Hashes in hex where they were compared."""

    path: str
    kind: Literal["hash", "size", "blocks", "unreadable", "pointer", "tiny", "structure", "missing", "unchecked"]
    severity: Literal["damage", "warning"]
    what: str
    remedy: str
    expected: str
    got: str
    mended: bool
    exit_code: int


class CheckedReport(TypedDict):
    """Files by what a verification says of them: proved by their hash (or empty); right as far as can be told without
    one; here in part, whose blocks are as they were written; not here; damaged or missing; not of the repo at all. And
    the bytes that were looked at."""

    right: int
    plausible: int
    partial: int
    absent: int
    wrong: int
    others: int
    bytes: int


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
