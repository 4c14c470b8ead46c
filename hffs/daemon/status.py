"""A mount's status: the values of ``messages.Status``, derived from store, queue and listing at each request.

No counters are kept for it; it never waits for the network or for a lock that is held during a request.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Final, Literal, Protocol

from ..control import messages
from ..engine.jobs import worker_report
from ..engine.session import HubContext, Session
from ..errors import EntryNotFound
from ..fuse import Binding
from ..model import Entry
from ..policy import is_tiny
from ..sources.base import Access
from ..system import log_setup
from ..system.bdi_readahead import DeviceReadahead
from ..vfs import Filesystem, MountedSnapshot, Node, SnapshotFile, join
from .mount_spec import MountSpec
from .supervisor_link import NO_SUPERVISOR, SupervisorLink

_PROBLEMS: Final = 16  # as many as last errors: a repo cloned without git-lfs has a pointer for every weight
NO_SNAPSHOT: Final[messages.CommitStatus] = {
    "repo": "", "type": "", "revision": "", "commit": "", "endpoint": "", "root": "",
    "listing": "complete", "files": 0, "bytes_total": 0, "bytes_local": 0,
    "verification": {"verified": 0, "pending": 0, "failed": []}, "problems": [],
}  # fmt: skip


def hub_status(access: Access) -> messages.HubStatus:
    """Access to the Hub and its quotas, as of its last answers."""
    now, refused = time.monotonic(), access.refused
    return {
        "refused": "" if refused is None else refused.what,
        "remedy": "" if refused is None else refused.remedy,
        "slowed": access.slow_reason(),
        "quotas": [
            {"kind": kind, "left": quota.left, "limit": quota.limit, "resets_s": round(quota.resets_at - now, 1)}
            for kind, quota in access.quotas().items()
        ],
    }


class HydrationReport(Protocol):
    def hydration(self) -> messages.HydrationStatus: ...


class Reporter:
    """Answers the control socket's questions about one mount."""

    def __init__(
        self,
        spec: MountSpec,
        where: str,
        binding: Binding,
        parts: Session,
        filesystem: Filesystem,
        hub: HubContext,
        jobs: HydrationReport,
        link: SupervisorLink | None = None,
    ) -> None:
        self.state: messages.State = "starting"
        self.read_ahead = DeviceReadahead(None)
        self.pid = os.getpid()
        self._spec = spec
        self._where = where
        self._binding = binding
        self._view = filesystem.view
        self._filesystem = filesystem
        self._fetcher = parts.fetcher
        self._store = parts.store
        self._budget = parts.budget
        self._sources = hub.sources
        self._connectivity = hub.connectivity
        self._access = hub.source.access
        self._jobs = jobs
        self._link = link
        handover = None if link is None else link.handover
        if handover:
            self.state = "restarting"
        # Of the mount, not of this worker: the monotonic clock is the machine's.
        self.started = handover.started if handover else time.monotonic()
        self.started_at = handover.started_at if handover else time.time()

    def record(self) -> messages.MountRecord:
        commit = next((each.commit for each in self._view.snapshots()), None)
        return {
            "mountpoint": self._where,
            "repo": commit.id if commit else "",
            "type": commit.type.value if commit else "",
            "revision": commit.revision if commit else "",
            "commit": commit.sha if commit else "",
            "pid": self.pid,
            "started_at": self.started_at,
            "supervisor": None if self._link is None else self._link.supervisor(),
        }

    def status(self) -> messages.Status:
        """The mount, its first snapshot, and all of its snapshots."""
        snapshots = [(each.path, commit_status(each)) for each in self._view.snapshots()]
        first = snapshots[0][1] if snapshots else NO_SNAPSHOT
        return {
            "mountpoint": self._where,
            **first,
            "pid": self.pid,
            "state": self._state(),
            "socket": messages.socket_path(self._spec.settings.runtime_dir, self._where),
            "binding": self._binding.name,
            "supervisor": None if self._link is None else self._link.supervisor(),
            "uptime_s": round(time.monotonic() - self.started, 3),
            "bytes_fetched": self._fetcher.bytes_fetched,
            "requests": self._sources.requests,
            "hydration": self._jobs.hydration(),
            "workers": worker_report(self._fetcher),
            "open_files": self._open_files(),
            "cache": {
                "dir": str(self._store.layout.root),
                "bytes": self._budget.held,
                "limit": self._budget.limit,
                "disk_free": self._store.disk_free(),
            },
            "waiting_reads": [
                {
                    "path": read.path,
                    "offset": read.offset,
                    "size": read.size,
                    "seconds": round(time.monotonic() - read.since, 3),
                    "on": first["endpoint"],
                }
                for read in self._fetcher.waiting_reads()
            ],
            "last_errors": self._last_errors(),
            "read_ahead": {"kb": self.read_ahead.kb, "command": self.read_ahead.command},
            "bandwidth": {"limit": self._fetcher.throttle.rate},
            "hub": hub_status(self._access),
            "log": log_setup.where(),
            "snapshots": [{"path": path, **each} for path, each in snapshots],
        }

    def progress(self) -> messages.ProgressEvent:
        """The values that change from second to second; its cost does not grow with the repo."""
        return {
            "bytes_fetched": self._fetcher.bytes_fetched,
            "bytes_per_s": round(self._fetcher.speed()),
            "workers": len(self._fetcher.active_workers()),
            "waiting_reads": len(self._fetcher.waiting_reads()),
            "hydration": self._jobs.hydration(),
        }

    def summary(self) -> str:
        """The state in a line, for ``systemctl status``; cheap enough for a call every few seconds."""
        job, waiting, snapshots = self._jobs.hydration(), len(self._fetcher.waiting_reads()), self._view.snapshots()
        parts = [
            f"{commit.type.prefix}{commit.id}@{commit.revision}, commit {commit.sha[:12]}"
            for commit in (each.commit for each in snapshots[:1])
        ]
        if len(snapshots) > 1:
            parts.append(f"{len(snapshots) - 1} more")
        if job["state"] == "running":
            parts.append(f"hydrating, {job['files_done']} of {job['files_total']} files are here")
        if waiting:
            parts.append("1 read waits" if waiting == 1 else f"{waiting} reads wait")
        return f"{self._state()}: {', '.join(parts)}"

    def _state(self) -> messages.State:
        if self.state != "serving":
            return self.state
        if self._connectivity.offline:
            return "offline"
        return "degraded" if self._fetcher.degraded or self._access.refused else "serving"

    def _last_errors(self) -> list[messages.LastError]:
        found: list[messages.LastError] = [
            {"at": failure.at, "what": failure.what, "path": failure.path} for failure in self._fetcher.errors()
        ]
        if self._link is not None and self._link.lost_at is not None:
            found.append({"at": self._link.lost_at, "what": NO_SUPERVISOR})
        return found

    def _open_files(self) -> list[messages.OpenFile]:
        counts = dict(Counter(handle.node.id for handle in self._filesystem.handles()))
        counts |= self._binding.open_nodes()  # also those that an earlier worker opened
        found: list[messages.OpenFile] = []
        for number, count in counts.items():
            with suppress(EntryNotFound):
                path = _path_in_repo(self._view.node(number))
                passthrough, why = self._binding.served(number)
                served: Literal["passthrough", "kernel-cache"] = "passthrough" if passthrough else "kernel-cache"
                found.append({"path": path, "handles": count, "served": served, "why": why})
        return sorted(found, key=lambda each: each["path"])


def commit_status(snapshot: MountedSnapshot) -> messages.CommitStatus:
    """The status of a snapshot's visible files, as far as the listing is known; sends no request."""
    files, commit = snapshot.files, snapshot.commit
    complete = files.listings.complete
    entries = snapshot.visible_files()
    states = {entry: files.state(entry) for entry in entries}
    counts = Counter(states.values())
    return {
        "repo": commit.id,
        "type": commit.type.value,
        "revision": commit.revision,
        "commit": commit.sha,
        "endpoint": commit.source,
        "root": snapshot.subfolder,
        "listing": "complete" if complete else "partial",
        "files": len(entries) if complete else None,
        "bytes_total": sum(entry.size or 0 for entry in entries) if complete else None,
        "bytes_local": sum(files.local_bytes(entry) for entry in entries),
        "verification": {
            "verified": counts["verified"],
            "pending": len(entries) - counts["verified"] - counts["failed"] if complete else None,
            "failed": [entry.path for entry, state in states.items() if state == "failed"],
            "passed": sum(files.stream_verified(entry) for entry in entries),
            "unchecked": sum(entry.etag is not None and entry.digest() is None for entry in entries),
            "mismatches": [
                {
                    "at": found.at,
                    "path": entry.path,
                    "expected": found.expected,
                    "got": found.got,
                    "origin": found.origin,
                    "copies": found.copies,
                }
                for entry, found in ((entry, files.mismatch(entry)) for entry in entries)
                if found is not None
            ],
        },
        "problems": _problems(snapshot, entries),
    }


def _problems(snapshot: MountedSnapshot, entries: Iterable[Entry]) -> list[messages.FileProblem]:
    tiny = (entry for entry in entries if entry.size is not None and is_tiny(entry.path, entry.size))
    return [
        {"path": snapshot.mount_path(entry.path), "what": f"has {entry.size} bytes, which is too few for weights"}
        for entry in islice(tiny, _PROBLEMS)
    ]


def _path_in_repo(node: Node) -> str:
    """As fetches name a file: by its path from the repo's root, below the directory that shows the snapshot."""
    content = node.content
    return join(content.snapshot.path, content.entry.path) if isinstance(content, SnapshotFile) else node.path
