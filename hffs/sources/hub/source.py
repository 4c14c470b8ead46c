"""A Hub as a ``Source``: its catalog for listings, its transport for bytes, and one state of access over both."""

from __future__ import annotations

from collections.abc import Iterable

from ...model import Commit, Entry, RemoteFile, RepoRef
from ...ranges import ByteRange
from ..base import ResolvedRepo, TreePage
from ..http.transport import HttpBody
from .access import HubAccess
from .auth import Auth
from .catalog import HubCatalog
from .hub_transport import HubTransport
from .url_resolver import UrlResolver


class HubSource:
    """The Hub at ``endpoint``, with the token of ``token_file`` or else of huggingface_hub's. For ``lapse_seconds`` a
    refusal of what was granted before is AccessLapsed."""

    def __init__(self, endpoint: str, token_file: str | None = None, *, lapse_seconds: float = 0.0) -> None:
        self.access = HubAccess(Auth(token_file), lapse_seconds=lapse_seconds)
        self._catalog = HubCatalog(endpoint, self.access)
        self._transport = HubTransport(UrlResolver(self.access), self.access)
        self.id = self._catalog.endpoint

    @property
    def requests(self) -> int:
        return self._catalog.requests + self._transport.requests

    def resolve(self, ref: RepoRef) -> ResolvedRepo:
        return self._catalog.resolve(ref)

    def list_tree(self, commit: Commit, path: str) -> TreePage:
        return self._catalog.list_tree(commit, path)

    def list_directory(self, commit: Commit, path: str) -> list[Entry]:
        return self._catalog.list_directory(commit, path)

    def stat(self, commit: Commit, paths: Iterable[str]) -> list[Entry]:
        return self._catalog.stat(commit, paths)

    def complete_size(self, commit: Commit, entry: Entry) -> Entry:
        return self._catalog.complete_size(commit, entry)

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> HttpBody:
        return self._transport.open_range(file, wanted)

    def forget(self, file: RemoteFile) -> None:
        self._transport.forget(file)

    def background_delay(self, file: RemoteFile) -> float:
        return self._transport.background_delay(file)

    def close(self) -> None:
        self._transport.close()
