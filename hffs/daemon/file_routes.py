"""What a mount's files have on this disk, for whoever wants to see it block by block, let it go or keep it.

The control socket's routes call this, on any thread; it answers from disk and queue and asks no server. Readers of what
goes fetch it anew. Paths are those of the mount.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from ..cache import BlobStore, blob_info, inventory
from ..control import messages
from ..control.server import Request
from ..errors import EntryNotFound, UsageError
from ..model import Blob, Entry
from ..ranges import BLOCK_SIZE, block_count
from ..transfer import CommitFiles, Fetcher
from ..vfs import Tree

_STATES: Final[tuple[Any, ...]] = ("absent", "queued", "in_flight", "local")  # by the byte that stands for them
_RUN: Final = re.compile(rb"\x00+|\x01+|\x02+|\x03+")


class FileRoutes:
    """The blobs of the files that a mount shows."""

    def __init__(self, content: CommitFiles, tree: Tree, store: BlobStore, fetcher: Fetcher) -> None:
        self._content = content
        self._tree = tree
        self._store = store
        self._fetcher = fetcher

    def blocks(self, request: Request) -> messages.FileBlockMap:
        """``GET /v1/files/PATH/blocks``. Raises EntryNotFound for what is no file that is known."""
        path = request.name.strip("/")
        entry = next(iter(self._files(lambda each: each == path)), None)
        if entry is None:
            raise EntryNotFound(f"no file {path!r} is known here", "a folder's files are known once it was listed")
        runs: list[messages.BlockRun] = []
        if entry.size is not None and entry.etag is not None:
            states = self._states(entry, entry.size)
            for run in _RUN.finditer(states):
                count = run.end() - run.start()
                runs.append({"state": _STATES[states[run.start()]], "start": run.start(), "count": count})
        return {"path": path, "size": entry.size, "block_size": BLOCK_SIZE, "runs": runs}

    def _states(self, entry: Entry, size: int) -> bytes:
        """A byte for each block: 100 GiB are 400 KB. The queue is asked first: what lands in between is local."""
        blob, blocks = self._content.remote_file(entry).blob, block_count(size)
        states = bytearray(b"\x03" * blocks)
        runs = self._fetcher.scheduled_runs(blob)
        for run in self._store.missing(blob):
            states[run.start : run.stop] = bytes(len(run))
        for run, under_way in runs:
            here = states[run.start : run.stop]
            states[run.start : run.stop] = here.replace(b"\x00", b"\x02" if under_way else b"\x01")
        return bytes(states)

    def evict(self, request: Request) -> messages.EvictReply:
        """``POST /v1/evict``: ``path`` ("" is all), ``shared`` also what other files of the mount have the content of.

        Pinned blobs stay, and what is being fetched or read by the kernel directly. Raises UsageError, EntryNotFound,
        CacheUnusable."""
        asked = _asked(request, {"path": str, "shared": bool})
        path, shared = asked.get("path", "").strip("/"), asked.get("shared", False)
        chosen, shelf = self._chosen(path)
        others = [] if shared else self._files(lambda each: not _inside(each, path))
        outside = {self._blob(each) for each in others}
        stay: Counter[str] = Counter()
        blobs = freed = 0
        gone = self._held(chosen, shelf)
        in_use = blob_info.open_files(self._store.layout) if gone else frozenset()
        for entry, holding in gone:
            if self._blob(entry) in outside:
                stay["shared"] += 1
                continue
            let = blob_info.evict(holding, in_use)
            self._store.invalidate(self._content.remote_file(entry).blob, let.bytes)
            freed += let.bytes
            if let.kept:
                stay[let.kept] += 1
            else:
                blobs += 1
        complete = self._content.listings.complete
        return {"path": path, "blobs": blobs, "bytes_freed": freed, "stay": dict(stay), "complete": complete}

    def pin(self, request: Request) -> messages.PinReply:
        """``POST /v1/pin``: ``path`` ("" is all), ``pinned`` (default true). What is fetched later is not pinned.

        Raises UsageError, EntryNotFound, CacheUnusable."""
        asked = _asked(request, {"path": str, "pinned": bool})
        path, pinned = asked.get("path", "").strip("/"), asked.get("pinned", True)
        chosen, shelf = self._chosen(path)
        held = self._held(chosen, shelf)
        there = {self._blob(entry) for entry, _ in held}
        return {
            "path": path,
            "pinned": pinned,
            "blobs": len(held),
            "changed": sum(blob_info.pin(holding, pinned) for _, holding in held),
            "absent": sum(1 for entry in chosen if entry.size != 0 and self._blob(entry) not in there),
            "complete": self._content.listings.complete,
        }

    def _chosen(self, path: str) -> tuple[list[Entry], inventory.BlobIndex]:
        """The files at or below a path, and the blobs that are here of them. Raises EntryNotFound."""
        chosen = self._files(lambda each: _inside(each, path))
        if path and not chosen:
            raise EntryNotFound(f"no file at or below {path!r} is known here", "see GET /v1/files")
        layout = self._store.layout
        blobs = (self._blob(entry) for entry in chosen if entry.size)
        etags = {blob.etag for blob in blobs if blob is not None}
        found = (blob_info.inspect(place) for etag in sorted(etags) for place in layout.copies(etag))
        return chosen, inventory.BlobIndex(each for each in found if each is not None)

    def _held(self, chosen: list[Entry], shelf: inventory.BlobIndex) -> list[tuple[Entry, blob_info.BlobInfo]]:
        """Each blob of these that something is here of, once, with a file that has it."""
        found: dict[Any, tuple[Entry, blob_info.BlobInfo]] = {}
        for entry in chosen:
            holding = shelf.find(self._content.commit, entry) if entry.size else None
            if holding is not None and holding.bytes_local:
                found.setdefault(holding.paths, (entry, holding))
        return list(found.values())

    def _blob(self, entry: Entry) -> Blob | None:
        return entry.blob(self._content.commit)

    def _files(self, wanted: Callable[[str], bool]) -> list[Entry]:
        """The files known and shown whose path in the mount is wanted."""
        root = f"{self._content.root}/" if self._content.root else ""
        return [
            entry
            for entry in self._content.listings.files()
            if wanted(entry.path.removeprefix(root)) and self._tree.visible(entry.path)
        ]


def _inside(path: str, above: str) -> bool:
    return not above or path == above or path.startswith(f"{above}/")


def _asked(request: Request, kinds: dict[str, type]) -> dict[str, Any]:
    """The body, which has these keys at most, of these kinds. Raises UsageError."""
    asked = request.json()
    for key, value in asked.items():
        if key not in kinds:
            raise UsageError(f"there is no {key!r} here", f"it takes {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise UsageError(f"{key!r} is {'text' if kinds[key] is str else 'true or false'}")
    return asked
