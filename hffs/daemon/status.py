"""What a mount says of itself: the values of ``messages.Status``, derived from store, queue and listing when asked.

Nothing is counted on the side; asking never waits for the network or for a lock that is held across it.
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
from ..control.server import Request
from ..engine.jobs import worker_report
from ..engine.session import HubContext, Session
from ..errors import EntryNotFound
from ..fuse import Binding
from ..model import Entry
from ..policy import is_tiny
from ..sources.hub import HubAccess
from ..system import log_setup
from ..system.bdi_readahead import DeviceReadahead
from ..vfs import Filesystem, Tree
from .mount_spec import MountSpec
from .supervisor_link import ALONE, SupervisorLink

_PROBLEMS: Final = 16  # as many as last errors: a repo cloned without git-lfs has a pointer for every weight


def hub(standing: HubAccess) -> messages.HubStatus:
    """How we stand with the Hub, as its answers so far told."""
    now, refused = time.monotonic(), standing.refused
    return {
        "refused": "" if refused is None else refused.what,
        "remedy": "" if refused is None else refused.remedy,
        "slowed": standing.slowed(),
        "quotas": [
            {"kind": kind, "left": quota.left, "limit": quota.limit, "resets_s": round(quota.resets_at - now, 1)}
            for kind, quota in standing.quotas().items()
        ],
    }


class Hydrating(Protocol):
    def hydration(self) -> messages.HydrationStatus: ...


class Reporter:
    """Answers the control socket's questions about one mount."""

    def __init__(
        self,
        spec: MountSpec,
        where: str,
        binding: Binding,
        parts: Session,
        tree: Tree,
        filesystem: Filesystem,
        hub: HubContext,
        jobs: Hydrating,
        link: SupervisorLink | None = None,
    ) -> None:
        self.state: messages.State = "starting"
        self.read_ahead = DeviceReadahead(None)
        self.pid = os.getpid()
        self._spec = spec
        self._where = where
        self._binding = binding
        self._content = parts.content
        self._tree = tree
        self._filesystem = filesystem
        self._fetcher = parts.fetcher
        self._store = parts.store
        self._budget = parts.budget
        self._catalog = hub.catalog
        self._reach = hub.reach
        self._standing = hub.standing
        self._jobs = jobs
        self._transport = parts.transport
        self._link = link
        before = None if link is None else link.handover
        if before:
            self.state = "restarting"
        self.started = before.started if before else time.monotonic()  # of the mount: this clock is the machine's
        self.started_at = before.started_at if before else time.time()

    def record(self) -> messages.MountRecord:
        commit = self._content.commit
        return {
            "mountpoint": self._where,
            "repo": commit.id,
            "type": commit.type.value,
            "revision": commit.revision,
            "commit": commit.sha,
            "pid": self.pid,
            "started_at": self.started_at,
            "supervisor": None if self._link is None else self._link.supervisor(),
        }

    def status(self) -> messages.Status:
        commit = self._content.commit
        complete = self._content.listings.complete
        files = [entry for entry in self._content.listings.files() if self._tree.visible(entry.path)]
        states = {entry: self._content.state(entry) for entry in files}
        counts = Counter(states.values())
        return {
            "mountpoint": self._where,
            "repo": commit.id,
            "type": commit.type.value,
            "revision": commit.revision,
            "commit": commit.sha,
            "pid": self.pid,
            "state": self._state(),
            "socket": messages.socket_path(self._spec.settings.runtime_dir, self._where),
            "binding": self._binding.name,
            "supervisor": None if self._link is None else self._link.supervisor(),
            "endpoint": commit.source,
            "uptime_s": round(time.monotonic() - self.started, 3),
            "listing": "complete" if complete else "partial",
            "files": len(files) if complete else None,
            "bytes_total": sum(entry.size or 0 for entry in files) if complete else None,
            "bytes_local": sum(self._content.local_bytes(entry) for entry in files),
            "bytes_fetched": self._fetcher.bytes_fetched,
            "requests": self._transport.requests + self._catalog.requests,
            "hydration": self._jobs.hydration(),
            "verification": {
                "verified": counts["verified"],
                "pending": len(files) - counts["verified"] - counts["failed"] if complete else None,
                "failed": [entry.path for entry, state in states.items() if state == "failed"],
                "passed": sum(self._content.stream_verified(entry) for entry in files),
                "unchecked": sum(entry.etag is not None and entry.digest() is None for entry in files),
                "mismatches": [
                    {
                        "at": found.at,
                        "path": entry.path,
                        "expected": found.expected,
                        "got": found.got,
                        "origin": found.origin,
                        "copies": found.copies,
                    }
                    for entry, found in ((entry, self._content.mismatch(entry)) for entry in files)
                    if found is not None
                ],
            },
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
                    "on": commit.source,
                }
                for read in self._fetcher.waiting_reads()
            ],
            "last_errors": self._last_errors(),
            "read_ahead": {"kb": self.read_ahead.kb, "command": self.read_ahead.command},
            "bandwidth": {"limit": self._fetcher.throttle.rate},
            "hub": hub(self._standing),
            "root": self._content.root,
            "problems": self._problems(files),
            "log": log_setup.where(),
        }

    def _problems(self, files: Iterable[Entry]) -> list[messages.FileProblem]:
        tiny = (entry for entry in files if entry.size is not None and is_tiny(entry.path, entry.size))
        return [
            {"path": self._below(entry), "what": f"has {entry.size} bytes, which is too few for weights"}
            for entry in islice(tiny, _PROBLEMS)
        ]

    def _below(self, entry: Entry) -> str:
        root = self._content.root
        return entry.path.removeprefix(f"{root}/") if root else entry.path

    def progress(self) -> messages.ProgressEvent:
        """What of the status changes from second to second; costs nothing that grows with the repo."""
        return {
            "bytes_fetched": self._fetcher.bytes_fetched,
            "bytes_per_s": round(self._fetcher.speed()),
            "workers": len(self._fetcher.active_workers()),
            "waiting_reads": len(self._fetcher.waiting_reads()),
            "hydration": self._jobs.hydration(),
        }

    def summary(self) -> str:
        """The state in a line, for ``systemctl status``; cheap enough to be asked for every few seconds."""
        commit, job, waiting = self._content.commit, self._jobs.hydration(), len(self._fetcher.waiting_reads())
        told = f"{self._state()}: {commit.type.prefix}{commit.id}@{commit.revision}, commit {commit.sha[:12]}"
        if job["state"] == "running":
            told += f", hydrating, {job['files_done']} of {job['files_total']} files are here"
        reads = "1 read waits" if waiting == 1 else f"{waiting} reads wait"
        return f"{told}, {reads}" if waiting else told

    def _state(self) -> messages.State:
        if self.state != "serving":
            return self.state
        if self._reach.offline:
            return "offline"
        return "degraded" if self._fetcher.degraded or self._standing.refused else "serving"

    def files(self, request: Request) -> messages.FileList:
        """Per file: size, local bytes, state; ``?path=`` names a folder or file of the mount, default all."""
        asked = request.query.get("path", "").strip("/")
        root = self._content.root + "/" if self._content.root else ""
        found: list[messages.FileStatus] = []
        for entry in self._content.listings.files():
            path = entry.path.removeprefix(root)
            inside = not asked or path == asked or path.startswith(asked + "/")
            if inside and self._tree.visible(entry.path):
                local = self._content.local_bytes(entry)
                state = self._content.state(entry)
                found.append({"path": path, "size": entry.size, "bytes_local": local, "state": state})
        return {"path": asked, "complete": self._content.listings.complete, "files": found}

    def _last_errors(self) -> list[messages.LastError]:
        found: list[messages.LastError] = [
            {"at": failure.at, "what": failure.what, "path": failure.path} for failure in self._fetcher.errors()
        ]
        if self._link is not None and self._link.lost_at is not None:
            found.append({"at": self._link.lost_at, "what": ALONE})
        return found

    def _open_files(self) -> list[messages.OpenFile]:
        found: list[messages.OpenFile] = []
        counts = Counter(handle.node for handle in self._filesystem.handles())
        for number, count in self._binding.open_nodes().items():  # also what a worker before us opened
            with suppress(EntryNotFound):
                counts[self._tree.node(number)] = count
        for node, count in counts.items():
            passthrough, why = self._binding.served(node.id)
            served: Literal["passthrough", "kernel-cache"] = "passthrough" if passthrough else "kernel-cache"
            found.append({"path": node.path, "handles": count, "served": served, "why": why})
        return sorted(found, key=lambda each: each["path"])
