"""How often and when the Hub is asked again, and what ends a wait: a read is over in time, whatever the server does."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate

import pytest

from hffs.errors import DeadlineExceeded, HubUnreachable
from hffs.fuse.errnos import errno_of
from hffs.policy import RetryPolicy
from hffs.ranges import BLOCK_SIZE
from hffs.sources.http.errors import MAX_WAIT
from tests.hub import Match, Synthetic, faults
from tests.hub.script import Fault

from .conftest import MakeReads
from .reading import Reads

LFS, GIT, OTHER = "model.safetensors", "config.json", "other.safetensors"
SIZE = BLOCK_SIZE + 40_000
MADE = Synthetic(SIZE, seed=51)
CONTENT = MADE.read(0, SIZE)
CDN, RESOLVE = Match(kind="cdn"), Match(kind="resolve")
FILES = {LFS: MADE, GIT: b"{}", OTHER: Synthetic(SIZE, seed=52)}
ATTEMPTS = 6
SHORT = 0.2  # seconds of patience, where more would not help
ENOUGH = 1.0  # seconds of patience, where what should come in time comes in time


@pytest.fixture(autouse=True)
def tiny(reads: Reads) -> None:
    reads.add(dict(FILES))


# Six attempts.


@pytest.mark.parametrize("failures", range(ATTEMPTS + 1))
def test_failures_cost_one_more_request_each_and_six_attempts_at_most(failures: int, reads: Reads) -> None:
    reads.hub.faults.add(CDN, faults.unavailable(), count=failures)
    if failures < ATTEMPTS:
        assert reads.read(LFS) == CONTENT
        assert reads.asked(LFS) == ["resolve 302"] + ["cdn 503"] * failures + ["cdn 206"]
    else:
        error = reads.failure(LFS)
        assert type(error) is HubUnreachable
        assert errno_of(error) == errno.EIO
        assert reads.asked(LFS) == ["resolve 302"] + ["cdn 503"] * ATTEMPTS
    assert reads.attempts_failed() == failures


def test_each_block_has_its_own_six_attempts(reads: Reads) -> None:
    """Block by block: the second one's six are not used up by the first one's."""
    for number in range(2):
        reads.hub.faults.add(CDN, faults.unavailable(), count=ATTEMPTS - 1)
        assert reads.read(LFS, number * BLOCK_SIZE, 10) == CONTENT[number * BLOCK_SIZE :][:10]
        reads.hub.faults.clear()
    assert reads.asked(LFS) == ["resolve 302", *(["cdn 503"] * 5 + ["cdn 206"]) * 2]


def test_the_retry_policy_sets_the_number_of_attempts(reads_of: MakeReads) -> None:
    reads = reads_of(retry=RetryPolicy(attempts=2, base=0.0, cap=0.0))
    reads.hub.faults.add(CDN, faults.unavailable())
    reads.failure(LFS)
    assert reads.asked(LFS) == ["resolve 302", "cdn 503", "cdn 503"]


# A server that asks to be left alone.

SOON = formatdate(time.time() + 7200, usegmt=True)
LEAVE_ALONE: dict[str, tuple[Fault, int]] = {
    "429 with a limit": (faults.rate_limited(t=290), 429),
    "429 with seconds": (faults.status(429, "", {"Retry-After": "290"}), 429),
    "503 with seconds": (faults.unavailable(290), 503),
    "503 with a date": (faults.unavailable(SOON), 503),
    "503 with a limit": (faults.status(503, "", {"RateLimit": '"api";r=0;t=290'}), 503),
    "502": (faults.status(502, "", {"Retry-After": "290"}), 502),
    "504": (faults.status(504, "", {"Retry-After": "290"}), 504),
    "408": (faults.status(408, "", {"Retry-After": "290"}), 408),
}


@pytest.mark.parametrize("name", LEAVE_ALONE)
@pytest.mark.parametrize("where", ["cdn", "resolve"])
def test_a_requested_wait_is_honoured_whatever_the_status(name: str, where: str, reads_of: MakeReads) -> None:
    reads = reads_of(retry=RetryPolicy(attempts=1))
    fault, status = LEAVE_ALONE[name]
    reads.hub.faults.add(Match(kind=where), fault)
    error = reads.failure(LFS)
    assert isinstance(error, HubUnreachable)
    assert errno_of(error) == errno.EIO
    assert error.retry_after == (MAX_WAIT if "date" in name else 290)
    assert reads.asked(LFS) == (["resolve 302"] if where == "cdn" else []) + [f"{where} {status}"]


@pytest.mark.parametrize("name", ["429 with a limit", "503 with seconds", "503 with a date"])
def test_a_wait_beyond_the_deadline_ends_the_read_without_another_request(name: str, reads_of: MakeReads) -> None:
    """The policy here does not wait by itself: without the server's word there would be six requests and an EIO."""
    reads = reads_of(deadline=ENOUGH)
    fault, status = LEAVE_ALONE[name]
    reads.hub.faults.add(CDN, fault)
    error = reads.failure(LFS)
    assert type(error) is DeadlineExceeded
    assert errno_of(error) == errno.ETIMEDOUT
    assert reads.asked(LFS) == ["resolve 302", f"cdn {status}"]
    assert reads.attempts_failed() == 1, "what the server said stands in the status"


def test_a_short_requested_wait_is_kept_and_the_read_succeeds(reads: Reads) -> None:
    reads.hub.faults.add(CDN, faults.unavailable(1), count=1)
    assert reads.read(LFS) == CONTENT
    assert reads.asked(LFS) == ["resolve 302", "cdn 503", "cdn 206"]
    first, second = (record.time for record in reads.hub.journal.requests("cdn"))
    assert second - first >= 1.0


# Silence.


@pytest.mark.parametrize("fault", [faults.hold(), faults.stall(0), faults.stall(100_000)], ids=["no head", "0", "some"])
def test_a_silent_server_is_asked_again_on_another_connection(fault: Fault, reads_of: MakeReads) -> None:
    reads = reads_of(stall_seconds=ENOUGH)
    reads.hub.faults.add(CDN, fault, count=1)
    assert reads.read(LFS) == CONTENT
    asked = reads.hub.journal.requests("cdn", file=LFS)
    assert [record.range for record in asked] == [f"bytes=0-{SIZE - 1}"] * 2
    assert asked[0].connection != asked[1].connection
    assert "did not answer in time" in reads.fetcher.errors()[0].what


def test_a_server_that_stays_silent_fails_after_six_attempts(reads_of: MakeReads) -> None:
    reads = reads_of(stall_seconds=SHORT)
    reads.hub.faults.add(CDN, faults.stall(1000))
    error = reads.failure(LFS)
    assert type(error) is HubUnreachable
    assert errno_of(error) == errno.EIO
    assert len(reads.hub.journal.requests("cdn", file=LFS)) == ATTEMPTS


def test_a_read_from_a_silent_server_ends_by_its_deadline(reads_of: MakeReads) -> None:
    reads = reads_of(deadline=ENOUGH)
    reads.hub.faults.add(CDN, faults.hold())
    error = reads.failure(LFS)
    assert type(error) is DeadlineExceeded
    assert errno_of(error) == errno.ETIMEDOUT
    assert len(reads.hub.journal.requests("cdn", file=LFS)) == 1


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that answers no SYN, as behind a firewall that drops: its queue of connections is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


def test_a_server_that_accepts_no_connection_fails_in_time(reads_of: MakeReads) -> None:
    reads = reads_of(connect_seconds=SHORT, retry=RetryPolicy(attempts=2, base=0.0, cap=0.0))
    with deaf_port() as port:
        reads.hub.faults.add(RESOLVE, faults.header("Location", f"http://127.0.0.1:{port}/x"))
        error = reads.failure(LFS)
    assert type(error) is HubUnreachable
    assert f"127.0.0.1:{port} did not answer in time" in str(error)
    assert errno_of(error) == errno.EIO
    assert reads.attempts_failed() == 2


def test_an_endless_trickling_body_ends_at_the_deadline_and_delays_no_other_read(
    reads_of: MakeReads,
) -> None:
    """No byte is ever late, so that it is no stall; and no speed is too low for a link that has no better."""
    reads = reads_of(workers=2, deadline=ENOUGH)
    reads.hub.faults.add(Match(kind="cdn", file=LFS), faults.trickle(0.01))
    error = reads.failure(LFS)
    assert type(error) is DeadlineExceeded
    assert errno_of(error) == errno.ETIMEDOUT
    assert reads.asked(LFS) == ["resolve 302", "cdn 206"]
    patient = reads_of()
    for name in (OTHER, GIT):
        made = FILES[name]
        assert patient.read(name) == (made if isinstance(made, bytes) else made.read(0, SIZE))
    reads.hub.faults.clear()
    reads.hub.cut()
    assert patient.read(LFS) == CONTENT


def test_a_trickling_block_moves_to_another_connection_after_a_timeout(
    reads_of: MakeReads,
) -> None:
    reads = reads_of(workers=2, deadline=ENOUGH)
    reads.hub.faults.add(Match(kind="cdn", file=LFS), faults.trickle(0.01), count=1)
    assert type(reads.failure(LFS)) is DeadlineExceeded
    assert reads.read(LFS) == CONTENT
    assert reads.asked(LFS) == ["resolve 302", "cdn 206", "cdn 206"]
