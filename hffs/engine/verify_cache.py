"""Files looked at where the cache has them, for ``verifying``: of a mount by its daemon, of repos without one.

A file that is wholly here is right when its hash is; one that is partly here is looked at block by block, which tells
damage of the disk and no more. Mending is dropping what is bad, and fetching just that again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..cache import Layout, blob_info
from ..cache.blob_info import BlobInfo
from ..cache.integrity import check_blob, mismatches
from ..cache.integrity.check_blob import BlobCheck
from ..cache.inventory import BlobIndex
from ..cache.store.layout import BlobPaths
from ..control import messages
from ..errors import BlockAbsent, Cancelled, DeadlineExceeded, HffsError, HubUnreachable
from ..model import Commit, Digest, Entry, RemoteFile
from ..policy import is_tiny, problem_of
from ..ranges import BLOCK_SIZE, ByteRange
from ..transfer import BlobHandle, CommitFiles, Fetcher, Hydration, Snapshot
from .hydrate import worker_report
from .verify import CheckedFile, GivenUp, Requirements, Verdict, damage, mended, unmended, warning

# A waiting reader's patience (--read-timeout), for a stretch of 16 MiB.
_PATIENCE_S: Final = 120.0
_STRETCH: Final = 64 * BLOCK_SIZE
_LOOK_S: Final = 0.25  # between two looks at a hydration
_FIX: Final = "run it with --fix"


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file by its listing, or (``commit`` None) a blob that no listing names; ``path`` as it is told."""

    path: str
    commit: Commit | None
    entry: Entry
    holding: BlobInfo | None = None
    asked: bool = True  # whether requirements are about it


@dataclass(slots=True, eq=False)
class _Held(CheckedFile):
    known: KnownFile | None = None
    place: BlobPaths | None = None
    broken: BlobInfo | None = None
    bad: tuple[range, ...] = ()
    whole: bool = True  # was here wholly: all of it is wanted again
    twin: _Held | None = None  # the same content under another name, which was looked at first
    word: Verdict = "absent"


class CacheSource:
    """``files`` is asked for what is known, on the verification's thread. ``fetcher`` gives, when there is something to
    mend, what brings it; ``dropped`` hears of each file whose bytes were wrong, once they are gone."""

    def __init__(
        self,
        target: str,
        layout: Layout,
        files: Callable[[], Iterable[KnownFile]],
        require: Iterable[str] = (),
        *,
        fetcher: Callable[[Commit], Fetcher],
        dropped: Callable[[RemoteFile], None] = lambda _: None,
        big_file: int,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.target = target
        self.warning = ""
        self._layout = layout
        self._files = files
        self._required = Requirements(require)
        self._fetcher_for = fetcher
        self._dropped = dropped
        self._big_file = big_file
        self._close = close
        self._wrong: dict[tuple[str, str], mismatches.Mismatch] = {}
        self._lock = threading.Lock()
        # guarded by _lock
        self._hydration: Hydration | None = None
        self._fetcher: Fetcher | None = None
        self._before = self._fetched = 0

    def close(self) -> None:
        fetched = self.fetched()
        with self._lock:
            self._fetcher, self._fetched = None, fetched
        self._close()

    # --- looking ----------------------------------------------------------------------------------------------------

    def subjects(self, given_up: GivenUp) -> Iterator[CheckedFile]:
        """Each file once, however many commits have it; a content of several names is looked at under the first."""
        self._wrong = {(each.etag, each.origin): each for each in mismatches.standing(self._layout)}
        named: dict[tuple[str, object], _Held] = {}
        first: dict[object, _Held] = {}
        for known in self._files():
            if given_up():
                return
            required = known.asked and self._required.ask(known.entry.path)
            holding, broken = self._look_up(known)
            blob = None if known.commit is None else known.entry.blob(known.commit)
            key: object = holding.place if holding else (blob.etag if blob else known.entry.path)
            twin = first.get(key)
            if twin is not None:
                twin.required |= required
            if (known.path, key) not in named:
                local = holding.bytes_local if holding and twin is None else 0
                made = _Held(known.path, known.entry.size, known.entry.etag, local, required)
                made.known, made.broken, made.twin = known, broken, twin
                made.place = holding.place if holding else None
                named[known.path, key] = first[key] = made
                if twin is not None:
                    first[key] = twin
        yield from named.values()
        yield from self._required.unmet(self.target)

    def _look_up(self, known: KnownFile) -> tuple[BlobInfo | None, BlobInfo | None]:
        """The copy that a reader would be given, and one of which nothing can be used."""
        if known.holding is not None:
            return (None, known.holding) if known.holding.wrong else (known.holding, None)
        entry, commit = known.entry, known.commit
        blob = None if commit is None else entry.blob(commit)
        if blob is None or commit is None or not blob.size:
            return None, None
        own = self._layout.place(blob.etag, blob.origin)
        copies = [each for each in map(blob_info.look, self._layout.copies(blob.etag)) if each is not None]
        broken = next((each for each in copies if each.wrong and each.place == own), None)
        return BlobIndex(copies).find(commit, entry), broken

    def look(self, subject: CheckedFile, given_up: GivenUp, counted: Callable[[int], None]) -> Verdict:
        if not isinstance(subject, _Held) or subject.known is None:  # a requirement that nothing fits
            return "wrong"
        subject.word = subject.twin.word if subject.twin else self._looked(subject, subject.known, given_up, counted)
        return subject.word

    def _looked(self, subject: _Held, known: KnownFile, given_up: GivenUp, counted: Callable[[int], None]) -> Verdict:
        if subject.broken is not None:
            return self._broken(subject, subject.broken)
        if subject.size == 0:
            return "right"
        if subject.local != subject.size and self._came_wrong(subject, known):
            return "wrong"
        if subject.place is None or not subject.local:
            subject.whole = subject.required
            return self._absent(subject)
        digest = self._digest(known)
        found = check_blob.examine(subject.place, digest, given_up, counted)
        word = self._judged(subject, found, digest)
        if word == "right":
            self._settle(known)
        if word != "wrong":
            self._look_inside(subject, word)
        return "wrong" if any(each["severity"] == "damage" for each in subject.findings) else word

    def _came_wrong(self, subject: _Held, known: KnownFile) -> bool:
        """Whether the last that came of it was not what its hash says, and was dropped for that."""
        last = self._wrong.get((known.entry.etag or "", known.commit.endpoint)) if known.commit else None
        if last is None:
            return False
        times = "once" if last.copies == 1 else f"{last.copies} times in a row"
        what = f"it came {times} with other content than {last.expected[:12]}…, and was dropped"
        remedy = "the server may have it wrong; --fix tries again"
        subject.findings.append(damage(subject.path, "hash", what, remedy, expected=last.expected, got=last.got))
        return True

    def _settle(self, known: KnownFile) -> None:
        """It is right now: what was wrong with it before counts no more."""
        file = _remote(known)
        if file is not None and (file.blob.etag, file.blob.origin) in self._wrong:
            mismatches.Mismatches(self._layout).settle(file.blob, right=True, now=time.time())

    def _judged(self, subject: _Held, found: BlobCheck, digest: Digest | None) -> Verdict:
        path = subject.path
        subject.whole = subject.local == subject.size
        if found.bad:
            subject.bad = found.bad
            which = ", ".join(_named(run) for run in found.bad[:3]) + (" and more" if len(found.bad) > 3 else "")
            subject.findings.append(damage(path, "blocks", f"not what was written to the disk: {which}", _FIX))
            return "wrong"
        if digest is not None and found.got and found.got != digest.hex:
            kind = digest.algorithm.removesuffix("-sha1")
            what = f"its bytes have the {kind} hash {found.got[:12]}…, and {digest.hex[:12]}… was promised"
            subject.findings.append(damage(path, "hash", what, _FIX, expected=digest.hex, got=found.got))
            return "wrong"
        if not found.judged:
            subject.findings.append(warning(path, "unchecked", "it changed while it was looked at", "run it again"))
            return "partial"
        if not subject.whole:
            if subject.required:
                what = f"it is required, and only {subject.local} of its {subject.size} bytes are here"
                subject.findings.append(damage(path, "missing", what, _FIX))
            return "partial"
        if digest is None:
            subject.findings.append(warning(path, "unchecked", "its listing names no hash to compare it with"))
            return "plausible"
        return "right"

    def _look_inside(self, subject: _Held, word: Verdict) -> None:
        """Whether it can be what its name says. The Hub has it so, as far as is known: nothing to mend."""
        size, place = subject.size, subject.place
        assert subject.known is not None
        if size is None or place is None or subject.known.commit is None:
            return
        try:
            with check_blob.peek(place) as read:
                problem = problem_of(subject.known.entry.path, size, read)
        except BlockAbsent:
            return
        if problem is not None:
            has = "the repo itself has it so" if word == "right" else "so has the repo, by its size"
            remedy = "ask its authors, or look for another revision"
            subject.findings.append(warning(subject.path, problem.kind, f"it {problem.what}, and {has}", remedy))

    def _absent(self, subject: _Held) -> Verdict:
        if subject.required:
            subject.findings.append(damage(subject.path, "missing", "it is required, and not here", _FIX))
            return "wrong"
        assert subject.known is not None
        if subject.size is not None and is_tiny(subject.known.entry.path, subject.size):
            what = f"it has {subject.size} bytes at the Hub, which is too few for weights"
            subject.findings.append(warning(subject.path, "tiny", what, "read it to see what it is"))
        return "absent"

    def _broken(self, subject: _Held, broken: BlobInfo) -> Verdict:
        if broken.newer:
            subject.findings.append(warning(subject.path, "unchecked", f"{broken.wrong}: left alone"))
            return "plausible"
        subject.place = broken.place
        subject.findings.append(damage(subject.path, "unreadable", f"in the cache, {broken.wrong}", _FIX))
        return "wrong"

    def _digest(self, known: KnownFile) -> Digest | None:
        if known.commit is None:  # nobody says what it should be but who verified it before
            return known.holding.verified if known.holding else None
        return known.entry.digest()

    # --- mending ----------------------------------------------------------------------------------------------------

    def mend(self, bad: Sequence[CheckedFile], given_up: GivenUp) -> None:
        whole: dict[tuple[str, str], tuple[_Held, RemoteFile]] = {}
        for subject in bad:
            if given_up():
                return
            if not isinstance(subject, _Held) or subject.known is None:
                continue
            try:
                file = _remote(subject.known)
                if not self._drop(subject, file):
                    unmended(subject, HffsError("it is in use at this moment", "run this again later"), stays=True)
                elif file is None:
                    mended(subject)
                elif subject.whole or subject.required:
                    whole[file.blob.etag, file.blob.origin] = subject, file
                else:
                    self._again(file, subject.bad, given_up)
                    mended(subject)
            except Cancelled:
                return
            except HffsError as error:
                unmended(subject, error, stays=False)
        if whole:
            self._bring(whole, given_up)

    def _drop(self, subject: _Held, file: RemoteFile | None) -> bool:
        """Let go what is bad of it; whether that is gone."""
        if subject.place is None or all(each["kind"] == "missing" for each in subject.findings):
            return True
        if subject.broken is not None:
            gone = blob_info.free(subject.broken).kept == ""
        else:
            gone = check_blob.drop(subject.place, subject.bad)
        if gone and file is not None:
            self._dropped(file)
        return gone

    def _bring(self, whole: dict[tuple[str, str], tuple[_Held, RemoteFile]], given_up: GivenUp) -> None:
        files = [file for _, file in whole.values()]
        hydration = Hydration(
            self._brings(files[0].commit), lambda: [(file, 0) for file in files], big_file=self._big_file
        )
        with self._lock:
            self._hydration = hydration
        hydration.start()
        while not hydration.join(_LOOK_S):
            if given_up():
                hydration.cancel()
        now = hydration.snapshot()
        for part in now.ended:
            subject = whole.pop((part.file.blob.etag, part.file.blob.origin))[0]
            if part.error is None:
                mended(subject)
            else:
                unmended(subject, part.error, stays=False)
        if now.state != "cancelled":
            for subject, _ in whole.values():  # as the others failed
                error = now.error or next((part.error for part in now.failed if part.error), None)
                unmended(subject, error or HffsError("it was not fetched", "run this again"), stays=False)

    def _again(self, file: RemoteFile, runs: Sequence[range], given_up: GivenUp) -> None:
        """Only these blocks, of a file that is partly here."""
        fetcher = self._brings(file.commit)
        target = fetcher.attach(file)
        try:
            for run in runs:
                for start in range(run.start * BLOCK_SIZE, min(run.stop * BLOCK_SIZE, target.size), _STRETCH):
                    stop = min(start + _STRETCH, run.stop * BLOCK_SIZE, target.size)
                    _await(fetcher, target, ByteRange(start, stop), given_up)
        finally:
            fetcher.detach(target)

    def _brings(self, commit: Commit) -> Fetcher:
        fetcher = self._fetcher
        if fetcher is None:
            fetcher = self._fetcher_for(commit)
            with self._lock:
                self._fetcher, self._before = fetcher, fetcher.bytes_fetched
        return fetcher

    # --- telling ----------------------------------------------------------------------------------------------------

    def mending(self) -> Snapshot | None:
        hydration = self._hydration
        return None if hydration is None else hydration.snapshot()

    def fetched(self) -> int:
        fetcher = self._fetcher
        return self._fetched if fetcher is None else fetcher.bytes_fetched - self._before

    def workers(self) -> messages.Workers | None:
        fetcher = self._fetcher
        return None if fetcher is None else worker_report(fetcher)


def _remote(known: KnownFile) -> RemoteFile | None:
    return None if known.commit is None else known.entry.remote(known.commit)


def _named(run: range) -> str:
    return f"block {run.start}" if len(run) == 1 else f"blocks {run.start} to {run.stop - 1}"


def _await(fetcher: Fetcher, target: BlobHandle, asked: ByteRange, given_up: GivenUp) -> None:
    """Have these bytes come. Raises what keeps them away, Cancelled."""
    arrived, outcome = threading.Event(), list[Exception | None]()

    def told(error: Exception | None) -> None:
        outcome.append(error)
        arrived.set()

    if given_up():
        raise Cancelled("the verification was cancelled")
    ticket = fetcher.wait(target, asked, time.monotonic() + _PATIENCE_S, told)
    ends = time.monotonic() + 2 * _PATIENCE_S  # it always comes: this bounds a bug
    while not arrived.wait(_LOOK_S) and time.monotonic() < ends:
        if given_up():  # a server that is silent keeps nobody
            fetcher.abandon(ticket)
            raise Cancelled("the verification was cancelled")
    error = outcome[0] if outcome else DeadlineExceeded(f"{target.file.path} did not arrive in time", "run this again")
    if error is not None:
        raise error


def of_mount(
    content: CommitFiles, below: str, wanted: Callable[[str], bool], shown: Callable[[str], str], *, everything: bool
) -> Iterator[KnownFile]:
    """What a mount shows at or below a path. Without ``everything`` what anybody has learnt of: no server is asked, and
    what nobody ever saw is not here."""
    try:
        entries: Iterable[Entry] = content.listings.everything() if everything else content.known_entries()
    except HubUnreachable:
        entries = content.known_entries()
    for entry in sorted(entries, key=lambda each: each.path):
        inside = not below or entry.path == below or entry.path.startswith(f"{below}/")
        if inside and entry.kind == "file" and wanted(entry.path):
            try:
                sized = content.sized(entry)
            except HffsError:  # nobody has read it, or its size would be known
                continue
            yield KnownFile(shown(entry.path), content.commit, sized)
