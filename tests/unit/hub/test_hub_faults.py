"""Every fault does what its name says, to the requests it was meant for and to no others."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
from urllib.parse import urlsplit

import pytest

from tests.hub import Hub, Match, Repo, faults
from tests.unit.hub.conftest import WEIGHTS, Fetch

CDN = Match(kind="cdn")


def test_nth_and_count_choose_among_the_matching(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    scripted = hub.faults.add(Match(kind="tree"), faults.unavailable(), nth=2, count=2)
    url = "/api/models/acme/tiny/tree/main"
    statuses = []
    for _ in range(4):
        statuses.append(fetch(url).status)
        assert fetch("/api/models/acme/tiny").status == 200
    assert statuses == [200, 503, 503, 200]
    assert (scripted.seen, scripted.hits) == (4, 2)


def test_match_looks_at_all_it_is_given(hub: Hub, repo: Repo, fetch: Fetch, signed: str) -> None:
    for match, hit in [
        (Match(kind="cdn", file="model.safetensors", repo="acme/tiny", ranged=True, method="GET"), True),
        (Match(kind="cdn", ranged=False), False),
        (Match(kind="cdn", file="other"), False),
        (Match(method="HEAD"), False),
        (Match(path=urlsplit(signed).path), True),
        (Match(where=lambda request: request.headers["range"] == "bytes=0-9"), True),
        (Match(kind="api"), False),
    ]:
        scripted = hub.faults.add(match, faults.unavailable())
        assert (fetch(signed, Range="bytes=0-9").status == 503) is hit, match
        hub.faults.remove(scripted)
    assert fetch(signed, Range="bytes=0-9").status == 206


def test_refusals(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.faults.add(CDN, faults.expired(), count=1)
    hub.faults.add(CDN, faults.rate_limited(t=3, bucket="resolvers", retry_after=3), nth=2, count=1)
    hub.faults.add(CDN, faults.unavailable("Wed, 21 Oct 2026 07:28:00 GMT"), nth=3, count=1)
    hub.faults.add(CDN, faults.bad_token(), nth=4, count=1)
    expired, limited, busy, bad = (fetch(signed) for _ in range(4))
    assert (expired.status, b"<Error>" in expired.body) == (403, True)
    assert (limited.status, limited.headers["ratelimit"]) == (429, '"resolvers";r=0;t=3')
    assert limited.headers["retry-after"] == "3"
    assert (busy.status, busy.headers["retry-after"]) == (503, "Wed, 21 Oct 2026 07:28:00 GMT")
    assert (bad.status, bad.headers["x-error-message"]) == (401, "Invalid credentials in Authorization header")
    assert fetch(signed).status == 200


def test_redirects_to_nowhere_good(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    url = "/acme/tiny/resolve/main/config.json"
    hub.faults.add(Match(kind="resolve"), faults.redirect_loop())
    got = fetch(url)
    assert (got.status, got.headers["location"]) == (307, url)
    hub.faults.add(Match(kind="resolve"), faults.redirect("file:///etc/passwd"))
    assert fetch(url).headers["location"] == "file:///etc/passwd"


def test_headers_lost_and_changed(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.faults.add(CDN, faults.without("accept-ranges", "Content-Length"))
    hub.faults.add(CDN, faults.etag('"another"'))
    got = fetch(signed, Range="bytes=0-9")
    assert (got.status, got.body) == (206, WEIGHTS.read(0, 10))
    assert got.headers["etag"] == '"another"'
    assert not {"accept-ranges", "content-length"} & set(got.headers)


def test_wrong_content_range(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.faults.add(CDN, faults.wrong_content_range(shift=5), count=1)
    assert fetch(signed, Range="bytes=0-9").headers["content-range"] == f"bytes 5-14/{WEIGHTS.size}"
    hub.faults.add(CDN, faults.wrong_content_range(shift=0, total=7))
    assert fetch(signed, Range="bytes=0-9").headers["content-range"] == "bytes 0-9/7"


def test_range_ignored(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.faults.add(CDN, faults.ignore_range())
    got = fetch(signed, Range="bytes=5-9")
    assert (got.status, got.body) == (200, WEIGHTS.read(0, WEIGHTS.size))
    assert got.headers["accept-ranges"] == "bytes"


def test_gzip_where_none_belongs(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.faults.add(CDN, faults.gzipped())
    got = fetch(signed, Range="bytes=5-9", Accept_Encoding="identity")
    assert gzip.decompress(got.body) == WEIGHTS.read(0, WEIGHTS.size)
    assert (got.status, got.headers["content-encoding"], got.headers["etag"][:3]) == (200, "gzip", 'W/"')


def test_short_body(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.faults.add(CDN, faults.short_body(700), count=1)
    with pytest.raises(http.client.IncompleteRead) as error:
        fetch(signed, Range="bytes=0-999")
    assert error.value.partial == WEIGHTS.read(0, 700)
    assert hub.journal.requests("cdn")[0].bytes_sent == 700
    assert fetch(signed, Range="bytes=0-999").body == WEIGHTS.read(0, 1000)


@pytest.mark.parametrize("after", [0, 500])
def test_reset(hub: Hub, fetch: Fetch, signed: str, after: int) -> None:
    hub.faults.add(CDN, faults.reset(after=after))
    with pytest.raises(ConnectionResetError):
        fetch(signed, Range="bytes=0-999999")


def test_long_body_announced(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.faults.add(CDN, faults.long_body(b"extra"))
    got = fetch(signed, Range="bytes=0-9")
    assert got.body == WEIGHTS.read(0, 10) + b"extra"
    assert got.headers["content-range"] == f"bytes 0-9/{WEIGHTS.size}"


def test_long_body_unannounced_comes_before_the_next_answer(hub: Hub, signed: str) -> None:
    hub.faults.add(CDN, faults.long_body(b"extra", announced=False), count=1)
    host = urlsplit(signed).netloc
    ask = f"GET {signed.partition(host)[2]} HTTP/1.1\r\nRange: bytes=0-9\r\n"
    with socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), timeout=10) as client:
        client.sendall(f"{ask}\r\n{ask}Connection: close\r\n\r\n".encode())
        with client.makefile("rb") as file:
            got = file.read()
    assert got.count(b"Content-Length: 10\r\n") == 2
    assert WEIGHTS.read(0, 10) + b"extraHTTP/1.1 206" in got


@pytest.mark.parametrize(("asked", "at"), [("bytes=0-9", None), ("bytes=100-199", 50), ("bytes=150-150", 0)])
def test_one_wrong_bit_at_its_place_in_the_file(
    hub: Hub, fetch: Fetch, signed: str, asked: str, at: int | None
) -> None:
    good = fetch(signed, Range=asked).body
    hub.faults.add(CDN, faults.flip_bit(150, bit=7))
    bad = fetch(signed, Range=asked).body
    wrong = {n: a ^ b for n, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b}
    assert wrong == ({} if at is None else {at: 128})


def test_empty_body_and_other_body(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.faults.add(CDN, faults.empty(), count=1)
    assert fetch(signed).headers["content-length"] == "0"
    hub.faults.add(CDN, faults.body(b"else"))
    assert fetch(signed).body == b"else"


def test_held_answer_waits_for_release(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.faults.add(CDN, faults.hold())
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fetch(signed, Range="bytes=0-9").body))
    reader.start()
    hub.faults.wait_held(1)
    assert [r.status for r in hub.journal.requests("cdn")] == [None]
    assert got == []
    hub.faults.release()
    reader.join(10)
    assert got == [WEIGHTS.read(0, 10)]
    hub.faults.wait_none_held()


def test_stalled_body_has_begun_and_goes_on_at_release(hub: Hub, signed: str) -> None:
    hub.faults.add(CDN, faults.stall(after=400))
    connection = http.client.HTTPConnection(urlsplit(signed).netloc, timeout=10)
    connection.request("GET", signed, headers={"Range": "bytes=0-999"})
    answer = connection.getresponse()
    assert answer.read(400) == WEIGHTS.read(0, 400)
    hub.faults.wait_held(1)
    hub.faults.release()
    assert answer.read() == WEIGHTS.read(400, 600)
    connection.close()


def test_a_trickling_body_comes_byte_by_byte_and_ends_with_its_connection(hub: Hub, signed: str) -> None:
    hub.faults.add(CDN, faults.trickle(0.001))
    connection = http.client.HTTPConnection(urlsplit(signed).netloc, timeout=10)
    connection.request("GET", signed)
    answer = connection.getresponse()
    assert answer.read(3) == WEIGHTS.read(0, 3)
    connection.close()
    (record,) = hub.journal.wait_for(lambda records: all(record.finished for record in records))[-1:]
    assert 3 <= record.bytes_sent < WEIGHTS.size


def test_held_answer_notices_when_its_client_leaves(hub: Hub, signed: str) -> None:
    hub.faults.add(CDN, faults.hold())
    host, port = urlsplit(signed).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(f"GET {signed.partition(port)[2]} HTTP/1.1\r\n\r\n".encode())
        hub.faults.wait_held(1)
    hub.faults.wait_none_held()


def test_hub_stops_while_answers_are_held() -> None:
    with Hub() as hub:
        hub.faults.add(Match(), faults.hold())
        client = socket.create_connection(("127.0.0.1", int(hub.endpoint.rpartition(":")[2])), timeout=10)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        hub.faults.wait_held(1)
    client.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hub-")]


def test_listings_go_bad(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    url = "/api/models/acme/tiny/tree/main"
    hub.faults.add(Match(kind="tree"), faults.bad_json(), count=1)
    with pytest.raises(json.JSONDecodeError):
        json.loads(fetch(url).body)
    hub.faults.add(Match(kind="tree"), faults.listed())
    paths = [entry["path"] for entry in json.loads(fetch(url).body)]
    assert paths[-len(faults.HOSTILE_NAMES) :] == list(faults.HOSTILE_NAMES)
    assert paths.count("config.json") == 2


def test_ref_moves_between_two_questions(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    before = repo.commit_of("main")
    hub.faults.add(Match(kind="resolve"), faults.first(lambda: repo.commit({"config.json": b"new"})), count=1)
    assert json.loads(fetch("/api/models/acme/tiny").body)["sha"] == before
    after = fetch("/acme/tiny/resolve/main/config.json").headers["x-repo-commit"]
    assert after == repo.commit_of("main") != before


def test_raw_bytes_are_sent_as_they_are(hub: Hub, repo: Repo) -> None:
    hub.faults.add(Match(), faults.raw(lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + b"x"))
    with socket.create_connection(("127.0.0.1", int(hub.endpoint.rpartition(":")[2])), timeout=10) as client:
        client.sendall(b"GET /anything HTTP/1.1\r\n\r\n")
        with client.makefile("rb") as file:
            assert file.read() == b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nx"


def test_own_fault_sees_request_and_answer(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    def shout(request, answering):  # type: ignore[no-untyped-def]
        answer = answering(request)
        answer.put("X-Seen", request.route.kind)
        return answer

    hub.faults.add(match=Match(kind="info"), fault=shout)
    assert fetch("/api/models/acme/tiny").headers["x-seen"] == "info"


def test_mistake_in_a_fault_is_told_not_hidden(fetch: Fetch) -> None:
    with Hub() as other:
        other.faults.add(Match(), faults.first(lambda: 1 / 0))
        assert fetch(other.endpoint + "/").status == 500
        assert "ZeroDivisionError" in other.errors[0]


def test_down_refuses_and_up_answers_at_the_same_port(hub: Hub, repo: Repo, fetch: Fetch, signed: str) -> None:
    endpoint = hub.endpoint
    hub.down("api")
    with pytest.raises(OSError):
        fetch("/api/models/acme/tiny")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=10)
    assert fetch(signed, Range="bytes=0-9").status == 206
    hub.up()
    assert hub.endpoint == endpoint
    assert fetch("/api/models/acme/tiny").status == 200


def test_cut_ends_connections_and_welcomes_new_ones(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    assert fetch("/api/models/acme/tiny").status == 200
    assert hub.connections == 1
    hub.cut()
    assert hub.connections == 0
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)):
        fetch("/api/models/acme/tiny")
    assert fetch("/api/models/acme/tiny").body.startswith(b'{"_id"')
