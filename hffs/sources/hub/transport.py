"""Bytes of a remote file by ranged GETs, every answer checked before a byte of it is used.

The fetcher's workers call ``HttpTransport.get``, each on its own connection. Nothing is stored or retried here beyond
what a signed URL's expiry, a rotated token or a CDN's new name for the same content need, which is once each. The
token goes to the Hub's own origin only, hop by hop. Any thread; a ``HttpBody`` belongs to the thread that got it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from http.client import HTTPResponse
from types import TracebackType
from typing import Any, Final, Self

from requests import Response
from urllib3.util.response import is_fp_closed

from ...errors import BadResponse, ContentChanged, LinkExpired
from ...model import RemoteFile
from ...ranges import ByteRange
from ..http.connections import USER_AGENT, Connections
from ..http.headers import content_length, content_range, plain_etag
from .access import HubAccess
from .auth import Token
from .http_errors import RequestSubject, http_errors, refusal
from .url_resolver import KEPT, MAX_REDIRECTS, UrlResolver
from .urls import host_of, next_hop, origin_of, resolve_url

# A server that ignores Range costs a small file a few times over; of a big one every fetch would move the whole. Which
# it does is a matter of its make (olah does, for one), so that asking again would only repeat it.
WHOLE_FILE: Final = 16 * 1024 * 1024
# What is skipped of such a file is read into this much at a time.
SKIP_SIZE: Final = 256 * 1024
# What CDNs and object stores say to a signature past its time, or to a URL whose object has moved.
STALE_LINK: Final = frozenset({401, 403, 404, 410})


class HttpBody:
    """``length`` bytes on their way. Close it, or use it as a context manager; a body that was read to its end leaves
    the connection open for the next request."""

    def __init__(self, about: RequestSubject, url: str, response: Response | None, length: int, skip: int) -> None:
        self._about = about
        self._url = url
        self._response = response
        self._source = _source(response)
        self._left = length
        self._skip = skip
        self.length = length
        self.etag = plain_etag(response.headers.get("etag")) if response is not None else None

    def readinto(self, view: memoryview) -> int:
        """Fill ``view`` with the next bytes; its length is returned. Raises BadResponse when the answer ends before,
        HubUnreachable when the connection breaks or stalls for the read timeout, ValueError past the end."""
        if len(view) > self._left:
            raise ValueError(f"{len(view)} bytes asked for, {self._left} left")
        try:
            if self._skip:
                self._skip_over()
            self._fill(view)
        except Exception:
            self.close()
            with http_errors(self._about, self._url):  # not before: taking a signed URL apart costs as much as a block
                raise
        self._left -= len(view)
        if not self._left:
            self._end()
        return len(view)

    def _skip_over(self) -> None:
        scratch = memoryview(bytearray(min(self._skip, SKIP_SIZE)))
        while self._skip:
            part = scratch[: min(self._skip, len(scratch))]
            self._fill(part)
            self._skip -= len(part)

    def _fill(self, view: memoryview) -> None:
        assert self._response is not None or not view
        filled = 0
        while self._response is not None and filled < len(view):
            count = self._source.readinto(view[filled:])
            if not count:
                raise BadResponse(f"{host_of(self._url)} ended its answer for {self._about} too early")
            filled += count

    def _end(self) -> None:
        """The last byte wanted is here: is it also the last there is?"""
        if self._response is None:
            return
        length = content_length(self._response.headers.get("content-length"))
        if length is None and self._response.status_code == 206:
            # No length was announced (chunked, or up to the end of the connection): look for more.
            with http_errors(self._about, self._url):
                more = self._source.read(1)
            if more:
                self.close()
                raise BadResponse(f"{host_of(self._url)} sent more of {self._about} than was asked for")
        if is_fp_closed(self._source):
            self._response.raw.release_conn()  # urllib3 has not seen its end, and would close the connection
        self.close()

    def abort(self) -> None:
        """From another thread: whoever reads gets BadResponse now, and what is still to come is not waited for."""
        if self._response is not None:
            with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has just been read to its end, or closed
                self._response.raw.shutdown()

    def close(self) -> None:
        """A connection whose answer was not read to its end is ended with it."""
        if self._response is not None:
            self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _source(response: Response | None) -> Any:
    """What to read an answer's body from. urllib3's ``readinto`` reads into new bytes and copies those, which was a
    ninth of what a fetch costs (urllib3 2.8, 2026-11); http.client's below it reads straight into ours."""
    if response is None:
        return None
    below = getattr(response.raw, "_original_response", None)
    return below if isinstance(below, HTTPResponse) else response.raw


class HttpTransport:
    """``read_timeout`` bounds the wait for the first byte and any stall between bytes, in seconds; how long a whole
    body may take is the caller's business."""

    def __init__(
        self,
        locator: UrlResolver,
        standing: HubAccess,
        *,
        connect_timeout: float = 10.0,
        read_timeout: float = 10.0,
        user_agent: str = USER_AGENT,
    ) -> None:
        self._locator = locator
        self._standing = standing
        self._connections = Connections(
            connect_timeout=connect_timeout, read_timeout=read_timeout, user_agent=user_agent
        )
        self._lock = threading.Lock()
        # guarded by _lock: the name the CDN has for a file's content, least recently used first
        self._etags: OrderedDict[RemoteFile, str] = OrderedDict()

    @property
    def requests(self) -> int:
        """Requests sent so far, to find files and for their bytes, redirects counted."""
        return self._connections.requests + self._locator.requests

    def close(self) -> None:
        """End all connections, the locator's too; whoever asks from now on gets Cancelled."""
        self._connections.close()
        self._locator.close()

    def background_delay(self, file: RemoteFile) -> float:
        """Seconds that work which nobody waits for should wait before it asks for the file; 0: none, and it is counted
        as asking the Hub, if it does."""
        return 0.0 if self._locator.knows(file) else self._standing.wait_seconds()

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> HttpBody:
        """These bytes of the file, which must lie inside it; they are read from the body.

        Raises LinkExpired when the CDN refuses a fresh URL too, ContentChanged when there is other content now,
        BadResponse for an answer that is not exactly what was asked for (lasting, when a big file comes whole),
        AccessDenied, EntryNotFound, RateLimited, HubUnreachable, Cancelled.
        """
        about = RequestSubject.of_commit(file.commit, file.path)
        if not wanted.length:
            return HttpBody(about, file.commit.source, None, 0, 0)
        if wanted.stop > file.blob.size:
            raise ValueError(f"{wanted} is not inside the {file.blob.size} bytes of {file.path}")
        place = self._locator.locate(file)
        response, url = self._ask(about, place.url, wanted)
        away = origin_of(url) != origin_of(about.endpoint)
        kept = place.url != resolve_url(file.commit, file.path)
        if (away or kept) and response.status_code in STALE_LINK:
            response.close()
            place = self._locator.renew(file, place.url)
            response, url = self._ask(about, place.url, wanted)
            away = origin_of(url) != origin_of(about.endpoint)
            if away and response.status_code in STALE_LINK:
                response.close()
                raise LinkExpired(f"{host_of(url)} refuses a fresh address of {about} ({response.status_code})")
        elif away and response.status_code in (200, 206) and not self._same_name(file, response):
            # Other content, or the same stored anew: the Hub knows, and says so when asked where the file is.
            response.close()
            place = self._locator.renew(file, place.url)
            response, url = self._ask(about, place.url, wanted)
        try:
            skip = self._check(about, file, wanted, response, url)
        except BaseException:
            response.close()
            raise
        if url != place.url and not away:
            self._locator.arrived(file, url)
        return HttpBody(about, url, response, wanted.length, skip)

    def forget(self, file: RemoteFile) -> None:
        """What came from where this file is fetched was wrong: its next range is asked of a fresh URL, and the CDN may
        call the content by another name."""
        self._locator.forget(file)
        with self._lock:
            self._etags.pop(file, None)

    def _ask(self, about: RequestSubject, url: str, wanted: ByteRange) -> tuple[Response, str]:
        """The answer to a ranged GET and where it came from, redirects followed."""
        for _ in range(MAX_REDIRECTS + 1):
            response = self._hop(about, url, wanted)
            if not 300 <= response.status_code < 400:
                return response, url
            response.close()
            url = next_hop(url, response.headers.get("location"))
        raise BadResponse(f"{host_of(url)} redirects in a circle when asked for {about}")

    def _hop(self, about: RequestSubject, url: str, wanted: ByteRange) -> Response:
        def send(token: Token | None) -> Response:
            headers = {"Range": wanted.header()}
            if token is not None:
                headers["Authorization"] = token.header
            with http_errors(about, url):
                return self._connections.request("GET", url, headers)

        if origin_of(url) != origin_of(about.endpoint):
            return send(None)
        return self._standing.exchange(about, url, send)

    def _same_name(self, file: RemoteFile, response: Response) -> bool:
        """Whether the CDN calls the content as before; a first name is remembered, another one forgets the old."""
        etag = plain_etag(response.headers.get("etag"))
        with self._lock:
            if etag is None or self._etags.setdefault(file, etag) == etag:
                if file in self._etags:
                    self._etags.move_to_end(file)
                while len(self._etags) > KEPT:
                    self._etags.popitem(last=False)
                return True
            del self._etags[file]
            return False

    def _check(self, about: RequestSubject, file: RemoteFile, wanted: ByteRange, response: Response, url: str) -> int:
        """Raise unless the answer holds exactly the bytes wanted; how many bytes of it come before them."""
        host, status, headers = host_of(url), response.status_code, response.headers
        if status not in (200, 206):
            raise refusal(about, status, headers, url=url)
        if (headers.get("content-encoding") or "identity").strip().lower() != "identity":
            raise BadResponse(f"{host} encodes {about} although it was asked not to")
        if origin_of(url) == origin_of(about.endpoint):
            self._check_hub(about, file, headers)
        length = content_length(headers.get("content-length"))
        if status == 200:
            if length not in (None, file.blob.size):
                raise BadResponse(f"{host} sends {length} bytes of {about}, which has {file.blob.size}")
            if file.blob.size > WHOLE_FILE and wanted.length != file.blob.size:
                raise BadResponse(
                    f"{host} ignores Range and sends the whole of {about}",
                    "choose an endpoint that answers ranges, or get the file with `hf download`",
                    lasting=True,
                )
            return wanted.start
        if content_range(headers.get("content-range")) != (wanted, file.blob.size):
            raise BadResponse(f"{host} sends another range of {about} than was asked for")
        if length not in (None, wanted.length):
            raise BadResponse(f"{host} sends {length} bytes of {about} instead of {wanted.length}")
        return 0

    @staticmethod
    def _check_hub(about: RequestSubject, file: RemoteFile, headers: Mapping[str, str]) -> None:
        commit, etag = headers.get("x-repo-commit"), plain_etag(headers.get("x-linked-etag") or headers.get("etag"))
        if commit not in (None, file.commit.sha) or etag not in (None, file.validator):
            raise ContentChanged(f"{about} has other content than its listing says")
