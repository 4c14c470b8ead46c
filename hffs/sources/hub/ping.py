"""One request to a Hub that finds out whether it answers, its time, and the user of the token; for ``hffs doctor``.

The token goes to the endpoint only; a redirect is reported, not followed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Final

from ...errors import BadResponse
from ..http.connections import Connections
from ..http.errors import http_errors
from ..http.headers import http_date
from ..http.urls import host_of
from .auth import Auth

# Seconds. The user waits; a Hub that takes longer does not work.
_CONNECT: Final = 5.0
_READ: Final = 10.0
_MAX_BYTES: Final = 1 << 18  # an account with many organisations has some 20 KB


@dataclass(frozen=True, slots=True)
class PingReply:
    """``seconds`` is what the answer took, ``date`` the server's own time in seconds since the epoch; ``user`` and
    ``role`` are those of the token, None without one or when it is refused."""

    host: str
    seconds: float
    date: float | None
    user: str | None
    role: str | None


def ping(endpoint: str, auth: Auth) -> PingReply:
    """Raises HubUnreachable, BadResponse (a redirect, or no Hub), AccessDenied (the token cannot be read)."""
    host, token = host_of(endpoint), auth.token()
    headers = {} if token is None else {"Authorization": token.header}
    connections = Connections(_CONNECT, _READ)
    try:
        began = time.perf_counter()
        with (
            http_errors("whoami", endpoint),
            connections.request("GET", f"{endpoint}/api/whoami-v2", headers) as response,
        ):
            seconds = time.perf_counter() - began
            body = response.raw.read(_MAX_BYTES, decode_content=True)
    finally:
        connections.close()
    if response.is_redirect:
        raise BadResponse(f"{host} redirects to another server", "name that one: HF_ENDPOINT or --endpoint")
    if response.status_code not in (200, 401, 403):
        raise BadResponse(
            f"{host} answered {response.status_code} when asked for the user of the token", "is it a Hub? --endpoint"
        )
    user = _decoded(body) if response.status_code == 200 else {}
    name, access = user.get("name"), user.get("auth")
    token_info = access.get("accessToken") if isinstance(access, dict) else None
    role = token_info.get("role") if isinstance(token_info, dict) else None
    date = http_date(response.headers.get("date"))
    return PingReply(host, seconds, date, _short(name), _short(role))


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _short(value: object) -> str | None:
    return value[:100] if isinstance(value, str) and value else None
