"""The little of HTTP/1.1 that the control socket speaks: bytes to a request, an answer to bytes.

Used by ``control``; opens no socket and keeps no state. Every answer closes the connection, so that a request is all
that a connection ever carries and nothing has to be told apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from ..errors import UsageError

LARGEST: Final = 64 * 1024  # bytes of head and of body; the largest honest request is a path and a few patterns


class HttpError(Exception):
    """A request that is answered with ``status`` and a sentence, before any route sees it."""

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that is no JSON, of a kind of its own."""

    body: str
    content_type: str


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request: ``path`` decoded and without its query, of whose repeated keys the last one counts; ``name`` is
    the part of it that the route leaves open."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = b""
    name: str = ""

    def json(self) -> dict[str, Any]:
        """The body as a JSON object, {} where there is none. Raises UsageError."""
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
    """The request in ``received``; None while it is not whole. Raises Refusal for what can never become one."""
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
        asked = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape", max_num_fields=100))
    except ValueError as wrong:
        raise HttpError(400, "a query of too many fields") from wrong
    return Request(words[0], unquote(path, errors="surrogateescape"), asked, body[:length])


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
    """The bytes of an answer: text as it is, anything else as JSON."""
    if isinstance(body, str):
        body = Text(body, "text/plain; charset=utf-8")
    if isinstance(body, Text):
        kind, payload = body.content_type, body.body.encode("utf-8", "backslashreplace")
    else:
        kind, payload = "application/json", json.dumps(body).encode("ascii") + b"\n"
    return head(status, {"Content-Type": kind, "Content-Length": str(len(payload)), **(headers or {})}) + payload


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """The head of an answer, which ends with its connection where no Content-Length says otherwise."""
    fields = {**headers, "Connection": "close"}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
