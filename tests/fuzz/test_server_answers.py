"""What servers send: listings, headers, addresses."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import huggingface_hub
import pytest
from hypothesis import strategies as st
from requests import Request, Session
from urllib3.util import parse_url

from hffs.errors import BadResponse, HffsError, UsageError
from hffs.model import Commit, Entry, RepoRef, RepoType
from hffs.names import MOST_SIZE, check_name, shown
from hffs.policy import Quota, RequestPacer
from hffs.sources.http.errors import MAX_WAIT, http_errors
from hffs.sources.http.headers import compact_date, content_length, content_range, http_date, plain_etag, retry_after
from hffs.sources.http.urls import expires_at, next_hop, origin_of
from hffs.sources.hub.access import HubAccess
from hffs.sources.hub.auth import Auth
from hffs.sources.hub.bounded_response import PageGuard
from hffs.sources.hub.catalog import HubCatalog
from hffs.sources.hub.hub_errors import RequestSubject, httpx, refusal
from hffs.sources.hub.repo_id import parse_repo
from hffs.sources.hub.urls import RESOLVERS

from .mutations import broken, broken_text, fuzzed, latin, misfits

HUB = "https://hub.example"
COMMIT = Commit(RepoType.MODEL, "acme/tiny", "main", "c" * 40, 0.0, HUB)
SHA, SHA256 = "0" * 40, "1" * 64
PAGE = [
    {"type": "directory", "oid": SHA, "size": 0, "path": "onnx"},
    {"type": "file", "oid": SHA, "size": 665, "path": "config.json"},
    {
        "type": "file", "oid": SHA, "size": 548105171, "path": "onnx/model.safetensors", "xetHash": SHA256,
        "lfs": {"oid": SHA256, "size": 548105171, "pointerSize": 134},
    },
]  # fmt: skip
PAGES = [json.dumps(PAGE).encode(), b"[]", gzip.compress(json.dumps(PAGE).encode())]
LINK = f'<{HUB}/api/models/acme/tiny/tree/{COMMIT.sha}?recursive=true&cursor=Zm9v&limit=1000>; rel="next"'
INFO = {"_id": "1", "id": "acme/tiny", "sha": COMMIT.sha, "lastModified": "2026-01-01T00:00:00.000Z", "private": False,
        "gated": "manual", "tags": ["a"], "downloads": 3, "likes": 4, "library_name": "transformers"}  # fmt: skip
answer: list[object] = []


@pytest.fixture(autouse=True)
def _answers() -> Iterator[None]:
    """Every request of huggingface_hub gets the response in ``answer``."""

    def serve(request: object) -> object:
        body, headers = answer
        return httpx.Response(200, headers=headers, content=body)

    huggingface_hub.set_client_factory(
        lambda: httpx.Client(transport=httpx.MockTransport(serve), follow_redirects=True, timeout=None)
    )
    yield
    from huggingface_hub.utils import _http

    huggingface_hub.set_client_factory(_http.default_client_factory)
    huggingface_hub.close_session()


def catalog() -> HubCatalog:
    return HubCatalog(HUB, Auth(find=lambda: None), sleep=lambda _: None)


def possible(entries: list[Entry]) -> None:
    files = {entry.path for entry in entries if entry.kind == "file"}
    assert len(entries) == len({entry.path for entry in entries})
    for entry in entries:
        assert check_name(entry.path) == entry.path
        assert entry.size is None or 0 <= entry.size <= MOST_SIZE
        assert entry.etag is None or len(entry.etag) in (40, 64)
        above = entry.path.split("/")[:-1]
        assert not any("/".join(above[: depth + 1]) in files for depth in range(len(above)))


@fuzzed(
    broken(PAGES) | misfits([PAGE]),
    latin(["", LINK]),
    st.sampled_from(["identity", "gzip", "gzip", "deflate", "br", "gzip, gzip"]),
)
def test_a_listing(body: bytes, link: str, encoding: str) -> None:
    answer[:] = body, [("content-encoding", encoding), *([("link", link)] if link else [])]
    try:
        page = catalog().list_tree(COMMIT, "")
        possible([*page.entries, *(page.rest or ())])
        possible(catalog().list_directory(COMMIT, "onnx"))
        possible(catalog().stat(COMMIT, ["onnx", "config.json"]))
    except HffsError as error:
        assert shown(str(error)).isprintable()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("a/b") | st.just(SHA),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["oid", "size", "path"]), inner),
    max_leaves=6,
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["file", "directory", "link", None]),
        "path": st.sampled_from(["a", "a/b", "a/b/c", "b", "../x"]) | VALUES,
        "size": VALUES,
        "oid": st.just(SHA) | VALUES,
        "lfs": VALUES,
        "lastCommit": VALUES,
    },
)


@fuzzed(st.lists(ROWS, max_size=8))
def test_rows_of_a_listing(rows: list[object]) -> None:
    answer[:] = json.dumps(rows).encode(), []
    try:
        possible(catalog().list_tree(COMMIT, "").entries)
    except HffsError as error:
        assert str(error).isprintable()


@fuzzed(broken([json.dumps(INFO).encode()]) | misfits([INFO]))
def test_what_is_said_of_a_repo(body: bytes) -> None:
    answer[:] = body, []
    try:
        found = catalog().resolve(RepoRef(RepoType.MODEL, "acme/tiny"))
    except HffsError as error:
        assert str(error).isprintable()
    else:
        assert 0 <= found.commit.date < 1 << 32
        assert len(found.commit.sha) == 40


@fuzzed(latin(["bytes 0-99/100", "bytes */100", "bytes 5-5/6"]), latin(["100", "0", ""]))
def test_ranges_and_lengths(text: str, length: str) -> None:
    found = content_range(text)
    assert found is None or found[0].start < found[0].stop <= found[1] < 10**18
    count = content_length(length)
    assert count is None or 0 <= count < 10**18


@fuzzed(
    latin(['"default";r=0;t=55', '"fixed window";"api";q=500;w=300', ""]),
    latin(["120", "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 +9959", ""]),
    st.sampled_from([200, 301, 400, 401, 403, 404, 408, 416, 429, 500, 503]),
    latin(["GatedRepo", "RepoNotFound", "EntryNotFound", ""]),
)
def test_refusals_and_waits(limit: str, after: str, status: int, code: str) -> None:
    headers = {"ratelimit": limit, "retry-after": after, "date": after, "x-error-code": code, "x-error-message": code}
    wait = retry_after(headers, 1_800_000_000.0)
    assert wait is None or wait >= 0
    moment = http_date(after)
    assert moment is None or isinstance(moment, float)
    error = refusal(RequestSubject.of_commit(COMMIT, "a"), status, headers)
    assert str(error).isprintable()
    assert (getattr(error, "retry_after", None) or 0) <= 300


class Answered:
    """An answer to one request, and whether it was let go of."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status_code, self.headers = status, headers

    def close(self) -> None:
        pass


@fuzzed(
    st.lists(
        st.tuples(
            st.sampled_from([200, 302, 401, 403, 404, 429, 500]),
            latin(['"resolvers";r=4;t=55', '"api";r=0;t=1', '"resolvers";r=2999;t=299', ""]),
            latin(['"fixed window";"resolvers";q=3000;w=300', '"fixed window";"api";q=500;w=300', ""]),
            latin(["120", "0", "Wed, 21 Oct 2026 07:28:00 GMT", ""]),
            latin(["GatedRepo", "EntryNotFound", "RepoNotFound", ""]),
            st.floats(0, 400),
        ),
        max_size=5,
    )
)
def test_how_we_stand_with_a_hub(answers: list[tuple[int, str, str, str, str, float]]) -> None:
    now = 1000.0
    access = HubAccess(Auth(find=lambda: "hf_token"), lapse_seconds=60.0, now=lambda: now)
    about = RequestSubject.of_commit(COMMIT, "a")
    for status, limit, rule, after, code, passed in answers:
        now += passed
        headers = {"ratelimit": limit, "ratelimit-policy": rule, "retry-after": after, "x-error-code": code}
        for url in (f"{HUB}/acme/tiny/resolve/{COMMIT.sha}/a", f"{HUB}/api/models/acme/tiny"):
            try:
                access.exchange(about, url, lambda _, status=status, headers=headers: Answered(status, headers))
            except HffsError as error:
                assert str(error).isprintable()
                assert (getattr(error, "retry_after", None) or 0) <= MAX_WAIT
        for bucket in (RESOLVERS, "api"):
            assert 0 <= access.background_delay(bucket) < MAX_WAIT + 0.001
        for quota in access.quotas().values():
            assert quota.left >= 0
            assert 0 < quota.resets_at - now < MAX_WAIT + 0.001
        assert access.slow_reason().isprintable()


@fuzzed(
    st.integers(0, 10**9), st.none() | st.integers(1, 10**9), st.floats(0, 300), st.lists(st.floats(0, 60), max_size=9)
)
def test_paces(left: int, limit: int | None, seconds: float, waits: list[float]) -> None:
    quota, pace, now = Quota(left, limit, 1000.0 + seconds), RequestPacer(), 1000.0
    for wait in waits:
        now += wait
        assert 0 <= pace.wait(quota, now) <= max(0.0, quota.resets_at - now)
        assert pace.wait(None, now) == 0


@fuzzed(latin(['"abc"', 'W/"abc"', '"' + SHA256 + '"', ""]))
def test_etags(text: str) -> None:
    found = plain_etag(text)
    assert found is None or found


SIGNED = [
    "https://cdn.example/x?Expires=1800000000&Policy=a&Signature=b&Key-Pair-Id=c",
    "https://cdn.example/x?X-Amz-Date=20260131T235959Z&X-Amz-Expires=3600&X-Amz-Signature=b",
    "https://cdn.example/x?X-Goog-Date=20260131T235959Z&X-Goog-Expires=3600",
    "/api/resolve-cache/models/a/b/c?%2Fa%2Fb=&etag=%22d%22",
    "//cdn.example:8443/x",
    "http://127.0.0.1/x",
    "https://[2606:4700::1]:443/x",
    "https://hub.example@cdn.example/",
]


@fuzzed(latin(SIGNED))
def test_addresses_of_redirects(location: str) -> None:
    try:
        target = next_hop(f"{HUB}/a/b", location)
        with http_errors(RequestSubject.of_commit(COMMIT, "a"), target):  # as the transport asks
            sent = Session().prepare_request(Request("GET", target)).url
    except BadResponse as error:
        assert str(error).isprintable()
        return
    assert sent is not None
    asked = parse_url(sent)
    reached = asked.scheme, (asked.host or "").strip("[]"), asked.port or 443
    assert reached == origin_of(target), "whether the token may go there was decided by this"
    assert asked.auth is None
    end = expires_at(target)
    assert end is None or end > -1e12


@fuzzed(latin(SIGNED), latin(["20260131T235959Z"]))
def test_ends_of_signed_addresses(url: str, date: str) -> None:
    try:
        origin_of(url)
    except ValueError:
        return  # next_hop lets none through
    end = expires_at(url)
    assert end is None or -1e12 < end < 2e18
    start = compact_date(date)
    assert start is None or start < 1e12


@fuzzed(st.lists(st.tuples(latin([f"{HUB}/next?cursor=1", f"{HUB}/next?cursor=2"]), st.integers(0, 3)), max_size=9))
def test_links_from_page_to_page(turns: list[tuple[str, int]]) -> None:
    pages, seen = PageGuard(RequestSubject.of_commit(COMMIT)), {f"{HUB}/first"}
    at = f"{HUB}/first"
    for link, rows in turns:
        try:
            pages.add_page(at, rows, link)
        except BadResponse as error:
            assert str(error).isprintable()
            return
        assert origin_of(link) == origin_of(HUB)
        assert link not in seen
        assert rows
        seen.add(link)
        at = link


REPOS = [
    "acme/tiny", "gpt2", "datasets/acme/rows@v1/sub/folder", "hf://spaces/a/b@refs/pr/1", "a/b@refs%2Fpr%2F1/c",
    "a/b@x",
]  # fmt: skip


@fuzzed(broken_text(REPOS))
def test_names_of_repos(text: str) -> None:
    try:
        found = parse_repo(text)
    except UsageError as error:
        assert error.exit_code == 2
        return
    assert ".." not in found.id
    assert found.id.isascii()
    assert 1 <= len(found.id.split("/")) <= 2
    assert not found.subfolder or check_name(found.subfolder)
    assert found.revision is None or not set(found.revision) & set(" ?*\x00\x1b\\")


@fuzzed(broken_text(["a/b/c.txt", "é" * 127, "x" * 255, "a/" * 63 + "b", "..", "\x1b[2J", "a\\b"]))
def test_names_of_files(text: str) -> None:
    assert shown(text).isprintable()
    try:
        check_name(text)
    except HffsError as error:
        assert str(error).isprintable()
        return
    assert all(0 < len(part.encode()) <= 255 and part not in (".", "..") for part in text.split("/"))
    assert "\0" not in text
