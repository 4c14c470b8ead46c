"""Bytes of a Hub's files by ranged GETs, of which each response must be of the commit and content that was listed.

The fetcher's workers call ``HubTransport.open_range``, each on its own connection. It retries in three cases only, once
each: an expired signed URL, a rotated token, and a new ETag of the CDN for the same content. The token goes to the
Hub's own origin only, hop by hop. Any thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from ...errors import ContentChanged, LinkExpired
from ...model import RemoteFile
from ...ranges import ByteRange
from ..http.connections import Connections, Response
from ..http.errors import http_errors
from ..http.headers import plain_etag
from ..http.transport import HttpBody, check_range, follow
from ..http.urls import host_of, origin_of
from .access import HubAccess
from .auth import Token
from .hub_errors import RequestSubject, refusal
from .url_resolver import MAX_URLS, UrlResolver
from .urls import resolve_url

# What CDNs and object stores answer to an expired signature, or to a URL whose object has moved.
STALE_LINK: Final = frozenset({401, 403, 404, 410})


class HubTransport:
    """The bytes of the files that ``resolver`` locates."""

    def __init__(self, resolver: UrlResolver, access: HubAccess, connections: Connections | None = None) -> None:
        self._resolver = resolver
        self._access = access
        self._connections = connections or Connections()
        self._lock = threading.Lock()
        # guarded by _lock: the CDN's etag of a file's content, least recently used first
        self._etags: OrderedDict[RemoteFile, str] = OrderedDict()

    @property
    def requests(self) -> int:
        """Requests sent so far, for addresses and for bytes, redirects counted."""
        return self._connections.requests + self._resolver.requests

    def close(self) -> None:
        """Ends all connections, the resolver's too; later requests raise Cancelled."""
        self._connections.close()
        self._resolver.close()

    def background_delay(self, file: RemoteFile) -> float:
        """As ``Source.background_delay``; 0 while the file's URL is known, which costs the Hub no request."""
        return 0.0 if self._resolver.knows(file) else self._access.background_delay()

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> HttpBody:
        """As ``Source.open_range``. Raises LinkExpired when the CDN refuses a fresh URL too, BadResponse for a response
        that is not exactly what was requested (lasting, when a big file comes whole)."""
        about = RequestSubject.of_commit(file.commit, file.path)
        if not wanted.length:
            return HttpBody(about, about.endpoint, None, 0)
        if wanted.stop > file.blob.size:
            raise ValueError(f"{wanted} is not inside the {file.blob.size} bytes of {file.path}")
        place = self._resolver.locate(file)
        response, url, at_hub = self._get(about, place.url, wanted)
        cached = place.url != resolve_url(file.commit, file.path)
        stale = (cached or not at_hub) and response.status_code in STALE_LINK
        # Another etag: other content, or the same stored anew. The Hub knows, and is asked for the address again.
        renamed = not at_hub and response.status_code in (200, 206) and not self._same_etag(file, response)
        if stale or renamed:
            response.close()
            place = self._resolver.renew(file, place.url)
            response, url, at_hub = self._get(about, place.url, wanted)
        try:
            if not at_hub and response.status_code in STALE_LINK:
                raise LinkExpired(f"{host_of(url)} refuses a fresh address of {about} ({response.status_code})")
            if response.status_code not in (200, 206):
                raise refusal(about, response.status_code, response.headers, url=url)
            if at_hub:
                _check_content(about, file, response.headers)
            skip = check_range(about, wanted, file.blob.size, response, url)
        except BaseException:
            response.close()
            raise
        if at_hub and url != place.url:
            self._resolver.remember(file, url)
        return HttpBody(about, url, response, wanted.length, skip)

    def forget(self, file: RemoteFile) -> None:
        """As ``Source.forget``: the next range gets a fresh URL, and the CDN may give the content another etag."""
        self._resolver.forget(file)
        with self._lock:
            self._etags.pop(file, None)

    def _get(self, about: RequestSubject, url: str, wanted: ByteRange) -> tuple[Response, str, bool]:
        """The response to a ranged GET, where it came from, and whether that is the Hub itself."""
        response, url = follow(about, url, lambda hop: self._hop(about, hop, wanted))
        return response, url, origin_of(url) == origin_of(about.endpoint)

    def _hop(self, about: RequestSubject, url: str, wanted: ByteRange) -> Response:
        def send(token: Token | None) -> Response:
            headers = {"Range": wanted.header()}
            if token is not None:
                headers["Authorization"] = token.header
            with http_errors(about, url):
                return self._connections.request("GET", url, headers)

        if origin_of(url) != origin_of(about.endpoint):
            return send(None)
        return self._access.exchange(about, url, send)

    def _same_etag(self, file: RemoteFile, response: Response) -> bool:
        """Whether the CDN's etag is that of earlier responses; a first one is remembered, another drops the old."""
        etag = plain_etag(response.headers.get("etag"))
        with self._lock:
            if etag is None or self._etags.setdefault(file, etag) == etag:
                if file in self._etags:
                    self._etags.move_to_end(file)
                while len(self._etags) > MAX_URLS:
                    self._etags.popitem(last=False)
                return True
            del self._etags[file]
            return False


def _check_content(about: RequestSubject, file: RemoteFile, headers: Mapping[str, str]) -> None:
    """Raises ContentChanged when the Hub's own response is of another commit or content than was listed."""
    commit, etag = headers.get("x-repo-commit"), plain_etag(headers.get("x-linked-etag") or headers.get("etag"))
    if commit not in (None, file.commit.sha) or etag not in (None, file.validator):
        raise ContentChanged(f"{about} has other content than its listing says")
