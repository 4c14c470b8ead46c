"""One question to a Hub: are you there, what time is it, and whom do you take us for. Used by ``hffs doctor``.

The token goes to the endpoint only; a redirect is told, not followed. Nothing is kept.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Final

from ...errors import BadResponse
from ...model import RepoType
from ..http.connections import Connections
from ..http.headers import http_date
from .auth import Auth
from .http_errors import RequestSubject, http_errors
from .urls import host_of

# Seconds. Somebody watches; a Hub that takes longer is one that does not work.
_CONNECT: Final = 5.0
_READ: Final = 10.0
_MOST_BYTES: Final = 1 << 18  # an account with many organisations has some 20 KB


@dataclass(frozen=True, slots=True)
class PingReply:
    """``date`` is the server's own time, seconds since the epoch; ``user`` and ``role`` are those of the token, None
    without one or when it is refused."""

    host: str
    seconds: float
    date: float | None
    user: str | None
    role: str | None


def ping(endpoint: str, auth: Auth) -> PingReply:
    """Raises HubUnreachable, BadResponse (it leads elsewhere, or is no Hub), AccessDenied (no token can be read)."""
    host, token = host_of(endpoint), auth.token()
    headers = {} if token is None else {"Authorization": token.header}
    connections = Connections(connect_timeout=_CONNECT, read_timeout=_READ)
    try:
        began = time.perf_counter()
        with (
            http_errors(RequestSubject(endpoint, RepoType.MODEL, "whoami"), endpoint),
            connections.request("GET", f"{endpoint}/api/whoami-v2", headers) as response,
        ):
            seconds = time.perf_counter() - began
            body = response.raw.read(_MOST_BYTES, decode_content=True)
    finally:
        connections.close()
    if response.is_redirect:
        raise BadResponse(f"{host} leads elsewhere", "name the server it leads to: HF_ENDPOINT or --endpoint")
    if response.status_code not in (200, 401, 403):
        raise BadResponse(f"{host} answered {response.status_code} when asked who we are", "is it a Hub? --endpoint")
    told = _told(body) if response.status_code == 200 else {}
    name, access = told.get("name"), told.get("auth")
    token_info = access.get("accessToken") if isinstance(access, dict) else None
    role = token_info.get("role") if isinstance(token_info, dict) else None
    date = http_date(response.headers.get("date"))
    return PingReply(host, seconds, date, _word(name), _word(role))


def _told(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _word(value: object) -> str | None:
    return value[:100] if isinstance(value, str) and value else None
