"""URLs: whether two share an origin, where a redirect may lead, how long a signature lives.

Nothing here puts a URL into a message: a query may hold a signature, so messages get ``host_of``. Pure functions, any
thread.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Final
from urllib.parse import parse_qsl, urljoin, urlsplit

from ...errors import BadResponse
from .headers import compact_date, content_length

_PORTS: Final = {"http": 80, "https": 443}
# What RFC 3986 allows in an authority without a user: names, numbers, brackets of IPv6, a port. Programs differ in
# where an odd one ends (urlsplit reads https://a\@b as a user of b, urllib3 as the host a), and a token must go to the
# host that was checked.
_AUTHORITY: Final = re.compile(r"[0-9A-Za-z._~-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_MAX_LENGTH: Final = 16 * 1024  # characters of a URL; signed ones have 1,000 to 2,000
_MAX_QUERY_FIELDS: Final = 100


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what decides whether two URLs are the same server (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def host_of(url: str) -> str:
    """The host, with its port when that is not the usual one; fit for messages."""
    scheme, host, port = origin_of(url)
    return host if port == _PORTS.get(scheme) else f"{host}:{port}"


def next_hop(url: str, location: str | None) -> str:
    """The target of a redirect from ``url``. Raises BadResponse for one that is not followed: no Location, a scheme
    other than http(s), from https to http (which anyone on the path may read and change), an authority with a user or
    that two programs may read as two hosts, or from another host to this machine."""
    if not location:
        raise BadResponse(f"{host_of(url)} redirects without a Location")
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
    if len(target) > _MAX_LENGTH or not _AUTHORITY.fullmatch(parts.netloc) or _CONTROL.search(location):
        raise BadResponse(f"{host_of(url)} redirects to a malformed address")
    if urlsplit(url).scheme == "https" and scheme != "https":
        raise BadResponse(f"{host_of(url)} redirects from https to http, which is not followed")
    if is_this_machine(host) and not is_this_machine(origin_of(url)[1]):
        raise BadResponse(f"{host_of(url)} redirects to this machine or its link, which is not followed")
    return target


def is_this_machine(host: str) -> bool:
    """Whether a host is a different machine for each client: loopback, unspecified, link-local (where clouds serve a
    machine's own credentials), multicast. Names are not resolved."""
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
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast


def expires_at(url: str) -> float | None:
    """The end of a signed URL's life in seconds since the epoch; None when the URL names none.

    Source: ``Expires`` (CloudFront), ``X-Amz-Date`` and ``X-Amz-Expires`` (AWS), the same with ``X-Goog-``; the
    earliest of several.
    """
    try:
        fields = parse_qsl(urlsplit(url).query, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:  # no signer writes so many
        return None
    query = {name.lower(): value for name, value in fields}
    moment = content_length(query.get("expires"))
    ends = [] if moment is None else [float(moment)]
    for signer in ("x-amz-", "x-goog-"):
        start, seconds = compact_date(query.get(f"{signer}date")), content_length(query.get(f"{signer}expires"))
        if start is not None and seconds is not None:
            ends.append(start + seconds)
    return min(ends, default=None)
