"""Where a file's bytes are: the Hub itself for git files, a signed URL for LFS files, kept until shortly before it
expires. Where the Hub redirects a git file to on its own host is kept likewise.

The transport asks before every range. A signed URL costs one HEAD to the Hub per file and lifetime, however many
threads ask at once: they share the answer, and the failure. Nothing of the content is fetched here. Any thread; the
lock guards the table of URLs and flights and is never held across the network.
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

from requests import Response

from ...errors import BadResponse, ContentChanged, DeadlineExceeded, HffsError, LinkExpired
from ...model import RemoteFile
from ..http.connections import USER_AGENT, Connections
from ..http.headers import content_length, http_date, plain_etag
from .access import HubAccess
from .auth import Token
from .http_errors import RequestSubject, http_errors, refusal
from .urls import expires_at, host_of, next_hop, origin_of, resolve_url

MAX_REDIRECTS: Final = 5  # a rename and a mirror or two; more is a circle
UNKNOWN_LIFE: Final = 600.0  # seconds a URL that names no expiry is kept: the shortest lifetimes seen are an hour
MARGIN: Final = 60.0  # seconds before the expiry that a fetch may still need, having taken the URL from here
LIFE_USED: Final = 0.8  # of a life so short that the margin would eat it
KEPT: Final = 4096  # URLs of about 1 KB; a repo of more LFS files than that asks again


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A URL to send ranged GETs to. ``until`` (monotonic seconds) is when a fresh one should be asked for; ``instead``
    is the refused URL this one was asked for in place of."""

    url: str
    until: float = float("inf")
    instead: str | None = None


class UrlResolver:
    """``clock`` gives wall-clock seconds, ``monotonic`` those that never jump; ``patience`` bounds what a call waits
    for a request that another thread makes."""

    def __init__(
        self,
        standing: HubAccess,
        *,
        connect_timeout: float = 10.0,
        read_timeout: float = 10.0,
        patience: float = 30.0,
        user_agent: str = USER_AGENT,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._standing = standing
        self._connections = Connections(
            connect_timeout=connect_timeout, read_timeout=read_timeout, user_agent=user_agent
        )
        self._patience = patience
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        # guarded by _lock
        self._places: OrderedDict[RemoteFile, SignedUrl] = OrderedDict()  # least recently used first
        self._flights: dict[RemoteFile, Future[SignedUrl]] = {}

    @property
    def requests(self) -> int:
        """Requests sent to the Hub so far, redirects counted."""
        return self._connections.requests

    def close(self) -> None:
        self._connections.close()

    def locate(self, file: RemoteFile) -> SignedUrl:
        """Where to ask for the file's bytes. Raises ContentChanged when the Hub has other content there, AccessDenied,
        EntryNotFound, HubUnreachable, RateLimited, BadResponse, DeadlineExceeded."""
        with self._lock:
            place = self._places.get(file)
            if place is not None and self._monotonic() < place.until:
                self._places.move_to_end(file)
                return place
            if not file.lfs:
                return SignedUrl(resolve_url(file.commit, file.path))
            flight, mine = self._join(file)
        return self._fly(file, flight, instead=None) if mine else self._wait(file, flight)

    def renew(self, file: RemoteFile, bad_url: str) -> SignedUrl:
        """A fresh place after ``bad_url`` was refused, asked for once per refused URL: whoever comes later gets the one
        that has been asked for meanwhile. Raises LinkExpired when the Hub insists on the refused one."""
        with self._lock:
            place = self._places.get(file)
            if place is not None and place.url != bad_url:
                return place
            if not file.lfs:
                self._places.pop(file, None)
                return SignedUrl(resolve_url(file.commit, file.path))
            if place is not None and place.instead == bad_url and self._monotonic() < place.until:
                raise LinkExpired(f"{host_of(bad_url)} refuses {file.path!r} and the Hub knows no other address")
            flight, mine = self._join(file)
        return self._fly(file, flight, instead=bad_url) if mine else self._wait(file, flight)

    def forget(self, file: RemoteFile) -> None:
        """What the kept URL leads to was wrong; the next who asks gets a fresh one. Fetches under way go on."""
        with self._lock:
            self._places.pop(file, None)

    def knows(self, file: RemoteFile) -> bool:
        """Whether a range of the file costs the Hub no look-up now."""
        with self._lock:
            place = self._places.get(file)
            return place is not None and self._monotonic() < place.until

    def arrived(self, file: RemoteFile, url: str) -> None:
        """A git file was answered at ``url``, where the Hub had redirected to: the next range goes there at once."""
        if file.lfs:
            return
        with self._lock:
            place = self._places.get(file)
            if place is None or self._monotonic() >= place.until:
                self._keep(file, SignedUrl(url, self._until(url, {})))

    # --- one request for all who ask --------------------------------------------------------------------------------

    def _join(self, file: RemoteFile) -> tuple[Future[SignedUrl], bool]:
        """The flight for this file, and whether the caller is to carry it out. Called under the lock."""
        flight = self._flights.get(file)
        if flight is not None:
            return flight, False
        flight = self._flights[file] = Future()
        return flight, True

    def _fly(self, file: RemoteFile, flight: Future[SignedUrl], *, instead: str | None) -> SignedUrl:
        try:
            place = self._ask(file, instead)
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

    def _keep(self, file: RemoteFile, place: SignedUrl) -> None:
        """Called under the lock."""
        self._places[file] = place
        self._places.move_to_end(file)
        while len(self._places) > KEPT:
            self._places.popitem(last=False)

    def _wait(self, file: RemoteFile, flight: Future[SignedUrl]) -> SignedUrl:
        try:
            return flight.result(self._patience)
        except FutureTimeout:
            raise DeadlineExceeded(f"the Hub did not say in time where {file.path!r} is") from None

    # --- the request ------------------------------------------------------------------------------------------------

    def _ask(self, file: RemoteFile, instead: str | None) -> SignedUrl:
        """HEAD, from redirect to redirect while they stay with the Hub, up to the first that leaves it."""
        about = RequestSubject.of_commit(file.commit, file.path)
        home = origin_of(file.commit.source)
        url = resolve_url(file.commit, file.path)
        ends = self._monotonic() + self._patience
        for _ in range(MAX_REDIRECTS + 1):
            if self._monotonic() >= ends:
                raise DeadlineExceeded(f"the Hub did not say in time where {file.path!r} is")
            status, headers = self._head(about, url)
            if 300 <= status < 400:
                target = next_hop(url, headers.get("location"))
                if origin_of(target) == home:
                    url = target
                    continue
                url = target
            elif status != 200:
                raise refusal(about, status, headers, url=url)
            self._check(about, file, headers, redirected=status != 200)
            return SignedUrl(url, self._until(url, headers), instead)
        raise BadResponse(f"{host_of(url)} redirects in a circle when asked for {about}")

    def _head(self, about: RequestSubject, url: str) -> tuple[int, Mapping[str, str]]:
        def send(token: Token | None) -> Response:
            with http_errors(about, url):
                headers = {} if token is None else {"Authorization": token.header}
                return self._connections.request("HEAD", url, headers)

        with self._standing.exchange(about, url, send) as response:
            return response.status_code, response.headers

    @staticmethod
    def _check(about: RequestSubject, file: RemoteFile, headers: Mapping[str, str], *, redirected: bool) -> None:
        commit = headers.get("x-repo-commit")
        if commit is None:
            raise BadResponse(f"{host_of(about.endpoint)} does not say of which commit it has {about}")
        if commit != file.commit.sha:
            raise ContentChanged(f"{about} now is of commit {commit[:12]!r} instead of {file.commit.sha[:12]}")
        etag = plain_etag(headers.get("x-linked-etag") or (None if redirected else headers.get("etag")))
        if etag is None:
            raise BadResponse(f"{host_of(about.endpoint)} does not say which content {about} has")
        length = headers.get("x-linked-size") or (None if redirected else headers.get("content-length"))
        size = content_length(length)
        if etag != file.validator or size not in (None, file.blob.size):
            raise ContentChanged(f"{about} has other content than its listing says")

    def _until(self, url: str, headers: Mapping[str, str]) -> float:
        """When to ask anew, in monotonic seconds."""
        end, now = expires_at(url), self._clock()
        if end is None:
            return self._monotonic() + UNKNOWN_LIFE
        life = end - now
        if life <= 0:
            # Dead on arrival: rather our clock is wrong than the Hub's. Its own date tells how long it meant.
            life = max(0.0, end - (http_date(headers.get("date")) or now))
        return self._monotonic() + max(LIFE_USED * life, life - MARGIN)
