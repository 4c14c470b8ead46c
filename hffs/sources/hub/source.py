"""A Hub as a ``Source``: its catalog for listings, its transport for bytes, and one state of access over both."""

from __future__ import annotations

from .access import HubAccess
from .auth import Auth
from .catalog import HubCatalog
from .hub_transport import HubTransport
from .url_resolver import UrlResolver


class HubSource:
    """The Hub at ``endpoint``, with the token of ``token_file`` or else of huggingface_hub's. For ``lapse_seconds`` a
    refusal of what was granted before is AccessLapsed. Its methods are those of its parts."""

    def __init__(self, endpoint: str, token_file: str | None = None, *, lapse_seconds: float = 0.0) -> None:
        self.access = HubAccess(Auth(token_file), lapse_seconds=lapse_seconds)
        self._catalog = catalog = HubCatalog(endpoint, self.access)
        self._transport = transport = HubTransport(UrlResolver(self.access), self.access)
        self.id = catalog.endpoint
        self.resolve = catalog.resolve
        self.list_tree = catalog.list_tree
        self.list_directory = catalog.list_directory
        self.stat = catalog.stat
        self.complete_size = catalog.complete_size
        self.open_range = transport.open_range
        self.forget = transport.forget
        self.background_delay = transport.background_delay
        self.close = transport.close

    @property
    def requests(self) -> int:
        return self._catalog.requests + self._transport.requests
