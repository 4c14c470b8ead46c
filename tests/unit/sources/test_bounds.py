"""Hostile responses of a Hub are refused in one line, within bounds of memory and time."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from hffs.errors import BadResponse, HffsError, HubUnreachable
from hffs.model import Entry
from hffs.names import MOST_SIZE
from hffs.sources.http import urls
from hffs.sources.hub import bounded_response, hub_api
from tests.hub import Hub, Match, faults
from tests.hub.script import Fault
from tests.hub.wire import Answer, Request, plain

from .conftest import Remote

TREE = Match(kind="tree")
FILES = {"config.json": b"{}", "sub/a.txt": b"a", "sub/b.txt": b"b"}


@pytest.fixture(autouse=True)
def tiny(hub: Hub) -> Any:
    return hub.add_repo("acme/tiny", files=FILES)


def listed(remote: Remote) -> list[Entry]:
    page = remote.catalog.list_tree(remote.commit(), "")
    return [*page.entries, *(page.rest or ())]


def refused(remote: Remote) -> str:
    """The one line that a listing is refused with."""
    with pytest.raises(HffsError) as failed:
        listed(remote)
    assert type(failed.value) is BadResponse
    line = str(failed.value)
    assert line.isprintable()
    return line


def instead(body: bytes, headers: dict[str, str] | None = None) -> Fault:
    def make(request: Request) -> Answer:
        answer = plain(200, "", {"Content-Type": "application/json", **(headers or {})})
        answer.replace_body(body)
        return answer

    return faults.instead(make)


# Bodies.


def test_a_gzip_bomb_is_not_unpacked(hub: Hub, remote: Remote) -> None:
    bomb = gzip.compress(b"[" + bytes(200 << 20) + b"]", compresslevel=1)
    hub.faults.add(TREE, instead(bomb, {"Content-Encoding": "gzip"}))
    remote.commit()
    tracemalloc.start()
    try:
        assert "more than 32 MiB" in refused(remote)
        assert tracemalloc.get_traced_memory()[1] < 120 << 20
    finally:
        tracemalloc.stop()
    assert len(hub.journal.requests("tree")) == 1, "asking again would bring the same"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(gzip.compress(b"[]")), "gzip, gzip"),
        (b"[]", "br"),
        (b"[]", "zstd"),
        (b"[]", "gzip"),
        (gzip.compress(b"[]")[:-4], "gzip"),
        (gzip.compress(b"[]") + gzip.compress(b"[]"), "gzip"),
    ],
    ids=["gzip twice", "br", "zstd", "not gzip", "cut off", "two members"],  # gzip's own date is in the bodies
)
def test_an_encoding_that_was_not_offered_or_is_broken_is_refused(
    body: bytes, encoding: str, hub: Hub, remote: Remote
) -> None:
    hub.faults.add(TREE, instead(body, {"Content-Encoding": encoding}))
    refused(remote)


def test_a_gzipped_listing_is_a_listing(hub: Hub, remote: Remote) -> None:
    rows = [{"type": "file", "path": "a", "size": 1, "oid": "0" * 40}]
    hub.faults.add(TREE, instead(gzip.compress(json.dumps(rows).encode()), {"Content-Encoding": "gzip"}))
    assert listed(remote) == [Entry("a", "file", 1, "0" * 40)]
    assert {record.headers["accept-encoding"] for record in hub.journal.requests("tree")} == {"gzip"}


def test_an_endless_body_is_abandoned(hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_response, "MAX_BYTES", 1 << 20)
    hub.faults.add(TREE, instead(b"[" + b" " * (8 << 20) + b"]"))
    assert "more than 1 MiB" in refused(remote)


def test_a_trickling_body_is_abandoned(hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.commit()
    monkeypatch.setattr(hub_api, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(hub_api, "PATIENCE", 0.0)
    hub.faults.add(TREE, faults.trickle(0.02))
    assert "did not end its answer" in refused(remote)


@pytest.mark.parametrize(
    "body", [b"[" + b"1," * 2_100_000 + b"1]", b"[" * 1_100_000, b"[" + b"{}," * 1_100_000 + b"1]"]
)
def test_json_of_too_many_values_is_not_decoded(body: bytes, hub: Hub, remote: Remote) -> None:
    hub.faults.add(TREE, instead(body))
    assert "too many parts" in refused(remote)


@pytest.mark.parametrize("kind", ["info", "tree"])
@pytest.mark.parametrize(
    "body",
    [
        b"", b"nul", b"null", b"0", b'"text"', b"{}", b"NaN", b"[" * 100_000, b'{"a":' * 100_000, b"[1]", b"[null]",
        b'[{"type":"file"}]', b'[{"type":"file","path":{}}]', b"[[[]]]", b"\xff\xfe", b"1" * 5000,
        b"[" + b"1" * 5000 + b"]",
        b'{"id":5,"sha":7}', b'{"id":"acme/tiny","sha":"' + b"z" * 40 + b'"}', b"\x1b[31m",
    ],
)  # fmt: skip
def test_json_of_the_wrong_shape_is_refused(kind: str, body: bytes, hub: Hub, remote: Remote) -> None:
    commit = remote.commit()
    hub.faults.add(Match(kind=kind), instead(body))
    with pytest.raises(HffsError) as failed:
        _ = remote.catalog.list_tree(commit, "") if kind == "tree" else remote.commit()
    assert str(failed.value).isprintable()


@pytest.mark.parametrize(
    "size",
    [
        "-1",
        "true",
        "NaN",
        "Infinity",
        "1e400",
        '"5"',
        "2.5",
        "[]",
        str(2**63),
        str(2**64),
        "9" * 400,
        str(MOST_SIZE + 1),
    ],
)
def test_an_impossible_size_in_a_listing_counts_as_missing(size: str, hub: Hub, remote: Remote) -> None:
    rows = (
        '[{"type":"file","path":"a","oid":"%s","size":%s},'
        '{"type":"file","path":"b","oid":"%s","size":1,"lfs":{"oid":"%s","size":%s}}]'
    )
    hub.faults.add(TREE, instead((rows % ("0" * 40, size, "0" * 40, "1" * 64, size)).encode()))
    assert [(entry.path, entry.size) for entry in listed(remote)] == [("a", None), ("b", None)]


@pytest.mark.parametrize("size", ["-5", str(MOST_SIZE + 1), "9" * 300, "5x", "NaN"])
def test_a_head_with_an_impossible_size_is_refused(size: str, hub: Hub, remote: Remote) -> None:
    hub.add_repo("acme/big", files={"model.safetensors": b"x" * 100})
    commit = remote.commit("acme/big")
    hub.faults.add(Match(kind="resolve"), faults.header("X-Linked-Size", size))
    with pytest.raises(BadResponse):
        remote.catalog.complete_size(commit, Entry("model.safetensors", "file"))


@pytest.mark.parametrize("when", ["1901-01-01T00:00:00.000Z", "9999-12-31T23:59:59.000Z", "0001-01-01T00:00:00.000Z"])
def test_an_impossible_date_counts_as_none(when: str, hub: Hub, remote: Remote) -> None:
    hub.faults.add(Match(kind="info"), faults.json_changed(lambda info: {**info, "lastModified": when}))
    assert remote.commit().date == 0


# Pages.


def next_page(link: Callable[[Request], str]) -> Fault:
    return faults.afterwards(lambda request, answer: answer.put("Link", f'<{link(request)}>; rel="next"'))


def test_a_page_that_names_itself_as_the_next_ends_the_listing(hub: Hub, remote: Remote) -> None:
    hub.faults.add(TREE, next_page(lambda request: f"{hub.endpoint}{request.target}"))
    assert "in a circle" in refused(remote)
    assert len(hub.journal.requests("tree")) == 1


@pytest.mark.allow_warnings
def test_two_pages_that_name_each_other_end_the_listing(hub: Hub, remote: Remote) -> None:
    def other(request: Request) -> str:
        return f"{hub.endpoint}{request.target.partition('&ping')[0]}&ping={'&ping' not in request.target}"

    hub.faults.add(TREE, next_page(other))
    assert "in a circle" in refused(remote)
    assert len(hub.journal.requests("tree")) <= 3


def test_pages_without_entries_end_the_listing(hub: Hub, remote: Remote) -> None:
    hub.faults.add(TREE, next_page(lambda request: f"{hub.endpoint}{request.target}x"))
    hub.faults.add(TREE, faults.json_changed(lambda rows: []))
    assert "without entries" in refused(remote)
    assert len(hub.journal.requests("tree")) == 1


@pytest.mark.allow_warnings
def test_thin_pages_without_end_end_the_listing(hub: Hub, remote: Remote) -> None:
    hub.faults.add(TREE, next_page(lambda request: f"{hub.endpoint}{request.target}x"))  # ever longer, ever the same
    assert "without entries" in refused(remote)
    assert len(hub.journal.requests("tree")) == bounded_response.THIN_PAGES + 1


@pytest.mark.allow_warnings
def test_full_pages_without_end_end_the_listing(hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_response, "MAX_ENTRIES", 100)
    hub.faults.add(TREE, next_page(lambda request: f"{hub.endpoint}{request.target}x"))
    assert "more than 100 entries" in refused(remote)


@pytest.mark.parametrize(
    "where", ["//elsewhere.example/x", "ftp://hub/x", "file:///etc/passwd", "http://[", "/x", "x", ""]
)
def test_a_next_page_that_is_no_page_of_this_hub_is_not_requested(where: str, hub: Hub, remote: Remote) -> None:
    hub.faults.add(TREE, next_page(lambda request: where))
    refused(remote)
    assert len(hub.journal.requests("tree")) == 1


def test_more_names_than_a_repo_can_have_are_not_kept(
    hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hffs.sources.hub import catalog

    monkeypatch.setattr(catalog, "_MAX_TEXT", 100_000)
    deep = "/".join("d" * 60 for _ in range(60))  # whose folders alone are 100,000 characters
    hub.faults.add(TREE, faults.listed([deep]))
    assert "more names" in refused(remote)


@pytest.mark.allow_warnings
@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["a", "a/b"], {"a"}),
        (["a/b", "a"], {"a/b"}),
        (["a/b/c", "a/b", "a/b/c/d"], {"a/b/c"}),
        (["a", "a", "A", "a\u0301", "\u00e1"], {"a", "A", "a\u0301", "\u00e1"}),
        (["x" * 255, "x" * 256, "é" * 127, "é" * 128], {"x" * 255, "é" * 127}),
        (["/".join("d" * 64), "/".join("d" * 65)], {"/".join("d" * 64)}),
        (["\x1b[2J", "a\rb", "\ud800", "\x00"], {"\x1b[2J", "a\rb"}),
    ],
)
def test_names_that_contradict_each_other_are_dropped(
    names: list[str], kept: set[str], hub: Hub, remote: Remote
) -> None:
    hub.faults.add(TREE, faults.listed(names))
    assert {entry.path for entry in listed(remote) if entry.kind == "file"} == {*FILES, *kept}


# Redirects of the API.


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://name:word@127.0.0.1/x",
        "http://elsewhere.example\\@127.0.0.1/x",
        "",
        "http://127.0.0.1:99999/",
    ],
)
def test_bad_redirects_of_the_api_are_refused(target: str, hub: Hub, remote: Remote) -> None:
    remote.token = "hf_good"
    hub.faults.add(Match(kind="info"), faults.redirect(target, 307))
    with pytest.raises(HffsError) as failed:
        remote.commit()
    assert str(failed.value).isprintable()
    assert [record.kind for record in hub.journal.requests()] == ["info"] * 3, "asked again, and never followed"


def test_a_circle_of_api_redirects_ends_after_five(hub: Hub, remote: Remote) -> None:
    hub.faults.add(Match(kind="info"), faults.redirect_loop())
    with pytest.raises(BadResponse, match="in a circle"):
        remote.commit()
    assert len(hub.journal.requests()) == 3 * (hub_api.MAX_REDIRECTS + 1), "a circle may be one edge's, so again"


def test_the_body_of_a_redirect_is_not_read_without_end(
    hub: Hub, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_response, "MAX_BYTES", 1 << 20)

    def long(request: Request) -> Answer:
        answer = plain(307, "", {"Location": request.target})
        answer.replace_body(b" " * (4 << 20))
        return answer

    hub.faults.add(Match(kind="info"), faults.instead(long))
    with pytest.raises(BadResponse, match="more than 1 MiB"):
        remote.commit()


def test_the_token_never_follows_a_redirect_to_a_host_that_only_looks_like_the_hub(hub: Hub, remote: Remote) -> None:
    """urlsplit takes what stands before an @ for a user, urllib3 what stands before a backslash for the host."""
    remote.token = "hf_good"
    hub.add_repo("acme/big", files={"model.safetensors": b"x" * 100})
    file = remote.file("model.safetensors", remote.commit("acme/big"))
    there, here = (urls.origin_of(url) for url in (hub.cdn_origin, hub.endpoint))
    looks_like_home = f"http://{there[1]}:{there[2]}\\@{here[1]}:{here[2]}/steal"
    hub.faults.add(Match(kind="cdn"), faults.redirect(looks_like_home))
    with pytest.raises(BadResponse):
        remote.read(file)
    assert not any(record.authorized for record in hub.journal.requests(origin="cdn"))
    assert not any("steal" in record.path for record in hub.journal.requests())


# Heads.

HEADS = {
    "a header of a megabyte": b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n",
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 100_000,
    "a status that is none": b"HTTP/1.1 999999 \x1b[31m\r\n\r\n",
    "a negative length": b"HTTP/1.1 206 OK\r\nContent-Length: -5\r\n\r\n[]",
    "two lengths": b"HTTP/1.1 206 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n[]",
    "a length of 400 digits": b"HTTP/1.1 206 OK\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n[]",
    "a chunk of a negative length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n[]",
    "a chunk of a length without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * (1 << 20),
    "a control character": b"HTTP/1.1 302 Found\r\nLocation: http://\x1b[2J/\r\nContent-Length: 0\r\n\r\n",
    "informational without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
}


@pytest.mark.parametrize("name", HEADS)
def test_a_malformed_response_head_is_refused_in_one_line(name: str, hub: Hub, remote: Remote) -> None:
    hub.add_repo("acme/big", files={"model.safetensors": b"x" * 100})
    file = remote.file("model.safetensors", remote.commit("acme/big"))
    commit = remote.commit()
    for match in (TREE, Match(kind="resolve"), Match(kind="cdn")):  # once the address is known, no other is requested
        fault = hub.faults.add(match, faults.raw(HEADS[name]))
        with pytest.raises(HffsError) as failed:
            _ = remote.catalog.list_tree(commit, "") if match is TREE else remote.read(file)
        assert str(failed.value).isprintable()
        hub.faults.remove(fault)
    try:
        found = remote.read(file)
    except HubUnreachable:  # that the server broke the connection off may be noticed only now; workers ask again, too
        found = remote.read(file)
    assert found == b"x" * 100
