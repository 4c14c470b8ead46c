"""Pace, connections and the journal."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.hub import Hub, Match, Repo, Shape, faults
from tests.hub.shaping import SLICE_SECONDS, Bucket, Pace
from tests.unit.hub.conftest import CONFIG, WEIGHTS, Fetch


def test_bucket_lets_bytes_pass_at_its_rate() -> None:
    now = [100.0]
    bucket = Bucket(lambda: now[0])
    passed = 0.0
    for _ in range(50):
        now[0] += bucket.take(1000, rate=10_000)
        passed += 1000
    assert now[0] - 100.0 == pytest.approx(passed / 10_000 - SLICE_SECONDS)
    now[0] += 3600  # idleness earns one slice, not an hour's bytes
    assert bucket.take(1000, rate=10_000) == pytest.approx(0.1 - SLICE_SECONDS)


def test_connections_share_the_total_and_keep_their_own() -> None:
    shape = Shape(per_connection=10_000, total=15_000)
    first, second = Pace(shape), Pace(shape)
    waits = [pace.wait_for(1500) for _ in range(10) for pace in (first, second)]
    # 30 000 bytes at 15 000 a second in all; either alone would have been done after 1.5 s.
    assert max(waits) == pytest.approx(2.0, abs=0.1)


def test_slices_follow_the_rate() -> None:
    shape = Shape()
    full = shape.slice
    shape.per_connection = 1e6
    assert shape.slice == 1e6 * SLICE_SECONDS
    shape.total = 1e6
    assert shape.slice < 1e6 * SLICE_SECONDS
    shape.per_connection = shape.total = 1e12
    assert shape.slice == full


def test_shaped_answer_takes_its_time(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.shape.per_connection = 4e6
    hub.shape.latency = 0.05
    body = fetch(signed, Range="bytes=0-799999").body
    assert body == WEIGHTS.read(0, 800_000)
    (record,) = hub.journal.requests("cdn")
    assert record.finished is not None
    assert record.finished - record.time >= 0.05 + 0.2 - 2 * SLICE_SECONDS


def test_connection_is_kept_and_numbered(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    for _ in range(3):
        fetch("/api/models/acme/tiny", "HEAD")
        fetch("/acme/tiny/resolve/main/none", "GET")
        fetch("/api/models/acme/tiny/paths-info/main", "POST", body=b"paths=a")
    assert len({record.connection for record in hub.journal.requests()}) == 1
    fetch("/", Connection="close")
    fetch("/")
    assert len({record.connection for record in hub.journal.requests()}) == 2


def raw(hub: Hub, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(hub.endpoint.rpartition(":")[2])), timeout=10) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            return file.read()


def test_pipelined_requests_and_chunked_bodies(hub: Hub, repo: Repo) -> None:
    post = b"POST /api/models/acme/tiny/paths-info/main HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    got = raw(hub, post + b"6\r\npaths=\r\nb\r\nconfig.json\r\n0\r\n\r\n" + b"HEAD / HTTP/1.1\r\n\r\n")
    assert got.count(b"HTTP/1.1 200 OK") == 1
    assert b'"path":"config.json"' in got
    assert got.count(b"HTTP/1.1 404 Not Found") == 1


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"X" * 70_000])
def test_nonsense_is_400(hub: Hub, sent: bytes) -> None:
    assert raw(hub, sent).startswith(b"HTTP/1.1 400 ")


def test_client_leaving_in_mid_body_is_no_error(hub: Hub, signed: str, capfd: pytest.CaptureFixture[str]) -> None:
    hub.shape.per_connection = 1e6
    host = urlsplit(signed).netloc
    with socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), timeout=10) as client:
        client.sendall(f"GET {signed.partition(host)[2]} HTTP/1.1\r\n\r\n".encode())
        client.recv(1000)
    records = hub.journal.wait_for(lambda records: records[-1].kind == "cdn" and records[-1].finished is not None)
    assert records[-1].bytes_sent < WEIGHTS.size
    assert capfd.readouterr() == ("", "")


def test_journal_tells_everything_in_order(hub: Hub, repo: Repo, fetch: Fetch, signed: str) -> None:
    hub.journal.clear()
    fetch("/api/models/acme/tiny/tree/main?recursive=true", Authorization="Bearer hf_good")
    fetch(signed, Range="bytes=10-19")
    first, second = hub.journal.requests()
    assert (first.kind, first.origin, first.type, first.repo, first.revision) == (
        "tree",
        "api",
        "model",
        "acme/tiny",
        "main",
    )
    assert (first.query, first.token, first.authorized) == ({"recursive": "true"}, "hf_good", True)
    assert (second.kind, second.origin, second.repo, second.file) == ("cdn", "cdn", "acme/tiny", "model.safetensors")
    assert (second.status, second.range, second.bytes_sent, second.authorized) == (206, "bytes=10-19", 10, False)
    assert first.finished is not None
    assert first.time <= first.finished <= second.time
    assert hub.journal.bytes_sent("cdn") == hub.journal.bytes_sent(file="model.safetensors") == 10
    assert hub.journal.requests("api") == [first]
    assert hub.journal.requests(path=first.path, method="GET", status=200) == [first]


def test_journal_is_waited_for(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    reader = threading.Thread(target=lambda: fetch("/api/models/acme/tiny"))
    reader.start()
    assert hub.journal.wait_for(lambda records: any(r.kind == "info" for r in records))
    reader.join(10)
    with pytest.raises(TimeoutError):
        hub.journal.wait_for(lambda records: len(records) > 1, timeout=0.01)


def test_journal_file_holds_no_token(tmp_path: Path, fetch: Fetch) -> None:
    path = tmp_path / "journal"
    with Hub(journal_file=path) as hub:
        hub.add_repo("acme/tiny", files={"a": CONFIG})
        fetch(f"{hub.endpoint}/api/models/acme/tiny", Authorization="Bearer hf_good")
    (line,) = path.read_text().splitlines()
    assert "hf_good" not in line
    assert json.loads(line)["auth"] is True
    assert json.loads(line)["status"] == 200


def test_the_control_route_exists_only_when_enabled(fetch: Fetch) -> None:
    with Hub(control=True) as hub:
        hub.add_repo("acme/tiny", files={"a.bin": b"1"})
        fetch(fetch(f"{hub.endpoint}/acme/tiny/resolve/main/a.bin").headers["location"])
        seen = json.loads(fetch(f"{hub.endpoint}/-/journal").body)
        assert (seen["requests"], seen["bytes_by_kind"]["cdn"]) == (2, 1)
        fetch(f"{hub.endpoint}/-/journal/clear", "POST")
        assert json.loads(fetch(f"{hub.endpoint}/-/journal").body)["requests"] == 0


def test_latency_of_one_kind_only(hub: Hub, fetch: Fetch, signed: str) -> None:
    hub.faults.add(Match(kind="cdn"), faults.slow(0.03))
    fetch(signed, Range="bytes=0-9")
    record = hub.journal.requests("cdn")[0]
    assert record.finished is not None
    assert record.finished - record.time >= 0.03
