"""Connections by requests: one session, and so one TCP connection to each origin, for every calling thread.

The locator and the transport each have a set of their own, so that a HEAD to the Hub never closes the connection to
the CDN. The CDN limits each connection's speed, not ours together. Redirects are never followed here: who may see the
token is decided hop by hop by the caller. Any thread; ``close`` may come from another one than those that ask.
"""

from __future__ import annotations

import platform
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakSet

from requests import PreparedRequest, Request, Response, Session
from requests.adapters import HTTPAdapter

from ... import __version__
from ...errors import Cancelled

USER_AGENT: Final = f"hffs/{__version__}; hf_hub/None; python/{platform.python_version()}"


# Signed URLs a thread has ready. Taking one apart and looking for proxies costs requests 0.6 ms each time, a quarter of
# the work of a 4 MiB fetch (measured 2026-11 with the local Hub); a worker is on a few files at a time.
READY: Final = 32


class Connections:
    """``connect_timeout`` and ``read_timeout`` in seconds bound each wait for the network."""

    def __init__(self, *, connect_timeout: float, read_timeout: float, user_agent: str = USER_AGENT) -> None:
        self._timeout = (connect_timeout, read_timeout)
        self._user_agent = user_agent
        self._mine = threading.local()
        self._lock = threading.Lock()
        # guarded by _lock; a thread that ends takes its session with it, and urllib3 then closes the sockets
        self._sessions: WeakSet[Session] = WeakSet()
        self._closed = False
        self._requests = 0

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        with self._lock:
            return self._requests

    def request(self, method: str, url: str, headers: Mapping[str, str]) -> Response:
        """One request, its answer's body unread; the caller closes the response. Raises Cancelled after ``close``, and
        what requests raises."""
        with self._lock:
            if self._closed:
                raise Cancelled("hffs is shutting down")
            self._requests += 1
        session = self._session()
        prepared, settings = self._prepare(session, method, url)
        prepared.headers.update(headers)
        return session.send(prepared, allow_redirects=False, timeout=self._timeout, **settings)

    def close(self) -> None:
        """End all connections that are not answering just now, and those when they are done."""
        with self._lock:
            self._closed = True
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def _prepare(self, session: Session, method: str, url: str) -> tuple[PreparedRequest, Any]:
        """The bare request, and the proxies and certificates the environment wants for its URL."""
        ready: OrderedDict[tuple[str, str], tuple[PreparedRequest, Any]] = self._mine.ready
        found = ready.get((method, url))
        if found is None:
            bare = session.prepare_request(Request(method, url))
            found = ready[method, url] = bare, session.merge_environment_settings(bare.url, {}, True, None, None)
            if len(ready) > READY:
                ready.popitem(last=False)
        return found[0].copy(), found[1]

    def _session(self) -> Session:
        session: Session | None = getattr(self._mine, "session", None)
        if session is None:
            session = Session()
            session.headers.clear()
            session.headers.update({"User-Agent": self._user_agent, "Accept": "*/*", "Accept-Encoding": "identity"})
            session.auth = _as_it_is  # else requests adds what ~/.netrc has for the host
            adapter = HTTPAdapter(pool_connections=4, pool_maxsize=1, max_retries=0)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            with self._lock:
                self._sessions.add(session)
            self._mine.session, self._mine.ready = session, OrderedDict()
        return session


def _as_it_is(request: PreparedRequest) -> PreparedRequest:
    return request
