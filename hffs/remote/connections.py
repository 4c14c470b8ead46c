"""Connections by requests: one session, and so one TCP connection to each origin, for every calling thread.

The locator and the transport each have a set of their own, so that a HEAD to the Hub never closes the connection to
the CDN. The CDN limits each connection's speed, not ours together. Redirects are never followed here: who may see the
token is decided hop by hop by the caller. Any thread; ``close`` may come from another one than those that ask.
"""

from __future__ import annotations

import platform
import threading
from typing import Final
from weakref import WeakSet

import requests
from requests.adapters import HTTPAdapter

from .. import __version__
from ..errors import Cancelled

USER_AGENT: Final = f"hffs/{__version__}; hf_hub/None; python/{platform.python_version()}"


class Connections:
    def __init__(self, *, connect_timeout: float, read_timeout: float, user_agent: str = USER_AGENT) -> None:
        self._timeout = (connect_timeout, read_timeout)
        self._user_agent = user_agent
        self._mine = threading.local()
        self._lock = threading.Lock()
        # guarded by _lock; a thread that ends takes its session with it, and urllib3 then closes the sockets
        self._sessions: WeakSet[requests.Session] = WeakSet()
        self._closed = False

    def request(self, method: str, url: str, headers: dict[str, str]) -> requests.Response:
        """One request, its body unread and unencoded; the caller closes the response. Raises what requests raises;
        each wait for the network ends after the connect or the read timeout."""
        return self._session().request(
            method,
            url,
            headers={"Accept-Encoding": "identity", **headers},
            allow_redirects=False,
            stream=True,
            timeout=self._timeout,
        )

    def close(self) -> None:
        """End all connections; a request from now on raises Cancelled."""
        with self._lock:
            self._closed = True
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def _session(self) -> requests.Session:
        with self._lock:
            if self._closed:
                raise Cancelled("hffs is shutting down")
        session: requests.Session | None = getattr(self._mine, "session", None)
        if session is None:
            session = requests.Session()
            session.headers.clear()
            session.headers.update({"User-Agent": self._user_agent, "Accept": "*/*"})
            session.auth = _as_it_is  # else requests adds what ~/.netrc has for the host
            adapter = HTTPAdapter(pool_connections=4, pool_maxsize=1, max_retries=0)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            with self._lock:
                self._sessions.add(session)
            self._mine.session = session
        return session


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
