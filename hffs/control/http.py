"""HTTP/1.1 framing of the control socket: request bytes to a Request, an answer to bytes.

Used by ``server``; opens no socket and keeps no state. Every answer closes its connection, so a connection carries one
request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from ..errors import UsageError

LARGEST: Final = 64 * 1024  # bytes of head and of body; the largest legitimate request is a path and a few patterns


class HttpError(Exception):
    """A request that is answered with ``status`` and a message instead of being routed."""

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that is not JSON, with its own content type."""

    body: str
    content_type: str


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request. ``path`` is decoded and without its query; of repeated query keys the last one counts.
    ``name`` is the part of the path that matched the route's ``*``."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = b""
    name: str = ""

    def json(self) -> dict[str, Any]:
        """Returns the body as a JSON object, {} if it is empty. Raises UsageError."""
        if not self.body:
            return {}
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError) as wrong:
            raise UsageError("the body is not JSON") from wrong
        if not isinstance(found, dict):
            raise UsageError("the body is not a JSON object")
        return found


def parse(received: bytes) -> Request | None:
    """Returns the request in ``received``; None while it is incomplete. Raises HttpError if it can never be valid."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if len(head) > LARGEST:
        raise HttpError(431, f"the head of the request is over {LARGEST} bytes")
    if not separator:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise HttpError(400, "not an HTTP/1.1 request")
    length = _body_length(lines)
    if len(body) < length:
        return None
    path, _, query = words[1].partition("?")
    try:
        fields = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape", max_num_fields=100))
    except ValueError as wrong:
        raise HttpError(400, "a query of too many fields") from wrong
    return Request(words[0], unquote(path, errors="surrogateescape"), fields, body[:length])


def _body_length(lines: list[str]) -> int:
    length = 0
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise HttpError(400, "a header without a colon")
        if name.lower() == "transfer-encoding":
            raise HttpError(411, "send the body with a Content-Length")
        if name.lower() == "content-length":
            digits = value.strip()
            if not (digits.isascii() and digits.isdigit()):
                raise HttpError(400, "Content-Length is not a number")
            if len(digits) > 9 or int(digits) > LARGEST:
                raise HttpError(413, f"the body is over {LARGEST} bytes")
            length = int(digits)
    return length


def response(status: int, body: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """Returns the bytes of an answer: text as it is, anything else as JSON."""
    if isinstance(body, str):
        body = Text(body, "text/plain; charset=utf-8")
    if isinstance(body, Text):
        kind, payload = body.content_type, body.body.encode("utf-8", "backslashreplace")
    else:
        kind, payload = "application/json", json.dumps(body).encode("ascii") + b"\n"
    return head(status, {"Content-Type": kind, "Content-Length": str(len(payload)), **(headers or {})}) + payload


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Returns the head of an answer; without a Content-Length the body ends with the connection."""
    fields = {**headers, "Connection": "close"}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
