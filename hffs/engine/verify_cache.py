"""Verifies files in the cache: those that a mount shows, by its daemon, and those of repos without a mount.

A complete file is checked by its hash. The blocks of an incomplete file are checked by their CRCs, which shows that the
disk kept what was written, not that it matches the Hub. Mending drops damaged data and fetches just that again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ..cache import Layout, StoredBlob, blob_info
from ..cache.blob_info import BlobInfo
from ..cache.integrity import check_blob, mismatches
from ..cache.integrity.check_blob import BlobCheck
from ..cache.inventory import BlobIndex
from ..cache.store.layout import BlobPaths
from ..errors import BlockAbsent, HffsError, HubUnreachable
from ..model import Commit, Digest, Entry, RemoteFile
from ..policy import is_tiny, problem_of
from ..vfs import Selection
from .verify import CheckedFile, IsCancelled, Repair, Requirements, Verdict, crc_mismatch, hashes

_FIX: Final = "run it again with --fix"


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file by its listing, or (``commit`` None) a blob that no listing names; ``path`` as it is reported.
    ``requirable``: requirements apply to it."""

    path: str
    commit: Commit | None
    entry: Entry
    blob: BlobInfo | None = None
    requirable: bool = True

    def remote(self) -> RemoteFile | None:
        return None if self.commit is None else self.entry.remote(self.commit)

    def digest(self) -> Digest | None:
        if self.commit is None:  # only an earlier verification knows its hash
            return self.blob.verified if self.blob else None
        return self.entry.digest()


@dataclass(slots=True, eq=False, kw_only=True)
class _CachedFile(CheckedFile):
    known: KnownFile
    place: BlobPaths | None = None
    unreadable: BlobInfo | None = None
    bad: tuple[range, ...] = ()
    whole: bool = True  # it was whole on the disk: all of it is fetched again
    twin: _CachedFile | None = None  # the same content under another name, which is checked first
    verdict: Verdict = "absent"


class CacheSource:
    """``known`` is called on the job's thread. ``dropped`` is called with each file whose bytes were wrong, after they
    were dropped."""

    def __init__(
        self,
        name: str,
        layout: Layout,
        known: Callable[[], Iterable[KnownFile]],
        require: Iterable[str] = (),
        *,
        dropped: Callable[[RemoteFile], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.require = Requirements(require)
        self._layout = layout
        self._known = known
        self._dropped = dropped
        self._mismatches: dict[tuple[str, str], mismatches.Mismatch] = {}

    def files(self, cancelled: IsCancelled) -> Iterable[CheckedFile]:
        """Each file once, however many commits have it; a content with several names is checked under the first."""
        self._mismatches = {(each.etag, each.origin): each for each in mismatches.current(self._layout)}
        named: dict[tuple[str, object], _CachedFile] = {}
        first: dict[object, _CachedFile] = {}
        for known in self._known():
            if cancelled():
                break
            required = known.requirable and self.require.match(known.entry.path)
            info, unreadable = self._find(known)
            blob = None if known.commit is None else known.entry.blob(known.commit)
            key: object = info.paths if info else (blob.etag if blob else known.entry.path)
            twin = first.get(key)
            if twin is not None:
                twin.required |= required
            if (known.path, key) not in named:
                named[known.path, key] = file = _CachedFile(
                    known.path,
                    known.entry.size,
                    known.entry.etag,
                    info.bytes_local if info and twin is None else 0,
                    required,
                    known=known,
                    place=info.paths if info else None,
                    unreadable=unreadable,
                    twin=twin,
                )
                first.setdefault(key, file)
        return named.values()

    def _find(self, known: KnownFile) -> tuple[BlobInfo | None, BlobInfo | None]:
        """The copy that a reader would be served from, and one that cannot be used at all."""
        if known.blob is not None:
            return (None, known.blob) if known.blob.unusable else (known.blob, None)
        entry, commit = known.entry, known.commit
        blob = None if commit is None else entry.blob(commit)
        if blob is None or commit is None or not blob.size:
            return None, None
        own = self._layout.paths(blob.etag, blob.origin)
        copies = [each for each in map(blob_info.inspect, self._layout.copies(blob.etag)) if each is not None]
        unreadable = next((each for each in copies if each.unusable and each.paths == own), None)
        return BlobIndex(copies).find(commit, entry), unreadable

    def check(self, file: CheckedFile, cancelled: IsCancelled, count: Callable[[int], None]) -> Verdict:
        assert isinstance(file, _CachedFile)
        file.verdict = file.twin.verdict if file.twin else self._check(file, cancelled, count)
        return file.verdict

    def _check(self, file: _CachedFile, cancelled: IsCancelled, count: Callable[[int], None]) -> Verdict:
        if file.unreadable is not None:
            return _check_unreadable(file, file.unreadable)
        if file.size == 0:
            return "right"
        if file.local != file.size and self._was_refused(file):
            return "wrong"
        if file.place is None or not file.local:
            file.whole = file.required
            return _check_absent(file)
        digest = file.known.digest()
        found = check_blob.check_blob(file.place, digest, cancelled, count)
        verdict = _judge(file, found, digest)
        if verdict == "right":
            self._clear_mismatch(file.known)
        if verdict != "wrong":
            _check_format(file, file.place, verdict)
        return "wrong" if file.damaged else verdict

    def _was_refused(self, file: _CachedFile) -> bool:
        """Whether the last copy that was fetched did not match its hash, and was dropped for that."""
        known = file.known
        last = self._mismatches.get((known.entry.etag or "", known.commit.source)) if known.commit else None
        if last is None:
            return False
        times = "once" if last.copies == 1 else f"{last.copies} times in a row"
        what = f"fetched {times} with a hash mismatch and dropped: {hashes(last.expected, last.got)}"
        remedy = "the server may serve wrong content; --fix tries again"
        file.damage("hash", what, remedy, expected=last.expected, got=last.got)
        return True

    def _clear_mismatch(self, known: KnownFile) -> None:
        """Forgets an earlier mismatch of a file that is right now."""
        remote = known.remote()
        if remote is not None and (remote.blob.etag, remote.blob.origin) in self._mismatches:
            mismatches.Mismatches(self._layout).clear(remote.blob, right=True, now=time.time())

    def repair(self, file: CheckedFile) -> Repair | None:
        """Drops what is bad. Raises HffsError where it is in use."""
        assert isinstance(file, _CachedFile)
        remote = file.known.remote()
        if file.place is not None and any(each["kind"] != "missing" for each in file.findings):
            if file.unreadable is not None:
                dropped = blob_info.evict(file.unreadable).kept == ""
            else:
                dropped = check_blob.drop_blocks(file.place, file.bad)
            if not dropped:
                raise HffsError("it is in use", "run it again later")
            if remote is not None:
                self._dropped(remote)
        if remote is None:
            return None
        return Repair(remote, () if file.whole or file.required else file.bad)

    def replace(self, file: CheckedFile, content: RemoteFile, stored: StoredBlob) -> None:
        """Nothing to do: what was fetched is in the cache."""


def _check_unreadable(file: _CachedFile, unreadable: BlobInfo) -> Verdict:
    if unreadable.newer:
        file.warn("unchecked", f"{unreadable.unusable}: not checked")
        return "plausible"
    file.place = unreadable.paths
    return file.damage("unreadable", f"unreadable in the cache: {unreadable.unusable}", _FIX)


def _check_absent(file: _CachedFile) -> Verdict:
    if file.required:
        return file.damage("missing", "required, but not local", _FIX)
    if file.size is not None and is_tiny(file.known.entry.path, file.size):
        what = f"it has {file.size} bytes at the Hub, too few for weights"
        file.warn("tiny", what, "read it to see what it is")
    return "absent"


def _judge(file: _CachedFile, found: BlobCheck, digest: Digest | None) -> Verdict:
    file.whole = file.local == file.size
    if found.bad:
        file.bad = found.bad
        return file.damage("blocks", crc_mismatch(found.bad), _FIX)
    if digest is not None and found.got and found.got != digest.hex:
        what = f"{digest.algorithm} mismatch: {hashes(digest.hex, found.got)}"
        return file.damage("hash", what, _FIX, expected=digest.hex, got=found.got)
    if not found.judged:
        file.warn("unchecked", "it changed while it was checked", "run it again")
        return "partial"
    if not file.whole:
        if file.required:
            what = f"required, but only {file.local} of its {file.size} bytes are local"
            file.damage("missing", what, _FIX)
        return "partial"
    if digest is None:
        file.warn("unchecked", "no hash is known to compare it with")
        return "plausible"
    return "right"


def _check_format(file: _CachedFile, place: BlobPaths, verdict: Verdict) -> None:
    """Warns of content that cannot be what the file's name says. As far as is known the Hub has the same content, so
    that there is nothing to mend."""
    if file.size is None or file.known.commit is None:
        return
    try:
        with check_blob.open_reader(place) as read:
            problem = problem_of(file.known.entry.path, file.size, read)
    except BlockAbsent:
        return
    if problem is not None:
        same = "the repo has the same content" if verdict == "right" else "the repo's file has the same size"
        remedy = "ask its authors, or look for another revision"
        file.warn(problem.kind, f"it {problem.what}; {same}", remedy)


def files_of_mount(selections: Iterable[Selection], *, everything: bool) -> Iterator[KnownFile]:
    """The selected files of a mount. With ``everything`` all that the Hub lists, if it can be asked; else those that
    are known already: no server is asked, and of the others nothing can be local."""
    for selection in selections:
        snapshot, files = selection.snapshot, selection.snapshot.files
        try:
            entries: Iterable[Entry] = files.listings.everything() if everything else files.known_entries()
        except HubUnreachable:
            entries = files.known_entries()
        for entry in sorted(entries, key=lambda each: each.path):
            if entry.kind == "file" and selection.wanted(entry.path):
                try:
                    sized = files.sized(entry)
                except HffsError:  # a file that was never read: else its size would be known
                    continue
                yield KnownFile(snapshot.mount_path(entry.path), files.commit, sized)
