"""The catalogue of faults; each function makes one for `hub.faults.add(match, fault)`.

Pure: a fault changes the request before the hub answers it, or the answer afterwards. Body offsets count from the
first body byte of the answer unless said otherwise.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from xml.sax.saxutils import escape

from .script import Answering, Fault
from .wire import Answer, Part, Request, as_json, cut_parts, plain

GZIP_PIECE = 16 << 10


def instead(make: Callable[[Request], Answer]) -> Fault:
    """Sends this answer without asking the hub."""
    return lambda request, answering: make(request)


def afterwards(change: Callable[[Request, Answer], None]) -> Fault:
    """Changes the hub's answer in place."""

    def fault(request: Request, answering: Answering) -> Answer:
        answer = answering(request)
        change(request, answer)
        return answer

    return fault


def first(action: Callable[[], object]) -> Fault:
    """Runs an action, then answers as usual: move a ref between tree and resolve, rotate a token, revoke URLs."""

    def fault(request: Request, answering: Answering) -> Answer:
        action()
        return answering(request)

    return fault


# Answers that say no.


def status(code: int, text: str = "", headers: Mapping[str, str] | None = None) -> Fault:
    return instead(lambda request: plain(code, text, headers))


def api_error(code: int, message: str, error_code: str | None = None) -> Fault:
    """An error in the Hub's own form."""
    headers = {"X-Error-Message": message, **({"X-Error-Code": error_code} if error_code else {})}
    return instead(lambda request: as_json({"error": message}, code, headers))


def expired() -> Fault:
    """Sends the CDN's answer to an expired URL."""
    return instead(lambda request: xml_refusal("Request has expired"))


def xml_refusal(message: str) -> Answer:
    body = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>{}</Message></Error>'
    return plain(403, body.format(escape(message)), {"Content-Type": "application/xml"})


def rate_limited(t: int = 1, bucket: str = "api", retry_after: int | None = None) -> Fault:
    headers = {
        "RateLimit": f'"{bucket}";r=0;t={t}',
        "RateLimit-Policy": f'"fixed window";"{bucket}";q=500;w=300',
        **({"Retry-After": str(retry_after)} if retry_after is not None else {}),
    }
    return status(429, "We had to rate limit your IP.", headers)


def unavailable(retry_after: int | str | None = None) -> Fault:
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else None
    return status(503, "Service Unavailable", headers)


def bad_token() -> Fault:
    return api_error(401, "Invalid credentials in Authorization header")


def redirect(location: str, code: int = 302) -> Fault:
    """Redirects to any URL: another scheme, another host."""
    return status(code, "Found. Redirecting", {"Location": location})


def redirect_loop(code: int = 307) -> Fault:
    """Redirects every request to its own URL, by a relative Location."""
    return instead(lambda request: plain(code, "Temporary Redirect", {"Location": request.target}))


# Headers.


def header(name: str, value: str | None) -> Fault:
    """Sets a header to this value; None leaves it out."""
    return afterwards(lambda request, answer: answer.put(name, value))


def without(*names: str) -> Fault:
    """Leaves headers out: X-Repo-Commit, Accept-Ranges, ETag, Content-Length, X-Linked-Size ..."""

    def change(request: Request, answer: Answer) -> None:
        for name in names:
            answer.put(name, None)

    return afterwards(change)


def etag(value: str) -> Fault:
    """Sends another ETag (with its quotes), as if the content had changed between reads."""
    return header("ETag", value)


def wrong_content_range(shift: int = 1, total: int | None = None) -> Fault:
    """Sends a 206 whose Content-Range names another range than requested, or another file size."""

    def change(request: Request, answer: Answer) -> None:
        if answer.status == 206:
            start, stop, size = content_range(answer)
            answer.put("Content-Range", f"bytes {start + shift}-{stop - 1 + shift}/{size if total is None else total}")

    return afterwards(change)


def content_range(answer: Answer) -> tuple[int, int, int]:
    """[start, stop) and size of a 206; a 200 is the whole."""
    value = answer.header("Content-Range")
    if answer.status != 206 or value is None:
        return 0, answer.length, answer.length
    span, _, size = value.removeprefix("bytes ").partition("/")
    low, _, high = span.partition("-")
    return int(low), int(high) + 1, int(size)


# Ranges.


def ignore_range() -> Fault:
    """Sends 200 with the whole file for every request, though Accept-Ranges still announces ranges."""

    def fault(request: Request, answering: Answering) -> Answer:
        kept = {name: value for name, value in request.headers.items() if name != "range"}
        return answering(replace(request, headers=kept))

    return fault


def gzipped(weak: bool = True) -> Fault:
    """The whole file, compressed, chunked, without a length and with a weak ETag: also where none belongs."""

    def fault(request: Request, answering: Answering) -> Answer:
        answer = ignore_range()(request, answering)
        if answer.status == 200:
            compress(answer, weak)
        return answer

    return fault


def compress(answer: Answer, weak: bool = True) -> None:
    """Turns a 200 into the compressed answer that the Hub sends for text to a client that offers gzip."""
    packed = gzip.compress(answer.body(), compresslevel=1, mtime=0)
    answer.parts = [packed[at : at + GZIP_PIECE] for at in range(0, len(packed), GZIP_PIECE)]
    answer.chunked = True
    answer.put("Content-Length", None)
    answer.put("Content-Encoding", "gzip")
    answer.put("Transfer-Encoding", "chunked")
    answer.put("Vary", "Origin,accept-encoding")
    strong = answer.header("ETag")
    if weak and strong is not None:
        answer.put("ETag", f"W/{strong}")


# Bodies.


def short_body(keep: int) -> Fault:
    """Closes the connection in order after this many of the announced body bytes."""

    def change(request: Request, answer: Answer) -> None:
        answer.delivery.close_after = keep

    return afterwards(change)


def reset(after: int = 0) -> Fault:
    """Resets the connection (RST) after this many body bytes."""

    def change(request: Request, answer: Answer) -> None:
        answer.delivery.reset_after = after

    return afterwards(change)


def long_body(extra: bytes, announced: bool = True) -> Fault:
    """More bytes than the range has: counted in Content-Length, or sent behind it on a connection kept open."""

    def change(request: Request, answer: Answer) -> None:
        length = answer.length
        answer.parts = [*answer.parts, extra]
        if announced:
            answer.put("Content-Length", str(length + len(extra)))

    return afterwards(change)


def flip_bit(offset: int, bit: int = 0) -> Fault:
    """Flips one bit at this offset of the file, in every answer that contains it."""

    def change(request: Request, answer: Answer) -> None:
        start, stop, _ = content_range(answer)
        if answer.status in (200, 206) and start <= offset < stop:
            at = offset - start
            wrong = b"".join(_bytes(part) for part in cut_parts(answer.parts, at, at + 1))
            before, after = cut_parts(answer.parts, 0, at), cut_parts(answer.parts, at + 1, answer.length)
            answer.parts = [*before, bytes([wrong[0] ^ (1 << bit)]), *after]

    return afterwards(change)


def _bytes(part: Part) -> bytes:
    return part if isinstance(part, bytes) else part.read()


def body(data: bytes) -> Fault:
    """Sends other bytes under the same headers, with the Content-Length of these bytes."""
    return afterwards(lambda request, answer: answer.replace_body(data))


def empty() -> Fault:
    """A file of no bytes."""
    return body(b"")


# Time.


def hold() -> Fault:
    """Sends no byte until `hub.faults.release()`, or until the client disconnects."""

    def change(request: Request, answer: Answer) -> None:
        answer.delivery.hold = True

    return afterwards(change)


def stall(after: int) -> Fault:
    """Sends headers and this many body bytes, then nothing until `hub.faults.release()` or a disconnect."""

    def change(request: Request, answer: Answer) -> None:
        answer.delivery.stall_after = after

    return afterwards(change)


def trickle(seconds: float) -> Fault:
    """Sends the body as single bytes, this many seconds apart: never silent for long, and never complete."""

    def change(request: Request, answer: Answer) -> None:
        answer.delivery.trickle = seconds

    return afterwards(change)


def slow(seconds: float) -> Fault:
    """Delays the answer by this many seconds."""

    def change(request: Request, answer: Answer) -> None:
        answer.delivery.delay += seconds

    return afterwards(change)


# Listings and other JSON.


def bad_json(text: str = '[{"type":"file","path":"config.j') -> Fault:
    """Sends a body that is not JSON, by default a truncated one."""
    return body(text.encode())


def json_changed(change: Callable[[Any], Any]) -> Fault:
    """Applies a function to the answer's JSON."""

    def rewrite(request: Request, answer: Answer) -> None:
        if answer.status == 200 and answer.parts:
            value = change(json.loads(answer.body()))
            # Lone surrogates travel as \\u escapes, as a JSON writer that does not look would send them.
            answer.replace_body(json.dumps(value, separators=(",", ":")).encode())

    return afterwards(rewrite)


HOSTILE_NAMES = (
    "..", "../escape", "a/../../escape", "/etc/passwd", "//double", "nul\0byte", "", ".", "a//b", "a/./b", "trailing/",
    "x" * 300, "d/" * 3000 + "deep", "new\nline", "back\\slash", "\ud800lone", "config.json",
)  # fmt: skip


def listed(names: Sequence[str] = HOSTILE_NAMES, **fields: Any) -> Fault:
    """Adds entries with these paths to a tree answer; the last of HOSTILE_NAMES is meant as a duplicate."""
    entry = {"type": "file", "oid": "0" * 40, "size": 1, **fields}
    return json_changed(lambda entries: [*entries, *({**entry, "path": name} for name in names)])


# Anything else.


def raw(make: bytes | Callable[[Request], bytes]) -> Fault:
    """Sends exactly these bytes, status line and headers included, then closes the connection."""

    def fault(request: Request, answering: Answering) -> Answer:
        answer = Answer(0)
        answer.delivery.raw = make if isinstance(make, bytes) else make(request)
        return answer

    return fault
