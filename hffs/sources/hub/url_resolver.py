"""Where a file's bytes are: at the Hub itself for git files, at a signed URL for LFS files, kept until shortly before
it expires. Where the Hub redirects a git file to on its own host is kept likewise.

``HubTransport`` calls it before every range. A signed URL costs one HEAD to the Hub per file and lifetime, however many
threads want it at once: they share the answer, and the failure. No content is fetched here. Any thread; the lock is
never held across a request.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Final

from ...errors import BadResponse, ContentChanged, DeadlineExceeded, HffsError, LinkExpired
from ...model import RemoteFile
from ..http.connections import Connections, Response
from ..http.errors import http_errors
from ..http.headers import content_length, http_date, plain_etag
from ..http.transport import follow
from ..http.urls import expires_at, host_of, origin_of
from .access import HubAccess
from .auth import Token
from .hub_errors import RequestSubject, refusal
from .urls import resolve_url

DEFAULT_LIFE: Final = 600.0  # seconds a URL that names no expiry is kept: the shortest lifetimes seen are an hour
MARGIN: Final = 60.0  # seconds before the expiry that a fetch may still need, having taken the URL from here
LIFE_USED: Final = 0.8  # of a life so short that the margin would use it up
MAX_URLS: Final = 4096  # of about 1 KB; with more LFS files in use some cost another request


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A URL for ranged GETs. ``until`` (monotonic seconds) is when to request a fresh one; ``replaces`` is the refused
    URL that it was requested in place of."""

    url: str
    until: float = float("inf")
    replaces: str | None = None


class UrlResolver:
    """``clock`` gives wall-clock seconds, ``monotonic`` those that never jump; ``patience`` bounds the wait for a
    request, also for one that another thread makes."""

    def __init__(
        self,
        access: HubAccess,
        connections: Connections | None = None,
        *,
        patience: float = 30.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = access
        self._connections = connections or Connections()
        self._patience = patience
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        # guarded by _lock
        self._urls: OrderedDict[RemoteFile, SignedUrl] = OrderedDict()  # least recently used first
        self._flights: dict[RemoteFile, Future[SignedUrl]] = {}

    @property
    def requests(self) -> int:
        """Requests sent to the Hub so far, redirects counted."""
        return self._connections.requests

    def close(self) -> None:
        self._connections.close()

    def locate(self, file: RemoteFile) -> SignedUrl:
        """Where to request the file's bytes. Raises ContentChanged when the Hub has other content there, AccessDenied,
        EntryNotFound, HubUnreachable, RateLimited, BadResponse, DeadlineExceeded."""
        with self._lock:
            place = self._known(file)
            if place is not None:
                self._urls.move_to_end(file)
                return place
            if not file.lfs:
                return SignedUrl(resolve_url(file.commit, file.path))
            flight, leads = self._join(file)
        return self._request(file, flight, None) if leads else self._wait(file, flight)

    def renew(self, file: RemoteFile, refused: str) -> SignedUrl:
        """A fresh URL in place of the ``refused`` one, requested once per refused URL: later callers get the one that
        was requested meanwhile. Raises LinkExpired when the Hub gives the refused one again."""
        with self._lock:
            place = self._urls.get(file)
            if place is not None and place.url != refused:
                return place
            if not file.lfs:
                self._urls.pop(file, None)
                return SignedUrl(resolve_url(file.commit, file.path))
            if place is not None and place.replaces == refused and self._known(file):
                raise LinkExpired(f"{host_of(refused)} refuses {file.path!r} and the Hub knows no other address")
            flight, leads = self._join(file)
        return self._request(file, flight, refused) if leads else self._wait(file, flight)

    def forget(self, file: RemoteFile) -> None:
        """Drops the file's URL: its bytes proved wrong. Fetches under way continue."""
        with self._lock:
            self._urls.pop(file, None)

    def knows(self, file: RemoteFile) -> bool:
        """Whether ``locate`` would return at once a URL that costs the Hub no request."""
        with self._lock:
            return self._known(file) is not None

    def remember(self, file: RemoteFile, url: str) -> None:
        """The Hub redirected a git file to ``url`` of its own, where the next range is requested at once."""
        with self._lock:
            if not file.lfs and self._known(file) is None:
                self._keep(file, SignedUrl(url, self._until(url, {})))

    def _known(self, file: RemoteFile) -> SignedUrl | None:
        """The caller holds the lock."""
        place = self._urls.get(file)
        return place if place is not None and self._monotonic() < place.until else None

    def _keep(self, file: RemoteFile, place: SignedUrl) -> None:
        """The caller holds the lock."""
        self._urls[file] = place
        self._urls.move_to_end(file)
        while len(self._urls) > MAX_URLS:
            self._urls.popitem(last=False)

    # --- single flight ----------------------------------------------------------------------------------------------

    def _join(self, file: RemoteFile) -> tuple[Future[SignedUrl], bool]:
        """The request for this file, and whether the caller is to send it; the caller holds the lock."""
        flight = self._flights.get(file)
        if flight is not None:
            return flight, False
        flight = self._flights[file] = Future()
        return flight, True

    def _request(self, file: RemoteFile, flight: Future[SignedUrl], replaces: str | None) -> SignedUrl:
        try:
            place = self._head(file, replaces)
        except BaseException as error:
            shared = error if isinstance(error, HffsError) else BadResponse(f"asking for {file.path!r} failed")
            with self._lock:
                del self._flights[file]
            flight.set_exception(shared)
            raise
        with self._lock:
            del self._flights[file]
            self._keep(file, place)
        flight.set_result(place)
        return place

    def _wait(self, file: RemoteFile, flight: Future[SignedUrl]) -> SignedUrl:
        try:
            return flight.result(self._patience)
        except FutureTimeout:
            raise _late(file) from None

    # --- the request ------------------------------------------------------------------------------------------------

    def _head(self, file: RemoteFile, replaces: str | None) -> SignedUrl:
        """HEAD, along the redirects that stay at the Hub, up to the first that leaves it."""
        about = RequestSubject.of_commit(file.commit, file.path)
        ends = self._monotonic() + self._patience

        def hop(url: str) -> Response:
            if self._monotonic() >= ends:
                raise _late(file)
            with self._access.exchange(about, url, lambda token: self._send(about, url, token)) as response:
                return response

        def leaves(url: str) -> bool:
            return origin_of(url) != origin_of(about.endpoint)

        response, url = follow(about, resolve_url(file.commit, file.path), hop, until=leaves)
        redirected = 300 <= response.status_code < 400
        if not redirected and response.status_code != 200:
            raise refusal(about, response.status_code, response.headers, url=url)
        _check(about, file, response.headers, redirected=redirected)
        return SignedUrl(url, self._until(url, response.headers), replaces)

    def _send(self, about: RequestSubject, url: str, token: Token | None) -> Response:
        with http_errors(about, url):
            headers = {} if token is None else {"Authorization": token.header}
            return self._connections.request("HEAD", url, headers)

    def _until(self, url: str, headers: Mapping[str, str]) -> float:
        """When to request a fresh URL, in monotonic seconds."""
        end, now = expires_at(url), self._clock()
        if end is None:
            return self._monotonic() + DEFAULT_LIFE
        life = end - now
        if life <= 0:
            # Expired on arrival: rather our clock is wrong than the Hub's, whose own date gives the life it meant.
            life = max(0.0, end - (http_date(headers.get("date")) or now))
        return self._monotonic() + max(LIFE_USED * life, life - MARGIN)


def _late(file: RemoteFile) -> DeadlineExceeded:
    return DeadlineExceeded(f"the Hub did not give the address of {file.path!r} in time")


def _check(about: RequestSubject, file: RemoteFile, headers: Mapping[str, str], *, redirected: bool) -> None:
    """Raises ContentChanged unless the Hub's answer is of the commit and content that was listed, BadResponse when it
    names neither."""
    commit = headers.get("x-repo-commit")
    if commit is None:
        raise BadResponse(f"{host_of(about.endpoint)} does not say of which commit it has {about}")
    if commit != file.commit.sha:
        raise ContentChanged(f"{about} now is of commit {commit[:12]!r} instead of {file.commit.sha[:12]}")
    etag = plain_etag(headers.get("x-linked-etag") or (None if redirected else headers.get("etag")))
    if etag is None:
        raise BadResponse(f"{host_of(about.endpoint)} does not say which content {about} has")
    size = content_length(headers.get("x-linked-size") or (None if redirected else headers.get("content-length")))
    if etag != file.validator or size not in (None, file.blob.size):
        raise ContentChanged(f"{about} has other content than its listing says")
