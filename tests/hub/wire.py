"""Messages of a connection: requests as read, answers as they will be sent.

Owns the HTTP/1.1 grammar in both directions and nothing else; `server` calls it, handlers and faults build `Answer`s.
Requests are immutable. An `Answer` belongs to the one connection thread that is making it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha1
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

HEAD_LIMIT = 64 * 1024  # longer request heads are refused; real servers stop between 8 and 64 KiB


class BadRequest(Exception):
    """The bytes on the connection are not a supported HTTP request."""


@dataclass(frozen=True, slots=True)
class Route:
    """The kind of a request, and the repo, revision and file that it names."""

    kind: str
    type: str = "model"
    repo: str | None = None
    revision: str | None = None
    file: str | None = None
    rest: str = ""  # the raw path behind the repo id, for redirects of renamed repos
    prefix: str = ""  # the raw path before the repo id


@dataclass(frozen=True, slots=True)
class Request:
    origin: str  # "api" or "cdn"
    method: str
    target: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes = b""
    connection: int = 0
    route: Route = field(default_factory=lambda: Route("other"))

    @property
    def path(self) -> str:
        """The path as sent, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def raw_query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def query(self) -> dict[str, str]:
        """The last value of each parameter."""
        return dict(parse_qsl(self.raw_query, keep_blank_values=True))

    def values(self, name: str) -> list[str]:
        return [value for key, value in parse_qsl(self.raw_query, keep_blank_values=True) if key in (name, name + "[]")]

    @property
    def token(self) -> str | None:
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if scheme.lower() == "bearer" and value.strip() else None


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes [offset, offset + length) of a file, sent by sendfile."""

    path: Path
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length

    def cut(self, start: int, stop: int) -> FilePart:
        return FilePart(self.path, self.offset + start, stop - start)

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


Part = bytes | FilePart


@dataclass(slots=True)
class Delivery:
    """How an answer is sent: unchanged, except by a fault. Counts are of body bytes."""

    hold: bool = False  # before the first byte, until released
    delay: float = 0.0  # seconds before the first byte
    stall_after: int | None = None  # then wait until released
    trickle: float | None = None  # seconds before each single byte
    close_after: int | None = None  # then an orderly close
    reset_after: int | None = None  # then RST
    raw: bytes | None = None  # these bytes instead of everything, then close


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    chunked: bool = False
    delivery: Delivery = field(default_factory=Delivery)

    @property
    def length(self) -> int:
        return sum(len(part) for part in self.parts)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)

    def put(self, name: str, value: str | None) -> None:
        """Sets a header, or removes it with None, in whatever case it was written."""
        for key in [key for key in self.headers if key.lower() == name.lower()]:
            del self.headers[key]
        if value is not None:
            self.headers[name] = value

    def body(self) -> bytes:
        return b"".join(part if isinstance(part, bytes) else part.read() for part in self.parts)

    def replace_body(self, body: bytes) -> None:
        self.parts = [body] if body else []
        if self.header("Content-Length") is not None:
            self.put("Content-Length", str(len(body)))


def plain(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    body = text.encode()
    first = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))}
    return Answer(status, {**first, **(headers or {})}, [body] if body else [])


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    first = {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        "ETag": f'W/"{len(body):x}-{sha1(body).hexdigest()[:27]}"',
    }
    return Answer(status, {**first, **(headers or {})}, [body])


def cut_parts(parts: Iterable[Part], start: int, stop: int) -> list[Part]:
    """Returns the parts that make up bytes [start, stop) of the whole."""
    out: list[Part] = []
    at = 0
    for part in parts:
        low, high = max(start - at, 0), min(stop - at, len(part))
        if low < high:
            out.append(part[low:high] if isinstance(part, bytes) else part.cut(low, high))
        at += len(part)
    return out


def decode(raw: str) -> str:
    return unquote(raw, errors="surrogateescape")


def parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Returns method, target and headers of a request head (without the empty line).

    Raises: BadRequest.
    """
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1]:
        raise BadRequest(f"no HTTP/1.x request line: {lines[0][:80]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequest(f"no header: {line[:80]!r}")
        headers[name.strip().lower()] = value.strip()
    target = words[1]
    if "://" in target.partition("?")[0]:  # absolute form, as a proxy would get it
        target = "/" + target.partition("://")[2].partition("/")[2]
    return words[0], target, headers


def encode_head(answer: Answer) -> bytes:
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {answer.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
