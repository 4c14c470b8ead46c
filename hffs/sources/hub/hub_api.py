"""Calls of huggingface_hub's HfApi with deadlines, retries, bounds and tokens of our own.

The catalog makes every call of HfApi inside ``HubClient.calling``, which intercepts huggingface_hub's shared HTTP
client. Each request then gets a deadline (HfApi's listings have none) and, at the Hub's own origin only, the present
token; it is counted, and retried within ``PATIENCE``, where huggingface_hub's own retries may take minutes; and fields
that a listing leaves out are added as null, where HfApi would give up. Other users of the same client in this process
are not affected. Any thread; no request is sent under a lock.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from huggingface_hub import get_session

from ...errors import BadResponse, HubUnreachable
from ...policy import RetryPolicy
from ..http.transport import MAX_REDIRECTS
from ..http.urls import host_of, next_hop, origin_of
from .access import HubAccess
from .auth import Token
from .bounded_response import ANSWER_SECONDS, PageGuard, read_whole
from .hub_errors import RequestSubject, httpx, hub_errors, refusal, unreachable

# Seconds. A page of 1000 entries takes the Hub a second or two; huggingface_hub itself gives a HEAD ten.
CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0

# A user at a prompt or a readdir waits: 0.75 s more on average for a Hub that is down, and a wait that the Hub asks for
# only when it is short. All requests here are safe to repeat.
RETRY: Final = RetryPolicy(attempts=3, base=0.5, cap=4.0)
PATIENCE: Final = 30.0

# huggingface_hub requests this list for its User-Agent, from another server than the endpoint; a failure counts as no
# list.
_TELEMETRY: Final = "/api/agent-harnesses"

log = logging.getLogger(__name__)

Send = Callable[..., Any]


class Exchange:
    """One call of HfApi: what it is about, and the state of its listing."""

    def __init__(self, client: HubClient, about: RequestSubject, *, listing: bool) -> None:
        self.client = client
        self.about = about
        self.listing = listing
        self.pages = PageGuard(about)
        self.rows = 0  # entries in the last page
        self.more = False  # whether it names a next page


_EXCHANGE: ContextVar[Exchange | None] = ContextVar("hffs_exchange", default=None)
_INTERCEPT = threading.Lock()


class HubClient:
    """The requests of this process to one Hub through HfApi. ``sleep``, ``jitter`` and ``monotonic`` are time's and
    random's, but for tests."""

    def __init__(
        self,
        endpoint: str,
        access: HubAccess,
        *,
        sleep: Callable[[float], object] = time.sleep,
        jitter: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.access = access
        self._sleep = sleep
        self._jitter = jitter
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._requests = 0  # guarded by _lock

    @property
    def requests(self) -> int:
        """Requests sent so far, redirects counted."""
        with self._lock:
            return self._requests

    def exchange(self, about: RequestSubject, *, listing: bool = False) -> Exchange:
        return Exchange(self, about, listing=listing)

    @contextmanager
    def calling(self, exchange: Exchange) -> Iterator[Exchange]:
        """Around calls of HfApi by this thread: raises HffsErrors only."""
        with hub_errors(exchange.about):
            _intercept(get_session())
            token = _EXCHANGE.set(exchange)
            try:
                yield exchange
            finally:
                _EXCHANGE.reset(token)

    def send(self, inner: Send, exchange: Exchange, request: Any, options: dict[str, Any]) -> Any:
        if request.url.path.endswith(_TELEMETRY):
            raise HubUnreachable("hffs sends requests to the endpoint only")
        limits = {"connect": CONNECT_SECONDS, "read": READ_SECONDS, "write": READ_SECONDS, "pool": CONNECT_SECONDS}
        request.extensions = {**request.extensions, "timeout": limits}
        ends = self._monotonic() + PATIENCE
        attempt = 0
        while True:
            try:
                response = self._follow(inner, exchange, request, options)
                break
            except HubUnreachable as error:
                wait = RETRY.decide(
                    attempt, transient=error.transient, retry_after=error.retry_after, random=self._jitter()
                )
                if wait is None or self._monotonic() + wait > ends:
                    raise
                log.info("event=hub-asked-again wait=%.1f why=%s", wait, error.what)
            self._sleep(wait)
            attempt += 1
        if exchange.listing and response.status_code == 200:
            response = _complete_rows(exchange, response)
        return response

    def _follow(self, inner: Send, exchange: Exchange, request: Any, options: dict[str, Any]) -> Any:
        """The response at the end of the redirects. They are followed here, since the token depends on the host of each
        hop, and since the client below would read each body to its end and follow to any address."""
        options = dict(options)
        follow = options.pop("follow_redirects")
        for _ in range(MAX_REDIRECTS + 1):
            response = self._hop(inner, exchange, request, options)
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise refusal(exchange.about, response.status_code, response.headers)
            if response.is_redirect:
                # A redirect's length is that of its own body; huggingface_hub 1.x takes it for the file's.
                response.headers.pop("content-length", None)
            if not (follow and response.has_redirect_location):
                return response
            target = next_hop(str(request.url), response.headers["location"])  # raises for what is not followed
            limits, request = request.extensions, response.next_request
            if request is None or origin_of(str(request.url)) != origin_of(target):
                raise BadResponse(f"{host_of(self.endpoint)} redirects to a malformed address")
            request.extensions = {**request.extensions, **limits}
        raise BadResponse(f"{host_of(self.endpoint)} redirects in a circle when asked for {exchange.about}")

    def _hop(self, inner: Send, exchange: Exchange, request: Any, options: dict[str, Any]) -> Any:
        def send(token: Token | None) -> Any:
            request.headers.pop("authorization", None)
            if token is not None:
                request.headers["authorization"] = token.header
            return self._send(inner, exchange, request, options)

        url = str(request.url)
        if origin_of(url) != origin_of(self.endpoint):
            return send(None)
        return self.access.exchange(exchange.about, url, send)

    def _send(self, inner: Send, exchange: Exchange, request: Any, options: dict[str, Any]) -> Any:
        if request.headers.get("accept-encoding") != "identity":
            request.headers["accept-encoding"] = "gzip"  # the one that is unpacked within bounds
        ends = self._monotonic() + ANSWER_SECONDS
        self._count()
        try:
            response = inner(request, **{**options, "stream": True, "follow_redirects": False})
            return read_whole(exchange.about, response, ends, self._monotonic)
        except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise unreachable(host_of(self.endpoint), error) from None

    def _count(self) -> None:
        with self._lock:
            self._requests += 1


def _intercept(session: Any) -> None:
    """Sends the shared client's requests through ``HubClient.send`` while a call is in progress. Checked for each call,
    for huggingface_hub replaces the client now and then.

    Its ``set_client_factory`` would be the documented way, but there is one factory per process, which may be the
    user's.
    """
    with _INTERCEPT:
        if "_hffs_inner" in vars(session):
            return
        inner: Send = session.send

        def send(request: Any, **options: Any) -> Any:
            exchange = _EXCHANGE.get()
            if exchange is None or options.get("stream"):
                return inner(request, **options)
            if not isinstance(options.get("follow_redirects"), bool):
                options["follow_redirects"] = session.follow_redirects
            return exchange.client.send(inner, exchange, request, options)

        session._hffs_inner = inner  # noqa: SLF001 - marks the client as intercepted
        session.send = send


def _complete_rows(exchange: Exchange, response: Any) -> Any:
    """A page of entries as HfApi requires it: entries of unknown kinds are left out, missing sizes are null. Any other
    mistake is left for HfApi to find."""
    rows = response.json()
    if not isinstance(rows, list):
        raise BadResponse(f"{host_of(exchange.about.endpoint)} sent no list of the files of {exchange.about}")
    kept = [_complete_row(row) for row in rows if not isinstance(row, dict) or row.get("type") in ("file", "directory")]
    link = response.links.get("next", {}).get("url")
    exchange.rows = len(kept)
    exchange.more = link is not None
    exchange.pages.add_page(str(response.request.url), len(rows), link)
    links = [("link", value) for value in response.headers.get_list("link")]
    body = json.dumps(kept).encode()  # in ASCII, for a name may hold what UTF-8 cannot
    return httpx.Response(response.status_code, headers=links, content=body, request=response.request)


def _complete_row(row: Any) -> Any:
    if not isinstance(row, dict) or row["type"] != "file":
        return row
    full = {"size": None, **row}
    if isinstance(full.get("lfs"), dict):
        full["lfs"] = {"size": None, "pointerSize": None, **full["lfs"]}
    return full
