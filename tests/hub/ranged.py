"""Byte ranges and conditions of a GET (RFC 9110), shared by both origins.

Pure functions over a request and a blob.
"""

from __future__ import annotations

import re

from .content import Blob
from .wire import Answer, Request

ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


def chosen_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Returns the requested [start, stop); None for the whole; start >= size if it cannot be satisfied.

    Several ranges and anything malformed count as no range, which a server may do.
    """
    found = ONE_RANGE.match(header.replace(" ", "")) if header else None
    if found is None or found.group(0) == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        suffix = int(last)
        return (max(size - suffix, 0), size) if suffix and size else (size, size)
    start, stop = int(first), min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return None
    return (start, stop) if start < size else (size, size)


def same_etag(header: str, etag: str, weak: bool) -> bool:
    """Returns whether a conditional header names this quoted ETag; weak comparison ignores W/."""
    for offered in header.split(","):
        offered = offered.strip()
        if offered in ("*", etag) or (weak and offered.removeprefix("W/") == etag.removeprefix("W/")):
            return True
    return False


def blob_answer(request: Request, blob: Blob, etag: str, headers: dict[str, str]) -> Answer:
    """Returns the 200, 206, 304 or 416 for a blob, with the quoted `etag` and the given headers on each."""
    headers = {"Accept-Ranges": "bytes", "ETag": etag, **headers}
    if "if-none-match" in request.headers and same_etag(request.headers["if-none-match"], etag, weak=True):
        headers.pop("Content-Type", None)
        return Answer(304, headers)
    wanted = chosen_range(request.headers.get("range"), blob.size) if request.method == "GET" else None
    if wanted is not None and "if-range" in request.headers and request.headers["if-range"] != etag:
        wanted = None  # the condition compares strongly; a date never matches, for we send no Last-Modified
    if wanted is None:
        return Answer(200, {**headers, "Content-Length": str(blob.size)}, blob.parts())
    start, stop = wanted
    if start >= blob.size:
        return Answer(416, {**headers, "Content-Range": f"bytes */{blob.size}", "Content-Length": "0"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
    return Answer(206, {**headers, "Content-Length": str(stop - start)}, blob.parts(start, stop))
