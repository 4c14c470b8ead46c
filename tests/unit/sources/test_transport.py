"""Ranged GETs: the right bytes or an error, and no secret where it does not belong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hffs.errors import (
    AccessDenied,
    BadResponse,
    Cancelled,
    ContentChanged,
    EntryNotFound,
    HffsError,
    HubUnreachable,
    LinkExpired,
    RateLimited,
)
from hffs.model import RemoteFile
from hffs.ranges import ByteRange
from tests.hub import Answer, Hub, Match, Request, Synthetic, faults
from tests.hub.wire import plain

from .conftest import Remote

NAME = "model.safetensors"
KIB = 1024


@pytest.fixture
def tiny(hub: Hub, content: bytes) -> Any:
    return hub.add_repo("acme/tiny", files={"config.json": content[:5000], NAME: content, "empty.bin": b""})


@pytest.fixture
def lfs(remote: Remote, tiny: Any) -> RemoteFile:
    return remote.file(NAME)


@pytest.fixture
def git(remote: Remote, tiny: Any) -> RemoteFile:
    return remote.file("config.json")


# Bytes.


@pytest.mark.parametrize("range_", [(0, 1), (0, 100_000), (1, 99_999), (99_999, 100_000), (12_345, 54_321)])
def test_a_range_is_exactly_its_bytes(range_: tuple[int, int], remote: Remote, lfs: RemoteFile, content: bytes) -> None:
    assert remote.read(lfs, *range_) == content[slice(*range_)]


def test_a_git_file_comes_from_the_hub_by_range(hub: Hub, remote: Remote, git: RemoteFile, content: bytes) -> None:
    remote.token = "hf_good"
    assert remote.read(git, 10, 20) == content[10:20]
    assert [(record.kind, record.range, record.token) for record in hub.journal.requests(file="config.json")] == [
        ("resolve", "bytes=10-19", "hf_good"),
        ("resolve-cache", "bytes=10-19", "hf_good"),
    ]


def test_a_git_file_is_resolved_once_for_many_ranges(hub: Hub, remote: Remote, git: RemoteFile, content: bytes) -> None:
    for start in range(0, 5000, 500):
        assert remote.read(git, start, start + 500) == content[start : start + 500]
    assert len(hub.journal.requests("resolve")) == 1
    hub.faults.add(Match(kind="resolve-cache", count=1), faults.status(404))
    assert remote.read(git, 0, 5) == content[:5]
    assert len(hub.journal.requests("resolve")) == 2


def test_a_git_files_address_is_renewed_every_ten_minutes(hub: Hub, remote: Remote, git: RemoteFile) -> None:
    for number in range(30):
        remote.read(git, number, number + 1)
        remote.pass_time(60)
    assert len(hub.journal.requests("resolve")) == 3


def test_an_empty_range_sends_no_request(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    empty = remote.file("empty.bin")
    hub.journal.clear()
    for file, at in ((empty, 0), (lfs, 77)):
        with remote.transport.open_range(file, ByteRange(at, at)) as body:
            assert body.readinto(memoryview(b"")) == 0
    assert not hub.journal.requests()


def test_a_body_is_read_in_pieces_and_not_past_its_end(remote: Remote, lfs: RemoteFile, content: bytes) -> None:
    found = bytearray()
    with remote.transport.open_range(lfs, ByteRange(1000, 11_000)) as body:
        for _ in range(10):
            piece = bytearray(1000)
            assert body.readinto(memoryview(piece)) == 1000
            found += piece
        with pytest.raises(ValueError, match="0 left"):
            body.readinto(memoryview(bytearray(1)))
    assert bytes(found) == content[1000:11_000]


def test_a_range_outside_the_file_is_a_bug_of_the_caller(remote: Remote, lfs: RemoteFile) -> None:
    with pytest.raises(ValueError, match="not inside"):
        remote.transport.open_range(lfs, ByteRange(0, lfs.blob.size + 1))


# Headers, and which hosts get the token.


def test_every_request_is_for_a_range_unencoded(hub: Hub, remote: Remote, lfs: RemoteFile, git: RemoteFile) -> None:
    remote.read(lfs, 5, 10)
    remote.read(git, 5, 10)
    records = [record for record in hub.journal.requests() if record.kind in ("cdn", "resolve", "resolve-cache")]
    assert len(records) == 4
    for record in records:
        assert record.headers["accept-encoding"] == "identity"
        assert record.headers["user-agent"].startswith("hffs/")
        assert (record.range == "bytes=5-9") == (record.method == "GET")
        assert "cookie" not in record.headers


def test_the_token_never_goes_to_the_cdn(hub: Hub, remote: Remote, tiny: Any, lfs: RemoteFile) -> None:
    tiny.private = True
    remote.token = "hf_good"
    remote.read(lfs, 0, 10)
    hub.expire_urls()
    remote.read(lfs, 0, 10)
    assert hub.journal.requests(origin="cdn")
    assert not any(record.authorized for record in hub.journal.requests(origin="cdn"))
    assert all(record.token == "hf_good" for record in hub.journal.requests("resolve"))


def test_a_redirect_to_another_origin_gets_no_token(hub: Hub, remote: Remote, git: RemoteFile) -> None:
    remote.token = "hf_good"
    hub.faults.add(Match(kind="resolve"), faults.redirect(hub.cdn_origin + "/elsewhere"))
    with pytest.raises(HffsError):
        remote.read(git)
    assert hub.journal.requests(origin="cdn")
    assert not any(record.authorized for record in hub.journal.requests(origin="cdn"))


def test_a_netrc_adds_nothing(
    hub: Hub, remote: Remote, lfs: RemoteFile, git: RemoteFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\ndefault login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    hub.journal.clear()
    remote.read(lfs)
    remote.read(git)
    assert not any(record.authorized for record in hub.journal.requests())


def test_a_proxy_from_the_environment_is_used(
    hub: Hub, remote: Remote, lfs: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(HubUnreachable):
        remote.read(lfs)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadPoolExecutor(1) as threads:  # a thread that has not looked at the environment yet
        assert threads.submit(remote.read, lfs, 0, 10).result(10)


# Many reads.


def test_a_hundred_ranges_from_eight_threads_cost_one_resolve(
    hub: Hub, remote: Remote, lfs: RemoteFile, content: bytes
) -> None:
    hub.journal.clear()
    with ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(lambda at: remote.read(lfs, at, at + 1000), range(0, 100_000, 1000)))
    assert b"".join(parts) == content
    assert len(hub.journal.requests("resolve")) == 1
    cdn = hub.journal.requests("cdn")
    assert len(cdn) == 100
    assert len({record.connection for record in cdn}) <= 8
    assert remote.transport.requests == 101


def test_a_threads_connection_is_kept_alive(hub: Hub, remote: Remote, lfs: RemoteFile, git: RemoteFile) -> None:
    for file in (lfs, git, lfs, git):
        remote.read(file, 0, 100)
    for origin in ("cdn", "api"):
        kinds = ("cdn",) if origin == "cdn" else ("resolve-cache",)
        assert len({record.connection for record in hub.journal.requests(origin=origin) if record.kind in kinds}) == 1


def test_a_connection_closed_by_the_server_causes_no_error(
    hub: Hub, remote: Remote, lfs: RemoteFile, content: bytes
) -> None:
    remote.read(lfs, 0, 10)
    hub.cut()
    assert remote.read(lfs, 10, 20) == content[10:20]


def test_an_abandoned_body_does_not_affect_the_next(hub: Hub, remote: Remote, lfs: RemoteFile, content: bytes) -> None:
    for _ in range(3):
        with remote.transport.open_range(lfs, ByteRange(0, 100_000)) as body:
            body.readinto(memoryview(bytearray(10)))
        assert remote.read(lfs, 500, 600) == content[500:600]


# Signed URLs that expire.


def test_an_expired_url_is_renewed_once_and_the_read_goes_on(
    hub: Hub, remote: Remote, lfs: RemoteFile, content: bytes
) -> None:
    remote.read(lfs, 0, 10)
    hub.expire_urls()
    assert remote.read(lfs, 10, 20) == content[10:20]
    assert [record.status for record in hub.journal.requests("cdn")] == [206, 403, 206]
    assert len(hub.journal.requests("resolve")) == 2


def test_a_url_is_renewed_before_its_last_second(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    for _ in range(50):
        remote.read(lfs, 0, 10)
        remote.pass_time(180)
    assert {record.status for record in hub.journal.requests("cdn")} == {206}
    assert len(hub.journal.requests("resolve")) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_fresh_url_that_is_refused_too_is_link_expired(
    status: int, hub: Hub, remote: Remote, lfs: RemoteFile
) -> None:
    hub.faults.add(Match(kind="cdn"), faults.status(status, "no"))
    with pytest.raises(LinkExpired) as caught:
        remote.read(lfs)
    assert caught.value.transient
    assert "Signature" not in str(caught.value)
    assert len(hub.journal.requests("cdn")) == 2
    assert len(hub.journal.requests("resolve")) == 2


def test_all_threads_with_an_expired_url_renew_it_once(
    hub: Hub, remote: Remote, lfs: RemoteFile, content: bytes
) -> None:
    remote.read(lfs, 0, 10)
    hub.expire_urls()
    start = threading.Barrier(8)

    def read(number: int) -> bytes:
        start.wait(10)
        return remote.read(lfs, number * 100, number * 100 + 100)

    with ThreadPoolExecutor(8) as threads:
        assert b"".join(threads.map(read, range(8))) == content[:800]
    assert len(hub.journal.requests("resolve")) == 2


# Responses that are not what was requested.


def answered(change: Callable[[Request, Answer], None]) -> Any:
    return faults.afterwards(change)


def plain_length(request: Request, answer: Answer) -> None:
    answer.put("Content-Length", str(answer.length - 1))


BAD = [
    (faults.wrong_content_range(shift=1), BadResponse, "another range"),
    (faults.wrong_content_range(shift=0, total=7), BadResponse, "another range"),
    (faults.without("Content-Range"), BadResponse, "another range"),
    (faults.header("Content-Range", "bytes 0-99/*"), BadResponse, "another range"),
    (faults.header("Content-Encoding", "gzip"), BadResponse, "encodes"),
    (faults.gzipped(), BadResponse, "encodes"),
    (faults.long_body(b"extra"), BadResponse, "instead of"),
    (answered(plain_length), BadResponse, "instead of"),
    (faults.short_body(50), BadResponse, "early"),
    (faults.short_body(0), BadResponse, "early"),
    (faults.reset(50), HubUnreachable, "reset"),
    (faults.reset(0), HubUnreachable, "reset"),
    (faults.raw(b"nonsense\r\n\r\n"), HubUnreachable, "broke"),
    (faults.raw(b""), HubUnreachable, "127.0.0.1"),
    (faults.status(416), ContentChanged, "not as long"),
    (faults.status(500), HubUnreachable, "500"),
    (faults.status(408), HubUnreachable, "408"),
    (faults.status(204), BadResponse, "204"),
    (faults.unavailable(5), HubUnreachable, "503"),
    (faults.rate_limited(t=9), RateLimited, "9 s"),
    (faults.status(429, "", {"Retry-After": "11"}), RateLimited, "11 s"),
    (faults.redirect_loop(), BadResponse, "circle"),
    (faults.redirect("ftp://x/y"), BadResponse, "no http"),
]


@pytest.mark.parametrize(("fault", "kind", "word"), BAD)
@pytest.mark.parametrize("name", [NAME, "config.json"])
def test_no_bytes_of_a_wrong_response_are_returned(
    name: str, fault: Any, kind: type[HffsError], word: str, hub: Hub, remote: Remote, tiny: Any, content: bytes
) -> None:
    file = remote.file(name)
    where = "cdn" if file.lfs else "resolve-cache"
    scripted = hub.faults.add(Match(kind=where), fault)
    buffer = bytearray(100)
    with pytest.raises(HffsError, match=word) as caught:
        remote.transport.open_range(file, ByteRange(0, 100)).readinto(memoryview(buffer))
    assert type(caught.value) is kind
    assert "Signature" not in str(caught.value)
    assert bytes(buffer) in (bytes(100), content[:50] + bytes(50))
    hub.faults.remove(scripted)
    assert remote.read(file, 0, 100) == content[:100]


def test_surplus_bytes_do_not_reach_the_next_response(
    hub: Hub, remote: Remote, lfs: RemoteFile, content: bytes
) -> None:
    hub.faults.add(Match(kind="cdn", count=1), faults.long_body(b"HTTP/1.1 206 Evil\r\n" * 100, announced=False))
    assert remote.read(lfs, 0, 100) == content[:100]
    try:
        # The surplus is noticed before the connection is used again, or it comes so late that it is no answer.
        assert remote.read(lfs, 100, 200) == content[100:200]
    except HubUnreachable:
        pass
    assert remote.read(lfs, 200, 300) == content[200:300]


def chunked(extra: bytes) -> Any:
    def change(request: Request, answer: Answer) -> None:
        answer.put("Content-Length", None)
        answer.put("Transfer-Encoding", "chunked")
        answer.chunked = True
        answer.parts = [*answer.parts, extra] if extra else answer.parts

    return faults.afterwards(change)


def test_a_body_of_unannounced_length_must_end_where_the_range_does(
    hub: Hub, remote: Remote, lfs: RemoteFile, content: bytes
) -> None:
    hub.faults.add(Match(kind="cdn", count=1), chunked(b""))
    assert remote.read(lfs, 0, 100) == content[:100]
    hub.faults.add(Match(kind="cdn", nth=1, count=1), chunked(b"more"))
    with pytest.raises(BadResponse, match="sent more"):
        remote.read(lfs, 0, 100)
    assert remote.read(lfs, 0, 100) == content[:100]


@pytest.mark.parametrize("range_", [(0, 100_000), (0, 10), (99_990, 100_000), (70_000, 70_010)])
def test_the_range_is_taken_from_a_small_file_sent_whole(
    range_: tuple[int, int], hub: Hub, remote: Remote, lfs: RemoteFile, content: bytes
) -> None:
    hub.faults.add(Match(kind="cdn"), faults.ignore_range())
    assert remote.read(lfs, *range_) == content[slice(*range_)]


def test_a_big_file_sent_whole_is_refused_unless_all_is_wanted(hub: Hub, remote: Remote) -> None:
    size = 17 << 20
    big = Synthetic(size, seed=3)
    hub.add_repo("acme/big", files={NAME: big})
    file = remote.file(NAME, remote.commit("acme/big"))
    hub.faults.add(Match(kind="cdn"), faults.ignore_range())
    for start in (0, 1 << 20):
        with pytest.raises(BadResponse, match=r"127\.0\.0\.1:\d+ ignores Range") as caught:
            remote.transport.open_range(file, ByteRange(start, start + KIB))
        assert not caught.value.transient, "it would do the same again"
    assert remote.read(file) == big.read(0, size)


def test_a_login_page_instead_of_a_big_file_is_a_passing_failure(hub: Hub, remote: Remote) -> None:
    hub.add_repo("acme/big", files={NAME: Synthetic(17 << 20, seed=3)})
    file = remote.file(NAME, remote.commit("acme/big"))
    hub.faults.add(Match(kind="cdn"), faults.status(200, "<html>log in to this hotel's network</html>"))
    with pytest.raises(BadResponse, match="sends 43 bytes") as caught:
        remote.read(file, 0, KIB)
    assert caught.value.transient


def test_a_whole_file_of_another_size_is_refused(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    hub.faults.add(Match(kind="cdn"), faults.body(b"other"))
    hub.faults.add(Match(kind="cdn"), faults.afterwards(lambda request, answer: setattr(answer, "status", 200)))
    with pytest.raises(BadResponse, match="5 bytes"):
        remote.read(lfs, 0, 5)


def test_accept_ranges_is_ignored(hub: Hub, remote: Remote, lfs: RemoteFile, content: bytes) -> None:
    hub.faults.add(Match(kind="cdn"), faults.header("Accept-Ranges", "none"))
    assert remote.read(lfs, 3, 5) == content[3:5]


# The etag of the content.


def test_another_cdn_etag_is_accepted_when_the_hub_confirms_the_content(
    hub: Hub, remote: Remote, lfs: RemoteFile, content: bytes
) -> None:
    remote.read(lfs, 0, 10)
    hub.faults.add(Match(kind="cdn"), faults.etag('"stored-anew"'))
    assert remote.read(lfs, 10, 20) == content[10:20]
    assert len(hub.journal.requests("resolve")) == 2
    assert remote.read(lfs, 20, 30) == content[20:30]
    assert len(hub.journal.requests("resolve")) == 2


def test_another_cdn_etag_is_changed_content_when_the_hubs_etag_differs(
    hub: Hub, remote: Remote, lfs: RemoteFile
) -> None:
    remote.read(lfs, 0, 10)
    hub.faults.add(Match(kind="cdn"), faults.etag('"other"'))
    hub.faults.add(Match(kind="resolve"), faults.header("X-Linked-Etag", f'"{"0" * 64}"'))
    with pytest.raises(ContentChanged):
        remote.read(lfs, 10, 20)


def test_a_weak_etag_equals_the_strong_one(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    remote.read(lfs, 0, 10)
    (blob,) = [
        blob for blob in hub.repo("acme/tiny").commits[lfs.commit.sha].tree.files.values() if blob.etag == lfs.blob.etag
    ]
    hub.faults.add(Match(kind="cdn"), faults.etag(f'W/"{blob.cdn_hash}"'))
    remote.read(lfs, 0, 10)
    hub.faults.add(Match(kind="cdn"), faults.without("ETag"))
    remote.read(lfs, 0, 10)
    assert len(hub.journal.requests("resolve")) == 1


def test_a_git_file_under_another_hash_has_changed(hub: Hub, remote: Remote, git: RemoteFile) -> None:
    for fault in (faults.etag(f'"{"0" * 40}"'), faults.header("X-Repo-Commit", "0" * 40)):
        scripted = hub.faults.add(Match(kind="resolve-cache"), fault)
        with pytest.raises(ContentChanged):
            remote.read(git, 0, 10)
        hub.faults.remove(scripted)


# Refusals by the Hub.


def test_refusals_of_the_hub_are_raised(hub: Hub, remote: Remote, tiny: Any, git: RemoteFile) -> None:
    with pytest.raises(EntryNotFound, match=r"none\.json"):
        remote.read(replace(git, path="none.json"), 0, 1)
    tiny.gated = "auto"
    with pytest.raises(AccessDenied, match="ask for access"):
        remote.read(git)
    remote.token = "hf_good"
    with pytest.raises(AccessDenied, match="ask for access"):
        remote.read(git)
    tiny.gated = None
    remote.token = "hf_bad"
    with pytest.raises(AccessDenied, match="token"):
        remote.read(git)
    remote.token = None
    tiny.private = True
    hub.access.bare_401 = True
    with pytest.raises(AccessDenied, match="log in"):
        remote.read(git)


def test_a_range_is_requested_once_more_with_a_rotated_token(
    hub: Hub, remote: Remote, tiny: Any, git: RemoteFile, content: bytes
) -> None:
    tiny.private = True
    remote.token = "hf_good"
    remote.tokens = ["hf_old"]
    assert remote.read(git, 0, 10) == content[:10]
    assert [record.status for record in hub.journal.requests("resolve")] == [401, 307]
    remote.token = "hf_old"
    with pytest.raises(AccessDenied):
        remote.read(replace(git, path="other.json"))
    assert [record.status for record in hub.journal.requests("resolve")] == [401, 307, 401]


# Timeouts and shutdown.


@pytest.mark.parametrize("fault", [faults.hold(), faults.stall(0), faults.stall(50)])
def test_a_stalling_server_times_out(fault: Any, hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    remote.resolver.locate(lfs)
    impatient = Remote(hub, remote.wall, remote.steady, read_timeout=0.2)
    hub.faults.add(Match(kind="cdn"), fault)
    with pytest.raises(HubUnreachable, match="in time"):
        impatient.read(lfs, 0, 100)
    impatient.transport.close()


def test_a_server_that_is_down_is_reported_by_its_host(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    remote.resolver.locate(lfs)
    hub.down("cdn")
    with pytest.raises(HubUnreachable, match=r"127\.0\.0\.1:\d+: connection refused"):
        remote.read(lfs)


def test_closing_ends_the_connections_of_all_threads(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    done, close = threading.Barrier(4), threading.Event()

    def read(number: int) -> type[BaseException] | None:
        remote.read(lfs, 0, 100)
        done.wait(10)
        close.wait(10)
        try:
            remote.read(lfs, 0, 100)
        except HffsError as error:
            return type(error)
        return None

    with ThreadPoolExecutor(3) as threads:
        reading = [threads.submit(read, number) for number in range(3)]
        done.wait(10)
        remote.transport.close()
        close.set()
        assert {future.result(10) for future in reading} == {Cancelled}


def test_a_body_outlives_the_closing_of_its_transport(remote: Remote, lfs: RemoteFile, content: bytes) -> None:
    with remote.transport.open_range(lfs, ByteRange(0, 100_000)) as body:
        remote.transport.close()
        found = bytearray(100_000)
        body.readinto(memoryview(found))
    assert bytes(found) == content


def test_every_fault_of_the_catalogue_gives_an_hffs_error(hub: Hub, remote: Remote, git: RemoteFile) -> None:
    hub.faults.add(Match(kind="resolve"), faults.instead(lambda request: plain(418, "teapot")))
    with pytest.raises(BadResponse, match="418"):
        remote.read(git)
