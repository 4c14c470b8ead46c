"""Where the bytes are, and whether they are still the same: URLs that end, content that changes, a Hub that says no.

The other half of the table of ``docs/faults.md``: what is asked of the Hub besides the ranges, and how often.
"""

from __future__ import annotations

import errno

import pytest

from hffs.errors import (
    AccessDenied,
    BadResponse,
    ContentChanged,
    EntryNotFound,
    HffsError,
    HubUnreachable,
    LinkExpired,
    RateLimited,
)
from hffs.fuse.errnos import errno_of
from hffs.ranges import BLOCK_SIZE
from tests.hub import Match, Synthetic, faults
from tests.hub.script import Fault

from .conftest import MakeReads
from .reading import Reads

LFS = "model.safetensors"
SIZE = BLOCK_SIZE + 40_000
CONTENT = Synthetic(SIZE, seed=46).read(0, SIZE)
ATTEMPTS = 6
CDN, RESOLVE = Match(kind="cdn"), Match(kind="resolve")
OTHER = "f" * 64


@pytest.fixture(autouse=True)
def tiny(reads: Reads) -> None:
    reads.add({LFS: CONTENT})


# Signed URLs.


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refused_signed_url_is_renewed_and_costs_no_attempt(status: int, reads: Reads) -> None:
    reads.hub.faults.add(CDN, faults.status(status, "no"), count=1)
    assert reads.read(LFS) == CONTENT
    assert reads.asked(LFS) == ["resolve 302", f"cdn {status}", "resolve 302", "cdn 206"]
    assert reads.attempts_failed() == 0


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refused_fresh_url_is_a_failed_attempt(status: int, reads: Reads) -> None:
    reads.hub.faults.add(CDN, faults.status(status, "no"))
    reads.hub.faults.add(RESOLVE, faults.first(lambda: reads.remote.pass_time(1)))  # each URL is another one
    error = reads.failure(LFS)
    assert type(error) is LinkExpired
    assert "Signature" not in str(error)
    assert errno_of(error) == errno.EIO
    refused = f"cdn {status}"
    assert reads.asked(LFS) == ["resolve 302", refused] + ["resolve 302", refused, refused] * 5 + [
        "resolve 302",
        refused,
    ]


def test_a_url_that_expires_during_reads_is_renewed_once_for_all_readers(reads_of: MakeReads) -> None:
    reads = reads_of(workers=4)
    size = 64 * BLOCK_SIZE
    big = Synthetic(size, seed=45)
    reads.add({LFS: big})
    assert reads.read(LFS, size - 10, 10) == big.read(size - 10, 10)
    reads.hub.expire_urls()
    assert reads.read(LFS) == big.read(0, size)
    asked = reads.asked(LFS)
    assert asked.count("resolve 302") == 2
    assert asked.count("cdn 206") == 1 + 4, "63 blocks are wanted, 16 go into a fetch"
    assert 1 <= asked.count("cdn 403") <= 4, "as many as had set out with the old one"
    assert reads.attempts_failed() == 0


def test_without_another_url_than_the_refused_one_the_hub_is_asked_twice(reads: Reads) -> None:
    reads.hub.faults.add(CDN, faults.expired())
    error = reads.failure(LFS)
    assert type(error) is LinkExpired
    assert reads.asked(LFS) == ["resolve 302", "cdn 403", "resolve 302", "cdn 403"] + ["cdn 403"] * (ATTEMPTS - 1)


def test_a_url_is_renewed_before_it_expires_so_that_no_request_fails(reads: Reads) -> None:
    """A signature of an hour, and a read every 6 minutes for 2 hours and 6 minutes: 3 URLs, 21 ranges, no 403."""
    size = 21 * BLOCK_SIZE
    reads.add({LFS: Synthetic(size, seed=44)})
    for number in reversed(range(21)):  # backwards, so that nothing is read ahead
        assert reads.read(LFS, number * BLOCK_SIZE, 10) == Synthetic(size, seed=44).read(number * BLOCK_SIZE, 10)
        reads.remote.pass_time(360)
    asked = reads.asked(LFS)
    assert asked.count("cdn 206") == 21
    assert asked.count("resolve 302") == 3
    assert len(asked) == 24


# The content's name.


def test_content_under_a_new_etag_is_used_when_the_hub_confirms_it(reads: Reads) -> None:
    assert reads.read(LFS, BLOCK_SIZE, 10) == CONTENT[BLOCK_SIZE:][:10]
    reads.hub.faults.add(CDN, faults.etag('"stored-anew"'))
    assert reads.read(LFS, 0, 10) == CONTENT[:10]
    assert reads.asked(LFS) == ["resolve 302", "cdn 206", "cdn 206", "resolve 302", "cdn 206"]
    assert reads.attempts_failed() == 0


CHANGED: dict[str, Fault] = {
    "etag": faults.header("X-Linked-Etag", f'"{OTHER}"'),
    "size": faults.header("X-Linked-Size", "5"),
    "commit": faults.header("X-Repo-Commit", "f" * 40),
}


@pytest.mark.parametrize("what", CHANGED)
def test_changed_content_fails_at_once_and_is_never_mixed(what: str, reads: Reads) -> None:
    assert reads.read(LFS, BLOCK_SIZE, 10) == CONTENT[BLOCK_SIZE:][:10]
    reads.hub.faults.add(CDN, faults.etag('"other"'))
    reads.hub.faults.add(RESOLVE, CHANGED[what])
    error = reads.failure(LFS)
    assert type(error) is ContentChanged
    assert errno_of(error) == errno.ESTALE
    assert reads.asked(LFS) == ["resolve 302", "cdn 206", "cdn 206", "resolve 302"]
    assert reads.attempts_failed() == 1


def test_a_416_inside_the_listed_size_means_changed_content(reads: Reads) -> None:
    reads.hub.faults.add(CDN, faults.status(416))
    error = reads.failure(LFS)
    assert type(error) is ContentChanged
    assert errno_of(error) == errno.ESTALE
    assert reads.asked(LFS) == ["resolve 302", "cdn 416"]


# The Hub's own refusals, when it is asked where a file is.

REFUSED: dict[str, tuple[Fault, type[HffsError], int, list[str]]] = {
    "gone": (faults.api_error(404, "Entry not found", "EntryNotFound"), EntryNotFound, errno.ENOENT, ["resolve 404"]),
    "forbidden": (faults.status(403), AccessDenied, errno.EACCES, ["resolve 403"]),
    "gated": (faults.api_error(403, "ask", "GatedRepo"), AccessDenied, errno.EACCES, ["resolve 403"]),
    "bad token": (faults.bad_token(), AccessDenied, errno.EACCES, ["resolve 401"]),
    "no commit": (faults.without("X-Repo-Commit"), BadResponse, errno.EIO, ["resolve 302"] * ATTEMPTS),
    "no etag": (faults.without("X-Linked-Etag"), BadResponse, errno.EIO, ["resolve 302"] * ATTEMPTS),
    "circle": (faults.redirect_loop(), BadResponse, errno.EIO, ["resolve 307"] * 6 * ATTEMPTS),
    "file": (faults.redirect("file:///etc/passwd"), BadResponse, errno.EIO, ["resolve 302"] * ATTEMPTS),
    "503": (faults.unavailable(), HubUnreachable, errno.EIO, ["resolve 503"] * ATTEMPTS),
    "429": (faults.rate_limited(t=0), RateLimited, errno.EIO, ["resolve 429"] * ATTEMPTS),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_by_the_hub_are_final_and_its_failures_are_retried(name: str, reads: Reads) -> None:
    fault, kind, number, asked = REFUSED[name]
    scripted = reads.hub.faults.add(RESOLVE, fault)
    error = reads.failure(LFS)
    assert type(error) is kind
    assert errno_of(error) == number
    assert reads.asked(LFS) == asked
    reads.hub.faults.remove(scripted)
