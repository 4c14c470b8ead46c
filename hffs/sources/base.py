"""The seam between hffs and every place that repos come from: a Hub, and later git remotes, URLs, local folders.

A ``Source`` resolves names to commits, lists them, and opens ranges of their files. It is all that transfer, engine,
api, daemon and vfs know of a server; ``SourceSet`` routes each commit and file to the source that it names. A source
stores nothing and retries only what its protocol demands; caching is the index's, retrying the fetcher's.

Content is identified by ``model.Blob``: by its hash (sha256, git-sha1) or, where the listing names none, by an opaque
etag that holds for one file at one source. Every failure is an HffsError, whose class says what the caller may do:
RepoNotFound, RevisionNotFound, EntryNotFound; AccessDenied (with the remedy), AccessLapsed; RateLimited and
HubUnreachable (with ``retry_after``, where the source names a time); ContentChanged; BadResponse. Every method may be
called from any thread. ``tests/model/test_sources.py`` is the suite that each source passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..errors import AccessDenied, HffsError
from ..model import Commit, Entry, RemoteFile, RepoRef
from ..policy import Quota
from ..ranges import ByteRange


@dataclass(frozen=True, slots=True)
class ResolvedRepo:
    """A repo as its source has it now. ``gated``: access must be asked for, "auto" or "manual" where it says how."""

    commit: Commit
    private: bool = False
    gated: bool | str = False


@dataclass(frozen=True, slots=True)
class TreePage:
    """What one request gives of a recursive listing. ``rest`` requests the following pages as it is iterated; None when
    there are none."""

    entries: list[Entry]
    rest: Iterator[Entry] | None = None


class Body(Protocol):
    """Exactly the bytes of one range, or an error on the way. One thread reads; any thread may abort."""

    def readinto(self, view: memoryview) -> int:
        """Fills ``view`` with the next bytes and returns its length. Raises HffsError when they do not come, ValueError
        past the end of the range."""

    def abort(self) -> None:
        """Ends the wait of a ``readinto`` under way and of later ones: they fail unless their bytes have arrived."""

    def close(self) -> None: ...


class Access(Protocol):
    """What a source allows at present: whether it grants access, and how many requests. Asking costs no request."""

    @property
    def refused(self) -> AccessDenied | None:
        """Why access is refused, if the last answer refused it."""

    def quotas(self) -> Mapping[str, Quota]:
        """The quotas of the windows that have not ended, by kind of request."""

    def requests_left(self) -> int | None:
        """Requests for files that remain in this window; None where the source does not say."""

    def slow_reason(self) -> str:
        """Why requests that no reader waits for are slowed down or held back; "" when they are not."""

    def on_next_answer(self, callback: Callable[[], None]) -> None:
        """Calls ``callback`` once after the next answer about a file, which brings ``requests_left`` up to date; on the
        thread of that request."""

    def recovered(self) -> bool:
        """Whether a refusal has ended since the last call. Meant to be polled once a second."""

    def assume_granted(self, commit: Commit) -> None:
        """A process before this one read files of ``commit``: a refusal now is a lapse, not a denial."""


class OpenAccess:
    """The access of a source that refuses nothing and counts nothing."""

    refused: AccessDenied | None = None

    def quotas(self) -> Mapping[str, Quota]:
        return {}

    def requests_left(self) -> int | None:
        return None

    def slow_reason(self) -> str:
        return ""

    def on_next_answer(self, callback: Callable[[], None]) -> None:
        """Never calls it: there is no answer that would say more."""

    def recovered(self) -> bool:
        return False

    def assume_granted(self, commit: Commit) -> None: ...


class Lister(Protocol):
    """Listings of commits. Entries have names that ``names.check_name`` accepts, each path once."""

    def list_tree(self, commit: Commit, path: str) -> TreePage:
        """The recursive listing below ``path`` ("" for all), as far as one request gives it. Raises EntryNotFound when
        there is no such directory."""

    def list_directory(self, commit: Commit, path: str) -> list[Entry]:
        """The entries of one directory. Raises EntryNotFound when there is no such directory."""

    def stat(self, commit: Commit, paths: Iterable[str]) -> list[Entry]:
        """The entries of those among ``paths`` that exist."""

    def complete_size(self, commit: Commit, entry: Entry) -> Entry:
        """The entry with its size and etag, where the listing left them out. Raises EntryNotFound."""


class RangeReader(Protocol):
    """Bytes of files."""

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> Body:
        """These bytes of the file, which has all of them; the caller closes the body. Raises ContentChanged when the
        source has other content there now, LinkExpired, EntryNotFound, Cancelled after ``close``."""

    def forget(self, file: RemoteFile) -> None:
        """Drops what is remembered of where the file is: its bytes proved wrong."""


class Source(Lister, RangeReader, Protocol):
    """Where listings and bytes come from."""

    @property
    def id(self) -> str:
        """What commits name as their ``source``, the same in every process: it is part of the keys of the cache."""

    @property
    def access(self) -> Access: ...

    @property
    def requests(self) -> int:
        """Requests sent so far."""

    def resolve(self, ref: RepoRef) -> ResolvedRepo:
        """The commit that a revision stands for now (of the default branch where none is named). Raises RepoNotFound,
        RevisionNotFound."""

    def background_delay(self, file: RemoteFile) -> float:
        """Seconds that a request for this file should be put off when no reader waits for it; 0: it may be sent, and is
        counted as sent."""

    def close(self) -> None:
        """Ends all requests; later ones raise Cancelled."""


class SourceSet:
    """Sources by id; a commit or a file is asked of the source it names. Constant after construction."""

    def __init__(self, *sources: Source) -> None:
        self._sources = {source.id: source for source in sources}

    @property
    def requests(self) -> int:
        return sum(source.requests for source in self._sources.values())

    def of(self, source: str) -> Source:
        """The source of this id. Raises HffsError where there is none."""
        if source not in self._sources:
            raise HffsError(f"{source} is not one of the sources in use")
        return self._sources[source]

    def recovered(self) -> bool:
        """Whether access to any of them has recovered since the last call."""
        recovered = [source.access.recovered() for source in self._sources.values()]  # polls each of them
        return any(recovered)

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> Body:
        return self.of(file.source).open_range(file, wanted)

    def forget(self, file: RemoteFile) -> None:
        self.of(file.source).forget(file)

    def background_delay(self, file: RemoteFile) -> float:
        return self.of(file.source).background_delay(file)

    def close(self) -> None:
        for source in self._sources.values():
            source.close()
