"""Responses of the Hub read whole within bounds: of decoded bytes, of JSON values, of time.

``hub_api`` reads every response through ``read_whole``, since the client below decodes without a limit: a few kilobytes
of gzip can be gigabytes. ``PageGuard`` bounds a listing of many pages. Any thread; a ``PageGuard`` belongs to one call.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Final

from ...errors import BadResponse
from ..http.urls import host_of, origin_of
from .hub_errors import RequestSubject, httpx

# Bytes. A page of 1000 entries takes 0.3 MB; some mirrors send all entries on one page, here up to 100,000 files.
MAX_BYTES: Final = 32 << 20
# Values in the JSON, counted by commas, and lists and objects. Each takes some 100 bytes of memory and at least three
# bytes of JSON; an entry has ten and two.
MAX_VALUES: Final = 2_000_000
MAX_NESTS: Final = 1_000_000
# Seconds from the request to the end of its response: 32 MiB at 0.5 MB/s.
ANSWER_SECONDS: Final = 60.0
# Entries in a listing of many pages. The Hub recommends less than 100,000 files in a repo; this many take 1 GB of
# memory here, and without a bound a server could keep a listing going for days.
MAX_ENTRIES: Final = 2_000_000
# Pages that may be nearly empty; with more, the average must be 25 entries, where the Hub's hold 50 or 1000.
THIN_PAGES: Final = 100
_THIN: Final = 25


def read_whole(about: RequestSubject, response: Any, ends: float, monotonic: Callable[[], float]) -> Any:
    """A response with the body of ``response``, which is unread and is closed, decoded. Raises BadResponse for one that
    is too big, or not over by ``ends``, or in an encoding that was not offered, and what the client raises."""
    host = host_of(str(response.request.url))
    encoding = (response.headers.get("content-encoding") or "identity").strip().lower()
    unpack = zlib.decompressobj(wbits=31) if encoding == "gzip" else None  # 31: with gzip's header
    body = bytearray()
    try:
        if unpack is None and encoding != "identity":
            raise BadResponse(f"{host} encodes its answer about {about} in a way that was not offered")
        for piece in response.iter_raw():
            if monotonic() > ends:
                raise BadResponse(f"{host} did not end its answer about {about} within {ANSWER_SECONDS:.0f} s")
            body += piece if unpack is None else unpack.decompress(piece, MAX_BYTES + 1 - len(body))
            if len(body) > MAX_BYTES:
                raise BadResponse(f"{host} sends more than {MAX_BYTES >> 20} MiB about {about}", lasting=True)
            if unpack is not None and (unpack.unused_data or unpack.unconsumed_tail):
                raise BadResponse(f"{host} sent an answer about {about} that cannot be decoded")
    except zlib.error:
        raise BadResponse(f"{host} sent an answer about {about} that cannot be decoded") from None
    finally:
        response.close()
    if unpack is not None and body and not unpack.eof:
        raise BadResponse(f"{host} ended its answer about {about} too early")
    if body.count(b",") > MAX_VALUES or body.count(b"{") + body.count(b"[") > MAX_NESTS:
        raise BadResponse(f"{host} sends an answer about {about} of too many parts", lasting=True)
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_BODY]
    read = httpx.Response(response.status_code, headers=headers, content=bytes(body), request=response.request)
    if response.request.method == "HEAD" and "content-length" in response.headers:
        read.headers["content-length"] = response.headers["content-length"]
    read.next_request = response.next_request
    return read


_OF_THE_BODY: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class PageGuard:
    """The pages of one listing so far."""

    def __init__(self, about: RequestSubject) -> None:
        self._about = about
        self._pages = self._entries = 0
        self._links: set[str] = set()

    def add_page(self, page: str, rows: int, link: str | None) -> None:
        """``page``, a URL, has so many entries and names ``link`` as the next. Raises BadResponse when that is another
        server's or an earlier page, or the listing has no entries or too many."""
        host, about = host_of(page), self._about
        self._pages += 1
        self._entries += rows
        if link is None:
            return
        self._links.add(page)
        try:
            elsewhere = origin_of(link) not in (origin_of(page), origin_of(about.endpoint))
        except ValueError:
            elsewhere = True
        if elsewhere:
            raise BadResponse(
                f"{host} continues its listing of {about} on another server", "choose another endpoint", lasting=True
            )
        if link in self._links:
            raise BadResponse(f"the listing of {about} by {host} leads in a circle", lasting=True)
        if not rows or (self._pages > THIN_PAGES and self._entries < _THIN * self._pages):
            raise BadResponse(f"the listing of {about} by {host} goes on without entries", lasting=True)
        if self._entries > MAX_ENTRIES:
            raise BadResponse(f"{host} lists more than {MAX_ENTRIES} entries of {about}", "mount a folder of it")
        self._links.add(link)
