"""URLs: where a file is on a Hub, whether two share an origin, where a redirect may lead, how long a signature lives.

The catalog, the locator and the transport call these. Nothing here prints a URL: a query may hold a signature, so
messages get ``host_of``. Pure functions, any thread.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, quote, urljoin, urlsplit

from ..errors import BadResponse
from ..model import Commit, RepoType
from .headers import compact_date, content_length

_PORTS: Final = {"http": 80, "https": 443}
API: Final = "api"
RESOLVERS: Final = "resolvers"


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what decides whether two URLs are the same server (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def host_of(url: str) -> str:
    """The host, with its port when that is not the usual one; fit to be shown."""
    scheme, host, port = origin_of(url)
    return host if port == _PORTS.get(scheme) else f"{host}:{port}"


def repo_page(endpoint: str, repo_type: RepoType, repo_id: str) -> str:
    """Where a person sees the repo, and asks for access to it."""
    return f"{endpoint}/{repo_type.prefix}{repo_id}"


def resolve_url(commit: Commit, path: str) -> str:
    """Where the Hub answers for a file's content, at the commit itself."""
    base = repo_page(commit.endpoint, commit.type, commit.id)
    return f"{base}/resolve/{quote(commit.sha, safe='')}/{quote(path, safe='/')}"


def next_hop(url: str, location: str | None) -> str:
    """Where a redirect from ``url`` leads. Raises BadResponse when it leads nowhere we would follow: no Location,
    something else than http(s), or from https to http, where anybody on the way could read and change the bytes."""
    if not location:
        raise BadResponse(f"{host_of(url)} redirects without saying where")
    try:
        target = urljoin(url, location)
        scheme, host, _ = origin_of(target)
    except ValueError:
        raise BadResponse(f"{host_of(url)} redirects to a malformed address") from None
    if scheme not in _PORTS or not host:
        raise BadResponse(f"{host_of(url)} redirects to something that is no http(s) address")
    if urlsplit(url).scheme == "https" and scheme != "https":
        raise BadResponse(f"{host_of(url)} redirects from https to http, which is not followed")
    return target


def expires_at(url: str) -> float | None:
    """Until when a signed URL is good, in seconds since the epoch; None when it does not say.

    Source: ``Expires`` (CloudFront), ``X-Amz-Date`` and ``X-Amz-Expires`` (AWS), the same with ``X-Goog-``; of several
    the earliest counts.
    """
    query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    ends: list[float] = []
    moment = content_length(query.get("expires"))
    if moment is not None:
        ends.append(float(moment))
    for signer in ("x-amz-", "x-goog-"):
        start, seconds = compact_date(query.get(f"{signer}date")), content_length(query.get(f"{signer}expires"))
        if start is not None and seconds is not None:
            ends.append(start + seconds)
    return min(ends, default=None)


def bucket_of(url: str) -> str | None:
    """Which of its quotas the Hub counts a request for this URL of its own to: ``resolvers`` for files, ``api`` for the
    rest; None for what is neither, as the cache it redirects files to. Source: its documentation of rate limits."""
    path = urlsplit(url).path
    if "/api/resolve-cache/" in path:
        return None
    if "/api/" in path:
        return API
    return RESOLVERS if "/resolve/" in path else None
