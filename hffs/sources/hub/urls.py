"""URLs: where a file is on a Hub, whether two share an origin, where a redirect may lead, how long a signature lives.

The catalog, the locator and the transport call these. Nothing here prints a URL: a query may hold a signature, so
messages get ``host_of``. Pure functions, any thread.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Final
from urllib.parse import parse_qsl, quote, urljoin, urlsplit

from ...errors import BadResponse
from ...model import Commit, RepoType
from ..http.headers import compact_date, content_length

_PORTS: Final = {"http": 80, "https": 443}
API: Final = "api"
RESOLVERS: Final = "resolvers"
# What RFC 3986 lets stand in an authority without a user: names, numbers, brackets of IPv6, a port. Programs differ in
# where an odd one ends (urlsplit reads https://a\@b as a user of b, urllib3 as the host a), and the token must go to
# the host that we looked at.
_AUTHORITY: Final = re.compile(r"[0-9A-Za-z._~-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST: Final = 16 * 1024  # characters of a URL; signed ones have 1,000 to 2,000
_QUERY_FIELDS: Final = 100


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
    base = repo_page(commit.source, commit.type, commit.id)
    return f"{base}/resolve/{quote(commit.sha, safe='')}/{quote(path, safe='/')}"


def next_hop(url: str, location: str | None) -> str:
    """Where a redirect from ``url`` leads. Raises BadResponse when it leads nowhere we would follow: no Location,
    something else than http(s), from https to http, where anybody on the way could read and change the bytes, an
    address with a user in it or that two programs may read as two hosts, or from elsewhere to this machine."""
    if not location:
        raise BadResponse(f"{host_of(url)} redirects without saying where")
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        scheme, host, _ = origin_of(target)
    except ValueError:
        raise BadResponse(f"{host_of(url)} redirects to a malformed address") from None
    if scheme not in _PORTS or not host:
        raise BadResponse(f"{host_of(url)} redirects to something that is no http(s) address")
    if "@" in parts.netloc:
        raise BadResponse(f"{host_of(url)} redirects to an address with a user or password in it")
    if len(target) > _LONGEST or not _AUTHORITY.fullmatch(parts.netloc) or _CONTROL.search(location):
        raise BadResponse(f"{host_of(url)} redirects to a malformed address")
    if urlsplit(url).scheme == "https" and scheme != "https":
        raise BadResponse(f"{host_of(url)} redirects from https to http, which is not followed")
    if is_this_machine(host) and not is_this_machine(origin_of(url)[1]):
        raise BadResponse(f"{host_of(url)} redirects to this machine or its link, which is not followed")
    return target


def is_this_machine(host: str) -> bool:
    """Whether a host is one that means another machine to each who asks: loopback, unspecified, link-local (where
    clouds answer for a machine's own credentials), multicast. Names are not looked up."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        try:  # 127.1, 0x7f.1 and 2130706433 are addresses to getaddrinfo(3)
            address = ipaddress.IPv4Address(socket.inet_aton(name))
        except (OSError, ValueError):
            return False
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    return address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast


def expires_at(url: str) -> float | None:
    """Until when a signed URL is good, in seconds since the epoch; None when it does not say.

    Source: ``Expires`` (CloudFront), ``X-Amz-Date`` and ``X-Amz-Expires`` (AWS), the same with ``X-Goog-``; of several
    the earliest counts.
    """
    try:
        query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query, max_num_fields=_QUERY_FIELDS)}
    except ValueError:  # no signer writes so many
        return None
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
