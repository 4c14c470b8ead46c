"""Connections by requests: one session, and so one TCP connection to each origin, for every calling thread.

The resolver and the transport of a Hub each have a set of their own, so that a HEAD to the Hub never closes the
connection to the CDN, which limits the speed of each connection, not of all together. Redirects are never followed
here: the caller decides hop by hop which host gets the token. Any thread, also ``close``.
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

__all__ = ["USER_AGENT", "Connections", "Response"]
USER_AGENT: Final = f"hffs/{__version__}; hf_hub/None; python/{platform.python_version()}"


# Prepared requests that a thread keeps. Parsing a signed URL and looking for proxies takes requests 0.6 ms each time, a
# quarter of the work of a 4 MiB fetch (measured 2026-11 with the local Hub); a worker fetches from few files at a time.
MAX_PREPARED: Final = 32


class Connections:
    """``connect_timeout`` bounds the wait for a connection, ``read_timeout`` that for the first byte and any stall
    between bytes, in seconds; how long a whole response may take is the caller's business."""

    def __init__(self, connect_timeout: float = 10.0, read_timeout: float = 10.0) -> None:
        self._timeout = (connect_timeout, read_timeout)
        self._local = threading.local()
        self._lock = threading.Lock()
        # guarded by _lock; a session ends with its thread, and urllib3 then closes the sockets
        self._sessions: WeakSet[Session] = WeakSet()
        self._closed = False
        self._requests = 0

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        with self._lock:
            return self._requests

    def request(self, method: str, url: str, headers: Mapping[str, str]) -> Response:
        """The response to one request, its body unread; the caller closes it. Raises Cancelled after ``close``, and
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
        """Closes idle connections now, and those that are answering when they are done."""
        with self._lock:
            self._closed = True
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def _prepare(self, session: Session, method: str, url: str) -> tuple[PreparedRequest, Any]:
        """The request without headers, and the environment's proxies and certificates for its URL."""
        prepared: OrderedDict[tuple[str, str], tuple[PreparedRequest, Any]] = self._local.prepared
        found = prepared.get((method, url))
        if found is None:
            bare = session.prepare_request(Request(method, url))
            found = prepared[method, url] = bare, session.merge_environment_settings(bare.url, {}, True, None, None)
            if len(prepared) > MAX_PREPARED:
                prepared.popitem(last=False)
        return found[0].copy(), found[1]

    def _session(self) -> Session:
        session: Session | None = getattr(self._local, "session", None)
        if session is None:
            session = Session()
            session.headers.clear()
            session.headers.update({"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"})
            session.auth = _unchanged  # else requests adds what ~/.netrc has for the host
            adapter = HTTPAdapter(pool_connections=4, pool_maxsize=1, max_retries=0)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            with self._lock:
                self._sessions.add(session)
            self._local.session, self._local.prepared = session, OrderedDict()
        return session


def _unchanged(request: PreparedRequest) -> PreparedRequest:
    return request
