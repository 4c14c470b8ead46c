"""Header values parsed strictly: what does not parse is None, never a guess. Pure functions, any thread."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from ...ranges import ByteRange

# RFC 9110, 14.4, with both ends and the total known. Digits are ASCII and few: int() takes more than a header should.
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_BUCKET: Final = re.compile(r'\s*"([a-z]{1,32})"\s*;')
_POLICY: Final = re.compile(r'"([a-z]{1,32})"[^,]*?;\s*q\s*=\s*([0-9]{1,9})(?=$|[;,\s])')
_RATE_LIMIT: Final = re.compile(r"(?:^|[;,\s])(r|t)\s*=\s*([0-9]{1,9})(?=$|[;,\s])")


def content_range(text: str | None) -> tuple[ByteRange, int] | None:
    """The half-open range and the total size of a Content-Range header."""
    match = _CONTENT_RANGE.fullmatch(text.strip()) if text else None
    if match is None:
        return None
    first, last, total = (int(digits) for digits in match.groups())
    return (ByteRange(first, last + 1), total) if first <= last < total else None


def content_length(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None


def plain_etag(text: str | None) -> str | None:
    """An etag without its quotes and weakness mark; None when there is none."""
    if not text:
        return None
    return text.strip().removeprefix("W/").strip('"') or None


def http_date(text: str | None) -> float | None:
    """Seconds since the epoch."""
    try:
        moment = parsedate_to_datetime(text) if text else None
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def compact_date(text: str | None) -> float | None:
    """``20260131T235959Z``, as AWS and Google sign it, in seconds since the epoch."""
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp() if text else None
    except ValueError:
        return None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks to wait: the Hub's ``RateLimit`` when its window is used up, else ``Retry-After``.

    ``now`` is wall-clock seconds; source: draft-ietf-httpapi-ratelimit-headers as the Hub sends it, RFC 9110 10.2.3.
    """
    limit = dict(_RATE_LIMIT.findall(headers.get("ratelimit") or ""))
    if int(limit.get("r", 1)) == 0 and "t" in limit:
        return float(limit["t"])
    text = (headers.get("retry-after") or "").strip()
    seconds = content_length(text)
    if seconds is not None:
        return float(seconds)
    moment = http_date(text)
    return None if moment is None else max(0.0, moment - now)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The rest of a quota: ``left`` requests of this ``bucket`` within ``seconds``, of ``limit`` in all if known."""

    bucket: str
    left: int
    limit: int | None
    seconds: float


def allowed(headers: Mapping[str, str]) -> Allowed | None:
    """The quota in a response: ``RateLimit: "api";r=9;t=120``, ``RateLimit-Policy: "fixed window";"api";q=500;w=300``.

    Source: as ``retry_after``.
    """
    text = headers.get("ratelimit") or ""
    bucket, values = _BUCKET.match(text), dict(_RATE_LIMIT.findall(text))
    if bucket is None or not {"r", "t"} <= values.keys():
        return None
    name = bucket[1]
    limits = dict(_POLICY.findall(headers.get("ratelimit-policy") or ""))
    limit = int(limits[name]) if int(limits.get(name, 0)) else None
    return Allowed(name, int(values["r"]), limit, float(values["t"]))
