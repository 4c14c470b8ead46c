"""A commit, or a folder of one, as a mount shows it: what hydrate, verify, evict, pin, status and prefetch work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..model import Commit, Entry
from ..names import is_below
from ..transfer import CommitFiles
from .patterns import Patterns


@dataclass(frozen=True, slots=True)
class MountedSnapshot:
    """``files`` are those of a commit at and below its ``subfolder``; ``patterns`` leave some of them visible; ``path``
    is the directory below the mountpoint that shows them ("" is the mountpoint itself). ``renamed`` files are shown
    under another name: by their path from the repo's root, the path below ``path``."""

    files: CommitFiles
    patterns: Patterns = field(default_factory=Patterns)
    path: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def commit(self) -> Commit:
        return self.files.commit

    @property
    def subfolder(self) -> str:
        return self.files.root

    def visible_files(self) -> list[Entry]:
        """The visible files that are known so far, in path order; sends no request."""
        return [entry for entry in self.files.listings.files() if self.patterns.match(entry.path)]

    def mount_path(self, path: str) -> str:
        """The path below the mountpoint of a path from the repo's root."""
        inside = self.renamed.get(path)
        if inside is None:
            inside = path.removeprefix(self.subfolder).removeprefix("/") if self.subfolder else path
        return join(self.path, inside)

    def repo_path(self, path: str) -> str:
        """The path from the repo's root of a path below the mountpoint that is at or below this snapshot's."""
        inside = path.removeprefix(self.path).removeprefix("/") if self.path else path
        originals = {name: original for original, name in self.renamed.items()}
        return originals.get(inside) or join(self.subfolder, inside)

    def select(self, path: str = "", patterns: Patterns | None = None) -> Selection | None:
        """The files at or below a path of the mount that match ``patterns`` too. None: the snapshot has none there."""
        if not is_below(path, self.path) and not is_below(self.path, path):
            return None
        more = patterns or Patterns()

        def wanted(each: str) -> bool:
            return self.patterns.match(each) and more.match(each) and is_below(self.mount_path(each), path)

        return Selection(self, wanted)


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a snapshot whose path from the repo's root is ``wanted``."""

    snapshot: MountedSnapshot
    wanted: Callable[[str], bool]


def join(parent: str, name: str) -> str:
    """The path of ``name`` in the directory ``parent``; either may be ""."""
    return f"{parent}/{name}" if parent and name else parent or name
