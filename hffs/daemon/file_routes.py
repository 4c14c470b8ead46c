"""What a mount's files have on this disk: their blocks, their eviction, their pins.

The control socket's routes call this, on any thread; it answers from disk and queue, without a request to a server.
What is evicted under readers is fetched again. Paths are those of the mount.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final, NamedTuple

from ..cache import BlobStore, blob_info, inventory
from ..control import messages
from ..control.server import Request
from ..errors import EntryNotFound, UsageError
from ..model import Blob, Entry
from ..names import is_below
from ..ranges import BLOCK_SIZE, block_count
from ..transfer import Fetcher
from ..vfs import MountedSnapshot, View

_STATES: Final[tuple[Any, ...]] = ("absent", "queued", "in_flight", "local")  # by their byte in a block map
_RUN: Final = re.compile(rb"\x00+|\x01+|\x02+|\x03+")


class _ShownFile(NamedTuple):
    """``path`` is below the mountpoint."""

    path: str
    entry: Entry
    snapshot: MountedSnapshot

    def blob(self) -> Blob | None:
        return self.entry.blob(self.snapshot.commit)


class FileRoutes:
    """The blobs of the files that a view shows."""

    def __init__(self, view: View, store: BlobStore, fetcher: Fetcher) -> None:
        self._view = view
        self._store = store
        self._fetcher = fetcher

    def files(self, request: Request) -> messages.FileList:
        """``GET /v1/files``: per file size, local bytes, state; ``?path=`` names a folder or file of the mount."""
        path = request.query.get("path", "").strip("/")
        found: list[messages.FileStatus] = [
            {
                "path": each.path,
                "size": each.entry.size,
                "bytes_local": each.snapshot.files.local_bytes(each.entry),
                "state": each.snapshot.files.state(each.entry),
            }
            for each in self._files()
            if is_below(each.path, path)
        ]
        return {"path": path, "complete": self._complete(), "files": found}

    def blocks(self, request: Request) -> messages.FileBlockMap:
        """``GET /v1/files/PATH/blocks``. Raises EntryNotFound for a path that is no known file."""
        path = request.name.strip("/")
        file = next((each for each in self._files() if each.path == path), None)
        if file is None:
            raise EntryNotFound(f"no file {path!r} is known here", "a folder's files are known once it was listed")
        runs: list[messages.BlockRun] = []
        blob = file.blob()
        if blob is not None:
            states = self._states(blob)
            for run in _RUN.finditer(states):
                count = run.end() - run.start()
                runs.append({"state": _STATES[states[run.start()]], "start": run.start(), "count": count})
        return {"path": path, "size": file.entry.size, "block_size": BLOCK_SIZE, "runs": runs}

    def _states(self, blob: Blob) -> bytes:
        """A byte for each block: 100 GiB are 400 KB. The queue is read first: a block stored in between is local."""
        states = bytearray(b"\x03" * block_count(blob.size))
        runs = self._fetcher.scheduled_runs(blob)
        for run in self._store.missing(blob):
            states[run.start : run.stop] = bytes(len(run))
        for run, in_flight in runs:
            part = states[run.start : run.stop]
            states[run.start : run.stop] = part.replace(b"\x00", b"\x02" if in_flight else b"\x01")
        return bytes(states)

    def evict(self, request: Request) -> messages.EvictReply:
        """``POST /v1/evict``: ``path`` ("" is all); ``shared``: also content that other files of the mount have.

        Pinned blobs stay, and those that are being fetched or that the kernel reads. Raises UsageError, EntryNotFound,
        CacheUnusable."""
        body = _checked(request, {"path": str, "shared": bool})
        path = body.get("path", "").strip("/")
        chosen, index = self._chosen(path)
        others = [] if body.get("shared", False) else [each for each in self._files() if not is_below(each.path, path)]
        outside = {each.blob() for each in others}
        stay: Counter[str] = Counter()
        blobs = freed = 0
        stored = self._stored(chosen, index)
        in_use = blob_info.open_files(self._store.layout) if stored else frozenset()
        for file, info in stored:
            if file.blob() in outside:
                stay["shared"] += 1
                continue
            evicted = blob_info.evict(info, in_use)
            self._store.invalidate(file.snapshot.files.remote_file(file.entry).blob, evicted.bytes)
            freed += evicted.bytes
            if evicted.kept:
                stay[evicted.kept] += 1
            else:
                blobs += 1
        return {"path": path, "blobs": blobs, "bytes_freed": freed, "stay": dict(stay), "complete": self._complete()}

    def pin(self, request: Request) -> messages.PinReply:
        """``POST /v1/pin``: ``path`` ("" is all), ``pinned`` (default true). What is fetched later is not pinned.

        Raises UsageError, EntryNotFound, CacheUnusable."""
        body = _checked(request, {"path": str, "pinned": bool})
        path, pinned = body.get("path", "").strip("/"), body.get("pinned", True)
        chosen, index = self._chosen(path)
        stored = self._stored(chosen, index)
        present = {file.blob() for file, _ in stored}
        return {
            "path": path,
            "pinned": pinned,
            "blobs": len(stored),
            "changed": sum(blob_info.pin(info, pinned) for _, info in stored),
            "absent": sum(1 for each in chosen if each.entry.size != 0 and each.blob() not in present),
            "complete": self._complete(),
        }

    def _chosen(self, path: str) -> tuple[list[_ShownFile], inventory.BlobIndex]:
        """The files at or below a path, and the local blobs of these. Raises EntryNotFound."""
        chosen = [each for each in self._files() if is_below(each.path, path)]
        if path and not chosen:
            raise EntryNotFound(f"no file at or below {path!r} is known here", "see GET /v1/files")
        layout = self._store.layout
        blobs = (each.blob() for each in chosen if each.entry.size)
        etags = {blob.etag for blob in blobs if blob is not None}
        found = (blob_info.inspect(place) for etag in sorted(etags) for place in layout.copies(etag))
        return chosen, inventory.BlobIndex(each for each in found if each is not None)

    def _stored(
        self, chosen: list[_ShownFile], index: inventory.BlobIndex
    ) -> list[tuple[_ShownFile, blob_info.BlobInfo]]:
        """Each blob of these that has local bytes, once, with a file that has it."""
        found: dict[Any, tuple[_ShownFile, blob_info.BlobInfo]] = {}
        for each in chosen:
            info = index.find(each.snapshot.commit, each.entry) if each.entry.size else None
            if info is not None and info.bytes_local:
                found.setdefault(info.paths, (each, info))
        return list(found.values())

    def _files(self) -> list[_ShownFile]:
        """The visible files that are known."""
        return [
            _ShownFile(snapshot.mount_path(entry.path), entry, snapshot)
            for snapshot in self._view.snapshots()
            for entry in snapshot.visible_files()
        ]

    def _complete(self) -> bool:
        return all(each.files.listings.complete for each in self._view.snapshots())


def _checked(request: Request, kinds: dict[str, type]) -> dict[str, Any]:
    """The body, which has these keys at most, of these types. Raises UsageError."""
    body = request.json()
    for key, value in body.items():
        if key not in kinds:
            raise UsageError(f"there is no {key!r} here", f"it takes {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise UsageError(f"{key!r} is {'text' if kinds[key] is str else 'true or false'}")
    return body
