"""Files looked at in folders that others made, for ``verifying``: by size, hash, and what their own bytes tell.

Mending replaces a file as a whole, by content that was verified in the cache first, and only where nothing of the
user's can be lost: in huggingface_hub's cache, whose files are named by their hash; in a folder of ``hf download``,
where nobody has written the file since; and anywhere a git-LFS pointer to just that content, or a file that was merely
cut short. In a git clone it is the pointer alone. Files that the repo does not have are never touched.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..cache import Hasher, HubCache, StoredBlob
from ..cache.hf_cache import local_folder
from ..cache.hf_cache.local_folder import FolderFile, LocalFolder
from ..control import messages
from ..errors import HffsError, NotFound
from ..model import Commit, Entry, RemoteFile
from ..policy import POINTER_BELOW, FormatProblem, Pointer, pointer_of, problem_of
from ..transfer import Fetcher, Hydration, Snapshot
from . import output_files
from .hydrate import worker_report
from .verify import CheckedFile, GivenUp, Requirements, Verdict, damage, mended, unmended, warning

_STEP: Final = 1 << 20  # 1 MiB, as for hashing
_LOOK_S: Final = 0.25  # between two looks at a hydration


@dataclass(frozen=True, slots=True)
class FolderListing:
    """A folder, and what the Hub says of it: the files by path as the folder has them; None: it did not say."""

    folder: LocalFolder
    commit: Commit | None = None
    listed: Mapping[str, Entry] | None = None


@dataclass(slots=True, eq=False)
class _LocalCopy(CheckedFile):
    told: FolderListing | None = None
    lying: FolderFile | None = None
    entry: Entry | None = None
    pointer: Pointer | None = None
    inside: str = ""  # its path from the folder's root


class FolderSource:
    """``fetcher`` gives, when there is something to mend, what brings it."""

    def __init__(
        self,
        target: str,
        told: Sequence[FolderListing],
        require: Iterable[str] = (),
        *,
        wanted: Callable[[str], bool],
        fetcher: Callable[[Commit], Fetcher],
        big_file: int,
        warning: str = "",
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.target = target
        self.warning = warning
        self._told = told
        self._required = Requirements(require)
        self._wanted = wanted
        self._fetcher_for = fetcher
        self._big_file = big_file
        self._close = close
        self._lock = threading.Lock()
        # guarded by _lock
        self._hydration: Hydration | None = None
        self._fetcher: Fetcher | None = None
        self._fetched = 0

    def close(self) -> None:
        fetched = self.fetched()
        with self._lock:
            self._fetcher, self._fetched = None, fetched
        self._close()

    # --- looking ----------------------------------------------------------------------------------------------------

    def subjects(self, given_up: GivenUp) -> Iterator[CheckedFile]:
        several = len(self._told) > 1
        found = 0
        for told in self._told:
            name = f"{os.path.relpath(told.folder.root, self.target)}/" if several else ""
            listed = {path: entry for path, entry in (told.listed or {}).items() if self._is_meant(told, path)}
            for lying in local_folder.files(told.folder):
                if given_up():
                    return
                if self._wanted(lying.path):
                    found += 1
                    entry = _expected(lying, listed.pop(lying.path, None))
                    made = _LocalCopy(f"{name}{lying.path}", lying.size, entry.etag if entry else None, lying.size or 0)
                    made.told, made.lying, made.entry, made.inside = told, lying, entry, lying.path
                    made.required = self._required.ask(lying.path)
                    yield made
            for path, entry in sorted(listed.items()):
                missing = _LocalCopy(f"{name}{path}", entry.size, entry.etag, 0, self._required.ask(path))
                missing.told, missing.entry, missing.inside = told, entry, path
                found += 1
                yield missing
        if not found:
            raise NotFound(f"there is no file in {self.target} to look at", "see what it holds, and the patterns")
        yield from self._required.unmet(self.target)

    def _is_meant(self, told: FolderListing, path: str) -> bool:
        below = told.folder.below
        return self._wanted(path) and (not below or path == below or path.startswith(f"{below}/"))

    def look(self, subject: CheckedFile, given_up: GivenUp, counted: Callable[[int], None]) -> Verdict:
        if not isinstance(subject, _LocalCopy) or subject.told is None:
            return "wrong"
        lying = subject.lying
        if lying is None:
            if not subject.required:
                return "absent"
            subject.findings.append(
                damage(subject.path, "missing", "it is required, and not here", _way_out(subject.told))
            )
            return "wrong"
        if lying.size is None:
            what = "it is a link to a file that is not there"
            subject.findings.append(damage(subject.path, "missing", what, _way_out(subject.told)))
            return "wrong"
        if subject.entry is None and (subject.told.listed is not None or subject.told.folder.made == "local-dir"):
            return "others"  # nobody downloaded it
        try:
            with open(lying.real, "rb", buffering=0) as file:
                return self._looked(subject, subject.told, file.fileno(), given_up, counted)
        except OSError as error:
            subject.findings.append(damage(subject.path, "unreadable", f"it cannot be read: {error.strerror}"))
            return "wrong"

    def _looked(
        self, subject: _LocalCopy, told: FolderListing, fd: int, given_up: GivenUp, counted: Callable[[int], None]
    ) -> Verdict:
        path, size, entry = subject.path, os.fstat(fd).st_size, subject.entry
        subject.pointer = pointer_of(os.pread(fd, POINTER_BELOW, 0), size)
        digest = entry.digest() if entry else None
        got = ""
        if entry is not None and digest is not None and entry.size in (None, size):
            hasher = Hasher(digest, size)
            while hasher.hashed < size and not given_up():
                data = os.pread(fd, _STEP, hasher.hashed)
                if not data:
                    break
                hasher.update(data)
                counted(len(data))
            got = hasher.hexdigest()
        problem = problem_of(path, size, lambda start, stop: os.pread(fd, stop - start, start))
        if digest is not None and got == digest.hex:
            if problem is not None:
                what, remedy = f"it {problem.what}, and the repo itself has it so", "ask its authors"
                subject.findings.append(warning(path, problem.kind, what, remedy))
            return "right"
        wrong = _wrong(subject, size, got, problem)
        if wrong is None:
            return "plausible"
        kind, what = wrong
        expected = digest.hex if digest is not None else ""
        way_out = _way_out(told, pointer=subject.pointer is not None)
        subject.findings.append(damage(path, kind, what, way_out, expected=expected if got else "", got=got))
        return "wrong"

    # --- mending ----------------------------------------------------------------------------------------------------

    def mend(self, bad: Sequence[CheckedFile], given_up: GivenUp) -> None:
        wanted: dict[tuple[str, str], _LocalCopy] = {}
        files: list[RemoteFile] = []
        for subject in bad:
            if isinstance(subject, _LocalCopy) and subject.told is not None:
                try:
                    file = _remote(subject, subject.told)
                    _refuse_unsafe(subject, subject.told)
                except HffsError as refused:
                    unmended(subject, refused, stays=True)
                else:
                    wanted[file.commit.sha, file.path] = subject
                    files.append(file)
        if not files:
            return

        def put(file: RemoteFile, stored: StoredBlob) -> None:
            subject = wanted[file.commit.sha, file.path]
            _replace(subject, file, stored)

        fetcher = self._fetcher_for(files[0].commit)
        hydration = Hydration(fetcher, lambda: [(file, 0) for file in files], big_file=self._big_file, lay=put)
        with self._lock:
            self._fetcher, self._hydration = fetcher, hydration
        hydration.start()
        while not hydration.join(_LOOK_S):
            if given_up():
                hydration.cancel()
        now = hydration.snapshot()
        for part in now.ended:
            subject = wanted.pop((part.file.commit.sha, part.file.path))
            if part.error is None:
                mended(subject)
            else:
                unmended(subject, part.error, stays=subject.lying is not None)
        if now.state != "cancelled":
            for left in wanted.values():  # as the others failed
                error = now.error or next((part.error for part in now.failed if part.error), None)
                unmended(left, error or HffsError("it was not fetched", "run this again"), stays=left.lying is not None)

    # --- telling ----------------------------------------------------------------------------------------------------

    def mending(self) -> Snapshot | None:
        hydration = self._hydration
        return None if hydration is None else hydration.snapshot()

    def fetched(self) -> int:
        fetcher = self._fetcher
        return self._fetched if fetcher is None else fetcher.bytes_fetched

    def workers(self) -> messages.Workers | None:
        fetcher = self._fetcher
        return None if fetcher is None else worker_report(fetcher)


def _wrong(subject: _LocalCopy, size: int, got: str, problem: FormatProblem | None) -> tuple[str, str] | None:
    """What is wrong with a file whose hash is not known to be right; the first thing that says most."""
    entry = subject.entry
    if subject.pointer is not None and problem is not None:
        return problem.kind, f"it {problem.what}"
    if entry is not None and entry.size not in (None, size):
        return "size", f"it has {size} bytes instead of {entry.size}"
    digest = entry.digest() if entry is not None else None
    if digest is not None:
        kind = digest.algorithm.removesuffix("-sha1")
        since = ", and it was written after it was downloaded" if subject.lying and subject.lying.touched else ""
        return "hash", f"its bytes have the {kind} hash {got[:12]}…, and {digest.hex[:12]}… is the repo's{since}"
    return (problem.kind, f"it {problem.what}") if problem is not None else None


def _expected(lying: FolderFile, listed: Entry | None) -> Entry | None:
    """What a file should be. What its own folder noted goes before what the Hub says of another commit."""
    if lying.etag is None or (listed is not None and listed.etag == lying.etag):
        return listed
    return Entry(lying.path, "file", None, lying.etag, lfs=len(lying.etag) == 64)


def _way_out(told: FolderListing, *, pointer: bool = False) -> str:
    """What to do where it is not mended here."""
    fix = "run it with --fix" if told.commit is not None else "name its repo with --repo and run it with --fix"
    if told.folder.made != "clone":
        return fix
    return f"git lfs pull, or {fix}" if pointer else "git checkout gives back what is committed"


def _remote(subject: _LocalCopy, told: FolderListing) -> RemoteFile:
    """Where to fetch it from. Raises HffsError."""
    entry = (told.listed or {}).get(subject.inside)
    if told.commit is None or told.listed is None:
        raise HffsError("it is not known which repo it is of", "name that with --repo")
    file = None if entry is None else entry.remote(told.commit)
    if file is None:
        raise HffsError("the repo has no such file", "it is left as it is")
    return file


def _refuse_unsafe(subject: _LocalCopy, told: FolderListing) -> None:
    """Raises HffsError where a file of the user's might be lost."""
    lying, made = subject.lying, told.folder.made
    if lying is None or made == "snapshot":
        return
    if lying.link:
        raise HffsError("it is a link, which is left as it is", "mend what it leads to")
    if made == "clone" and not _stands_for(subject, told):
        raise HffsError("it may be your own change, and is left as it is", "git checkout gives back what is committed")


def _stands_for(subject: _LocalCopy, told: FolderListing) -> bool:
    """Whether the file is the git-LFS pointer to what the repo has there."""
    entry = (told.listed or {}).get(subject.inside)
    digest = entry.digest() if entry else None
    return subject.pointer is not None and digest is not None and subject.pointer.sha256 == digest.hex


def _replace(subject: _LocalCopy, file: RemoteFile, stored: StoredBlob) -> None:
    """Put the right content in the place of the file, at once or not at all. Raises HffsError."""
    told, lying = subject.told, subject.lying
    assert told is not None
    folder = told.folder
    if folder.made == "snapshot" and folder.repo is not None:
        output_files.export(stored, file, HubCache(folder.cache).repo(*folder.repo))
        return
    ours = folder.made == "local-dir" and lying is not None and lying.etag is not None and not lying.touched
    if lying is not None and not ours and not _stands_for(subject, told) and not _begins(lying.real, stored):
        raise HffsError("it may be your own change, and is left as it is", "move it away, and run this again")
    output_files.put(stored, folder.root, subject.inside, copied=True)


def _begins(real: str, stored: StoredBlob) -> bool:
    """Whether a file is the beginning of the right content, and no more."""
    with open(real, "rb") as file:
        at = 0
        while data := file.read(_STEP):
            if stored.bytes_at(at, min(at + len(data), stored.size)) != data:
                return False
            at += len(data)
    return True
