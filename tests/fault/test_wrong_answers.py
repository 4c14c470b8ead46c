"""Every answer that is not the one asked for, and what a read makes of it: bytes or an error, by so many requests.

The table of ``docs/faults.md`` is made of these. ``once``: the next answer is right. ``for ever``: none ever is.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest

from hffs.errors import BadResponse, HffsError, HubUnreachable, RateLimited
from hffs.fuse.errnos import errno_of
from hffs.ranges import BLOCK_SIZE
from tests.hub import Answer, Match, Request, Synthetic, faults
from tests.hub.script import Fault

from .reading import Reads

LFS, GIT = "model.safetensors", "config.json"
SIZE = BLOCK_SIZE + 40_000
CONTENT = Synthetic(SIZE, seed=41)
TEXT = Synthetic(SIZE, seed=42).read(0, SIZE)
ATTEMPTS = 6
CDN, CACHE = Match(kind="cdn"), Match(kind="resolve-cache")


def multipart(request: Request, answer: Answer) -> None:
    """The range asked for, as the only one of several."""
    where = answer.header("Content-Range")
    answer.put("Content-Range", None)
    answer.put("Content-Type", "multipart/byteranges; boundary=edge")
    answer.replace_body(f"--edge\r\nContent-Range: {where}\r\n\r\n".encode() + answer.body() + b"\r\n--edge--\r\n")


def chunked(request: Request, answer: Answer) -> None:
    answer.put("Content-Length", None)
    answer.put("Transfer-Encoding", "chunked")
    answer.chunked = True


def chunked_and_long(request: Request, answer: Answer) -> None:
    chunked(request, answer)
    answer.parts = [*answer.parts, b"more"]


def to_the_end_of_the_connection(request: Request, answer: Answer) -> None:
    answer.put("Content-Length", None)


def one_byte_less(request: Request, answer: Answer) -> None:
    answer.put("Content-Length", str(answer.length - 1))


@dataclass(frozen=True)
class Wrong:
    """An answer to a ranged GET that is not used; ``status`` is the hub's. ``kind`` is how it ends when it stays so.
    ``head``: its head is as it should be, only the body breaks."""

    fault: Fault
    status: int
    kind: type[HffsError]
    word: str
    head: bool = False


# What is asked again, up to six times in all. None of it is used, and none is read but what breaks on the way.
ASKED_AGAIN: dict[str, Wrong] = {
    "reset": Wrong(faults.reset(0), 206, HubUnreachable, "reset", head=True),
    "reset in the body": Wrong(faults.reset(100_000), 206, HubUnreachable, "reset", head=True),
    "closed in the body": Wrong(faults.short_body(100_000), 206, BadResponse, "too early", head=True),
    "closed before the body": Wrong(faults.short_body(0), 206, BadResponse, "too early", head=True),
    "closed at once": Wrong(faults.raw(b""), 0, HubUnreachable, "cannot reach"),
    "no http": Wrong(faults.raw(b"SSH-2.0-OpenSSH_9.2\r\n"), 0, HubUnreachable, "cannot reach"),
    "another range": Wrong(faults.wrong_content_range(), 206, BadResponse, "another range"),
    "another total": Wrong(faults.wrong_content_range(shift=0, total=5), 206, BadResponse, "another range"),
    "no content-range": Wrong(faults.without("Content-Range"), 206, BadResponse, "another range"),
    "multipart": Wrong(faults.afterwards(multipart), 206, BadResponse, "another range"),
    "long": Wrong(faults.long_body(b"more"), 206, BadResponse, "instead of"),
    "length is less": Wrong(faults.afterwards(one_byte_less), 206, BadResponse, "instead of"),
    "gzip": Wrong(faults.gzipped(), 200, BadResponse, "encodes"),
    "gzip of the range": Wrong(faults.header("Content-Encoding", "gzip"), 206, BadResponse, "encodes"),
    "login page": Wrong(faults.status(200, "<html>log in to this hotel</html>"), 200, BadResponse, "sends 33 bytes"),
    "no content": Wrong(faults.status(204), 204, BadResponse, "204"),
    "bad request": Wrong(faults.status(400), 400, BadResponse, "400"),
    "408": Wrong(faults.status(408), 408, HubUnreachable, "408"),
    "429": Wrong(faults.rate_limited(t=0), 429, RateLimited, "too many"),
    "500": Wrong(faults.status(500), 500, HubUnreachable, "500"),
    "502": Wrong(faults.status(502), 502, HubUnreachable, "502"),
    "503": Wrong(faults.unavailable(), 503, HubUnreachable, "503"),
    "504": Wrong(faults.status(504), 504, HubUnreachable, "504"),
    "redirect to no http": Wrong(faults.redirect("ftp://127.0.0.1/x"), 302, BadResponse, "no http"),
    "redirect to nowhere": Wrong(faults.status(302), 302, BadResponse, "without a Location"),
}
# What is as good as the answer expected: no attempt is spent on it.
HARMLESS: dict[str, tuple[Fault, int]] = {
    "accept-ranges says none": (faults.header("Accept-Ranges", "none"), 206),
    "accept-ranges missing": (faults.without("Accept-Ranges"), 206),
    "etag missing": (faults.without("ETag"), 206),
    "length not announced": (faults.afterwards(chunked), 206),
    "up to the end of the connection": (faults.afterwards(to_the_end_of_the_connection), 206),
    "range ignored": (faults.ignore_range(), 200),
    "one more byte behind the answer": (faults.long_body(b"m", announced=False), 206),
}
EACH = pytest.mark.parametrize("name", ASKED_AGAIN)


@pytest.fixture(autouse=True)
def tiny(reads: Reads) -> None:
    reads.add({LFS: CONTENT, GIT: TEXT})


def content(name: str) -> bytes:
    return CONTENT.read(0, SIZE) if name == LFS else TEXT


# What passes.


@EACH
def test_a_wrong_answer_of_the_cdn_costs_one_more_request(name: str, reads: Reads) -> None:
    wrong = ASKED_AGAIN[name]
    reads.hub.faults.add(CDN, wrong.fault, count=1)
    assert reads.read(LFS) == content(LFS)
    assert reads.asked(LFS) == ["resolve 302", f"cdn {wrong.status}", "cdn 206"]
    assert reads.ranges(LFS) == [f"bytes=0-{SIZE - 1}"] * 2
    assert reads.attempts_failed() == 1


@EACH
def test_a_wrong_answer_of_the_hub_for_a_small_file_costs_one_or_two(name: str, reads: Reads) -> None:
    """Where a git file is, is remembered as soon as a good answer has begun there."""
    wrong = ASKED_AGAIN[name]
    reads.hub.faults.add(CACHE, wrong.fault, count=1)
    assert reads.read(GIT) == content(GIT)
    again = [] if wrong.head else ["resolve 307"]
    assert reads.asked(GIT) == ["resolve 307", f"resolve-cache {wrong.status}", *again, "resolve-cache 206"]
    assert reads.attempts_failed() == 1


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("file", [LFS, GIT])
def test_permitted_variations_of_an_answer_cost_no_request(name: str, file: str, reads: Reads) -> None:
    fault, status = HARMLESS[name]
    reads.hub.faults.add(CDN, fault)
    reads.hub.faults.add(CACHE, fault)
    assert reads.read(file) == content(file)
    found = ["resolve 302", f"cdn {status}"] if file == LFS else ["resolve 307", f"resolve-cache {status}"]
    assert reads.asked(file) == found
    assert reads.attempts_failed() == 0


def test_blocks_that_arrived_before_a_break_are_not_requested_again(reads: Reads) -> None:
    reads.hub.faults.add(CDN, faults.short_body(BLOCK_SIZE + 10), count=1)
    assert reads.read(LFS) == content(LFS)
    assert reads.ranges(LFS) == [f"bytes=0-{SIZE - 1}", f"bytes={BLOCK_SIZE}-{SIZE - 1}"]


def test_a_body_longer_than_its_range_loses_its_last_block(reads: Reads) -> None:
    """Its length was not announced, so that only its end can tell; what came long before it was checked by then."""
    reads.hub.faults.add(CDN, faults.afterwards(chunked_and_long), count=1)
    assert reads.read(LFS) == content(LFS)
    assert reads.ranges(LFS) == [f"bytes=0-{SIZE - 1}", f"bytes={BLOCK_SIZE}-{SIZE - 1}"]
    assert "sent more" in reads.fetcher.errors()[0].what


def test_the_bytes_before_the_range_of_a_small_file_sent_whole_are_skipped(reads: Reads) -> None:
    reads.hub.faults.add(CDN, faults.ignore_range())
    assert reads.read(LFS, BLOCK_SIZE, 100) == content(LFS)[BLOCK_SIZE : BLOCK_SIZE + 100]
    assert reads.asked(LFS) == ["resolve 302", "cdn 200"]
    assert reads.ranges(LFS) == [f"bytes={BLOCK_SIZE}-{SIZE - 1}"]


# What stays.


@EACH
def test_an_answer_that_stays_wrong_fails_after_six_attempts(name: str, reads: Reads) -> None:
    wrong = ASKED_AGAIN[name]
    reads.hub.faults.add(CDN, wrong.fault)
    error = reads.failure(LFS)
    assert type(error) is wrong.kind
    assert wrong.word in str(error)
    assert "Signature" not in str(error)
    assert errno_of(error) == errno.EIO
    assert reads.asked(LFS) == ["resolve 302"] + [f"cdn {wrong.status}"] * ATTEMPTS
    assert reads.attempts_failed() == ATTEMPTS


def test_a_redirect_loop_is_followed_for_five_hops_per_attempt(reads: Reads) -> None:
    reads.hub.faults.add(CDN, faults.redirect_loop())
    error = reads.failure(LFS)
    assert "circle" in str(error)
    assert errno_of(error) == errno.EIO
    assert reads.asked(LFS) == ["resolve 302"] + ["cdn 307"] * (6 * ATTEMPTS)


def test_a_cdn_that_is_down_gets_six_attempts_and_is_named(reads: Reads) -> None:
    reads.hub.down("cdn")
    error = reads.failure(LFS)
    assert "connection refused" in str(error)
    assert errno_of(error) == errno.EIO
    assert reads.asked(LFS) == ["resolve 302"]
    assert reads.attempts_failed() == ATTEMPTS
    assert reads.read(GIT) == TEXT, "what comes from the Hub itself is there"


# A big file from a server that knows no ranges.


@pytest.mark.parametrize("length_known", [True, False], ids=["by length", "chunked"])
def test_a_big_file_sent_whole_is_refused_at_once_with_its_body_unread(length_known: bool, reads: Reads) -> None:
    big = Synthetic(17 << 20, seed=43)
    reads.add({LFS: big})
    reads.hub.faults.add(CDN, faults.ignore_range())
    if not length_known:
        reads.hub.faults.add(CDN, faults.afterwards(chunked))
    reads.hub.faults.add(CDN, faults.stall(0))  # the head comes, and not a byte behind it until the client leaves
    error = reads.failure(LFS, 4 << 20, 100)
    assert type(error) is BadResponse
    assert "ignores Range" in str(error)
    assert "hf download" in str(error), "what to do instead"
    assert errno_of(error) == errno.EIO
    assert reads.asked(LFS) == ["resolve 302", "cdn 200"]
    reads.hub.faults.wait_none_held()
    assert reads.hub.journal.bytes_sent("cdn") == 0
    reads.hub.faults.clear()


def test_gzip_of_a_text_file_is_never_offered_and_never_used(reads: Reads) -> None:
    assert reads.read(GIT) == TEXT
    assert {record.headers["accept-encoding"] for record in reads.hub.journal.requests(file=GIT)} == {"identity"}
    assert reads.asked(GIT) == ["resolve 307", "resolve-cache 206"]
