"""Ranged GETs by requests: redirects followed, each response checked before a byte of it is used, and read as a Body.

Nothing is stored or retried here. Any thread; an ``HttpBody`` belongs to the thread that reads it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from http.client import HTTPResponse
from types import TracebackType
from typing import Any, Final, Self

from requests import Response
from urllib3.util.response import is_fp_closed

from ...errors import BadResponse
from ...ranges import ByteRange
from .errors import http_errors
from .headers import content_length, content_range
from .urls import host_of, next_hop

MAX_REDIRECTS: Final = 5  # a rename and a mirror or two; more is a circle
# A server that ignores Range costs a small file a few times over; of a big one every fetch would move the whole. That
# is how the server is made (olah is, for one), so that a retry would only repeat it.
WHOLE_FILE: Final = 16 * 1024 * 1024
# What is skipped of such a file is read into this much at a time.
SKIP_SIZE: Final = 256 * 1024


def follow(
    about: object, url: str, send: Callable[[str], Response], *, until: Callable[[str], bool] = lambda _: False
) -> tuple[Response, str]:
    """The response to ``send(url)`` after at most MAX_REDIRECTS redirects, and where it came from. A redirect to a URL
    that ``until`` accepts is not followed: its response is returned with that URL. Raises BadResponse for redirects
    that ``next_hop`` refuses, and for too many."""
    for _ in range(MAX_REDIRECTS + 1):
        response = send(url)
        if not 300 <= response.status_code < 400:
            return response, url
        response.close()
        url = next_hop(url, response.headers.get("location"))
        if until(url):
            return response, url
    raise BadResponse(f"{host_of(url)} redirects in a circle when asked for {about}")


def check_range(about: object, wanted: ByteRange, size: int, response: Response, url: str) -> int:
    """How many bytes of a 200 or 206 come before those that are wanted. Raises BadResponse unless it holds exactly the
    bytes ``wanted`` of a file of ``size`` bytes, unencoded, or the whole of a file that is not too big for that."""
    host, headers = host_of(url), response.headers
    if (headers.get("content-encoding") or "identity").strip().lower() != "identity":
        raise BadResponse(f"{host} encodes {about} although it was asked not to")
    length = content_length(headers.get("content-length"))
    if response.status_code == 200:
        if length not in (None, size):
            raise BadResponse(f"{host} sends {length} bytes of {about}, which has {size}")
        if size > WHOLE_FILE and wanted.length != size:
            raise BadResponse(
                f"{host} ignores Range and sends the whole of {about}",
                "choose an endpoint that answers ranges, or get the file with `hf download`",
                lasting=True,
            )
        return wanted.start
    if content_range(headers.get("content-range")) != (wanted, size):
        raise BadResponse(f"{host} sends another range of {about} than was asked for")
    if length not in (None, wanted.length):
        raise BadResponse(f"{host} sends {length} bytes of {about} instead of {wanted.length}")
    return 0


class HttpBody:
    """``length`` bytes of a response, after ``skip`` others; of no response, no bytes. Close it, or use it as a context
    manager: read to its end it leaves the connection open for the next request."""

    def __init__(self, about: object, url: str, response: Response | None, length: int, skip: int = 0) -> None:
        self._about = about
        self._url = url
        self._response = response
        self._stream = _stream(response)
        self._left = length
        self._skip = skip

    def readinto(self, view: memoryview) -> int:
        """As ``Body.readinto``: BadResponse when the response ends early, HubUnreachable when the connection breaks or
        stalls for the read timeout."""
        if len(view) > self._left:
            raise ValueError(f"{len(view)} bytes requested, {self._left} left")
        try:
            if self._skip:
                self._skip_over()
            self._fill(view)
        except Exception:
            self.close()
            with http_errors(self._about, self._url):  # only now: parsing a signed URL costs as much as a block
                raise
        self._left -= len(view)
        if not self._left:
            self._end()
        return len(view)

    def abort(self) -> None:
        """As ``Body.abort``; what is still to come is not waited for."""
        if self._response is not None:
            with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has just been read to its end, or closed
                self._response.raw.shutdown()

    def close(self) -> None:
        """Closes the connection too, unless the response was read to its end."""
        if self._response is not None:
            self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _skip_over(self) -> None:
        scratch = memoryview(bytearray(min(self._skip, SKIP_SIZE)))
        while self._skip:
            part = scratch[: min(self._skip, len(scratch))]
            self._fill(part)
            self._skip -= len(part)

    def _fill(self, view: memoryview) -> None:
        filled = 0
        while self._response is not None and filled < len(view):
            count = self._stream.readinto(view[filled:])
            if not count:
                raise BadResponse(f"{host_of(self._url)} ended its answer for {self._about} too early")
            filled += count

    def _end(self) -> None:
        """After the last byte that is wanted: checks that it is the last of the response."""
        if self._response is None:
            return
        length = content_length(self._response.headers.get("content-length"))
        if length is None and self._response.status_code == 206:
            # No length was announced (chunked, or up to the end of the connection): look for more.
            with http_errors(self._about, self._url):
                more = self._stream.read(1)
            if more:
                self.close()
                raise BadResponse(f"{host_of(self._url)} sent more of {self._about} than was asked for")
        if is_fp_closed(self._stream):
            self._response.raw.release_conn()  # urllib3 has not seen its end, and would close the connection
        self.close()


def _stream(response: Response | None) -> Any:
    """What to read a response's body from. urllib3's ``readinto`` reads into new bytes and copies those, which was a
    ninth of what a fetch costs (urllib3 2.8, 2026-11); http.client's below it reads straight into ours."""
    if response is None:
        return None
    below = getattr(response.raw, "_original_response", None)
    return below if isinstance(below, HTTPResponse) else response.raw
