"""Verifies files in folders that other tools made: by size, by hash, and by what their own bytes show.

Mending replaces a file as a whole, by content that was verified in the cache first, and only where nothing of the
user's can be lost: in huggingface_hub's cache, whose files are named by their hash; in a folder of ``hf download``,
where the file was not written since; and anywhere a git-LFS pointer to just that content, or a file that was merely
truncated. In a git clone only LFS pointers are replaced. Files that the repo does not have are never touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..cache import Hasher, HubCache, StoredBlob
from ..cache.hf_cache import local_folder
from ..cache.hf_cache.local_folder import FolderFile, LocalFolder
from ..errors import HffsError, NotFound
from ..formats import POINTER_BELOW, LfsPointer, pointer_of
from ..model import Commit, Digest, Entry, RemoteFile
from ..names import is_below
from ..policy import FormatProblem, problem_of
from . import output_files
from .verify import CheckedFile, IsCancelled, Repair, Requirements, Verdict, hashes

_STEP: Final = 1 << 20  # 1 MiB, as for hashing


@dataclass(frozen=True, slots=True)
class FolderListing:
    """A folder, and what the Hub lists for it: the files by their path in the folder; None where it is not known."""

    folder: LocalFolder
    commit: Commit | None = None
    listed: Mapping[str, Entry] | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class _LocalCopy(CheckedFile):
    listing: FolderListing
    inside: str  # its path from the folder's root
    found: FolderFile | None = None
    entry: Entry | None = None
    pointer: LfsPointer | None = None

    @property
    def digest(self) -> Digest | None:
        return self.entry.digest() if self.entry is not None else None


class FolderSource:
    """``wanted`` chooses among the paths inside each folder."""

    def __init__(
        self,
        target: str,
        listings: Sequence[FolderListing],
        require: Iterable[str] = (),
        *,
        wanted: Callable[[str], bool],
    ) -> None:
        self.name = target
        self.require = Requirements(require)
        self._listings = listings
        self._wanted = wanted

    def files(self, cancelled: IsCancelled) -> Iterator[CheckedFile]:
        empty = True
        for listing in self._listings:
            folder = listing.folder
            prefix = f"{os.path.relpath(folder.root, self.name)}/" if len(self._listings) > 1 else ""
            missing = {
                path: entry
                for path, entry in (listing.listed or {}).items()
                if self._wanted(path) and is_below(path, folder.subpath)
            }
            for found in local_folder.files(folder):
                if cancelled():
                    return
                if self._wanted(found.path):
                    empty = False
                    entry = _expected(found, missing.pop(found.path, None))
                    yield self._copy(listing, prefix, found.path, entry, found)
            for path, entry in sorted(missing.items()):
                empty = False
                yield self._copy(listing, prefix, path, entry)
        if empty:
            raise NotFound(f"there is no file in {self.name} to check", "see its files and the patterns")

    def _copy(
        self, listing: FolderListing, prefix: str, path: str, entry: Entry | None, found: FolderFile | None = None
    ) -> _LocalCopy:
        size = found.size if found else entry.size if entry else None
        return _LocalCopy(
            f"{prefix}{path}",
            size,
            entry.etag if entry else None,
            (found.size or 0) if found else 0,
            self.require.match(path),
            stays=found is not None,
            listing=listing,
            inside=path,
            found=found,
            entry=entry,
        )

    def check(self, file: CheckedFile, cancelled: IsCancelled, count: Callable[[int], None]) -> Verdict:
        assert isinstance(file, _LocalCopy)
        listing, found = file.listing, file.found
        if found is None:
            if not file.required:
                return "absent"
            return _damaged(file, "missing", "required, but missing")
        if found.size is None:
            return _damaged(file, "missing", "it is a link to a file that does not exist")
        if file.entry is None and (listing.listed is not None or listing.folder.kind == "local-dir"):
            return "others"  # it was not downloaded
        try:
            with open(found.real, "rb", buffering=0) as opened:
                return _check(file, opened.fileno(), cancelled, count)
        except OSError as error:
            return file.damage("unreadable", f"it cannot be read: {error.strerror}")

    def repair(self, file: CheckedFile) -> Repair:
        """Raises HffsError where it is not known what to fetch, or a file of the user's might be lost."""
        assert isinstance(file, _LocalCopy)
        commit, listed, found = file.listing.commit, file.listing.listed, file.found
        if commit is None or listed is None:
            raise HffsError("its repo is not known", "name it with --repo")
        entry = listed.get(file.inside)
        remote = None if entry is None else entry.remote(commit)
        if remote is None:
            raise HffsError("the repo has no such file", "restore it by hand")
        made = file.listing.folder.kind
        if found is not None and made != "snapshot":
            if found.link:
                raise HffsError("it is a link, which is not replaced", "repair the file it points to")
            if made == "clone" and not _is_pointer_to_content(file):
                remedy = "git checkout restores the committed file"
                raise HffsError("it may be your own change, and is not replaced", remedy)
        return Repair(remote)

    def replace(self, file: CheckedFile, content: RemoteFile, stored: StoredBlob) -> None:
        """Puts the right content in the place of the file, atomically. Raises HffsError."""
        assert isinstance(file, _LocalCopy)
        folder, found = file.listing.folder, file.found
        if folder.kind == "snapshot" and folder.repo is not None:
            output_files.export(stored, content, HubCache(folder.cache).repo(*folder.repo))
            return
        unchanged = folder.kind == "local-dir" and found is not None and found.etag is not None and not found.modified
        if found is not None and not (unchanged or _is_pointer_to_content(file) or _is_cut_short(found.real, stored)):
            raise HffsError("it may be your own change, and is not replaced", "move it away and run it again")
        output_files.put(stored, folder.root, file.inside, copied=True)


def _check(file: _LocalCopy, fd: int, cancelled: IsCancelled, count: Callable[[int], None]) -> Verdict:
    path, size, entry, digest = file.path, os.fstat(fd).st_size, file.entry, file.digest
    file.pointer = pointer_of(os.pread(fd, POINTER_BELOW, 0), size)
    got = ""
    if entry is not None and digest is not None and entry.size in (None, size):
        hasher = Hasher(digest, size)
        while hasher.hashed < size and not cancelled():
            data = os.pread(fd, _STEP, hasher.hashed)
            if not data:
                break
            hasher.update(data)
            count(len(data))
        got = hasher.hexdigest()
    problem = problem_of(path, size, lambda start, stop: os.pread(fd, stop - start, start))
    if digest is not None and got == digest.hex:
        if problem is not None:
            what, remedy = f"it {problem.what}; the repo has the same content", "ask its authors"
            file.warn(problem.kind, what, remedy)
        return "right"
    wrong = _mismatch(file, size, got, problem)
    if wrong is None:
        return "plausible"
    return _damaged(file, *wrong, expected=digest.hex if digest is not None and got else "", got=got)


def _damaged(file: _LocalCopy, kind: str, what: str, *, expected: str = "", got: str = "") -> Verdict:
    fix = "run it again with --fix"
    if file.listing.commit is None:
        fix = f"name its repo with --repo and {fix}"
    if file.listing.folder.kind == "clone":
        fix = f"git lfs pull, or {fix}" if file.pointer else "git checkout restores the committed file"
    return file.damage(kind, what, fix, expected=expected, got=got)


def _mismatch(file: _LocalCopy, size: int, got: str, problem: FormatProblem | None) -> tuple[str, str] | None:
    """The kind of damage of a file whose hash is not known to be right, and what it is; the most telling one."""
    entry, digest = file.entry, file.digest
    if file.pointer is not None and problem is not None:
        return problem.kind, f"it {problem.what}"
    if entry is not None and entry.size not in (None, size):
        return "size", f"it has {size} bytes instead of {entry.size}"
    if digest is not None:
        since = "; it was written after it was downloaded" if file.found and file.found.modified else ""
        return "hash", f"{digest.algorithm} mismatch: {hashes(digest.hex, got)}{since}"
    return (problem.kind, f"it {problem.what}") if problem is not None else None


def _expected(found: FolderFile, listed: Entry | None) -> Entry | None:
    """What a file should be. The hash that its own folder recorded goes before what the Hub says of another commit."""
    if found.etag is None or (listed is not None and listed.etag == found.etag):
        return listed
    return Entry(found.path, "file", None, found.etag, lfs=len(found.etag) == 64)


def _is_pointer_to_content(file: _LocalCopy) -> bool:
    """Whether the file is the git-LFS pointer to what the repo has there."""
    entry = (file.listing.listed or {}).get(file.inside)
    digest = entry.digest() if entry else None
    return file.pointer is not None and digest is not None and file.pointer.sha256 == digest.hex


def _is_cut_short(real: str, stored: StoredBlob) -> bool:
    """Whether a file is the beginning of the right content, and no more."""
    with open(real, "rb") as file:
        at = 0
        while data := file.read(_STEP):
            if stored.bytes_at(at, min(at + len(data), stored.size)) != data:
                return False
            at += len(data)
    return True
