"""Header values and URLs are parsed strictly."""

from __future__ import annotations

from email.utils import formatdate
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from requests import Request, Session
from requests.exceptions import InvalidURL
from urllib3.util import parse_url

from hffs.errors import BadResponse
from hffs.model import Commit, RepoType
from hffs.ranges import ByteRange
from hffs.sources.http.headers import compact_date, content_length, content_range, http_date, plain_etag, retry_after
from hffs.sources.http.urls import expires_at, host_of, next_hop, origin_of
from hffs.sources.hub.urls import resolve_url

NOW = 1_800_000_000.0
sizes = st.integers(1, 10**15)


@given(sizes, sizes, sizes)
def test_content_range_is_the_range_that_was_written(start: int, length: int, more: int) -> None:
    total = start + length + more
    wanted = ByteRange(start, start + length)
    assert content_range(f"bytes {start}-{start + length - 1}/{total}") == (wanted, total)


@given(st.text(max_size=40))
@example("bytes 0-9/*")
@example("bytes */10")
@example("bytes 5-4/10")
@example("bytes 0-10/10")
@example("bytes=0-9/10")
@example("bytes ٠-٩/10")
@example("bytes 0-9/10, bytes 20-29/10")
@example("bytes 0-" + "9" * 5000 + "/1")
def test_anything_else_is_no_content_range(text: str) -> None:
    assert content_range(text) is None


@given(st.text(max_size=40) | st.none())
@example("1" * 5000)
@example("-1")
@example("+1")
@example("1_0")
def test_a_length_is_digits_or_none(text: str | None) -> None:
    found = content_length(text)
    assert found is None or str(found) == (text or "").lstrip("0") or found == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api"; r=0; t=55', "retry-after": "7"}, 55.0),
        ({"ratelimit": '"api";r=3;t=55', "retry-after": "7"}, 7.0),
        ({"ratelimit": '"api";r=3;t=55'}, None),
        ({"ratelimit": '"api";xr=0;t=55'}, None),
        ({"retry-after": " 120 "}, 120.0),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_parsed_from_either_header(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.text(max_size=60), st.text(max_size=60))
@example("Mon, 99 Foo 99999 25:61:61 +9999", "")
@example("0" * 400, '"api";r=0;t=' + "9" * 400)
def test_any_header_gives_a_wait_of_some_seconds_or_none(retry: str, limit: str) -> None:
    wait = retry_after({"retry-after": retry, "ratelimit": limit}, NOW)
    assert wait is None or 0 <= wait < float("inf")


@given(st.text(max_size=60))
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("20269999T999999Z")
def test_any_text_is_a_date_or_none(text: str) -> None:
    for found in (http_date(text), compact_date(text)):
        assert found is None or isinstance(found, float)


def test_an_etag_loses_quotes_and_weakness() -> None:
    assert plain_etag('W/"abc"') == plain_etag('"abc"') == plain_etag("abc") == "abc"
    assert plain_etag('""') is None
    assert plain_etag(None) is None


@pytest.mark.parametrize(
    ("query", "end"),
    [
        ({"Expires": "1800000100"}, 1_800_000_100.0),
        ({"X-Amz-Date": "20270115T080000Z", "X-Amz-Expires": "3600"}, 1_800_000_000.0 + 3600),
        ({"x-goog-date": "20270115T080000Z", "x-goog-expires": "10"}, 1_800_000_010.0),
        ({"Expires": "1800000100", "X-Amz-Date": "20270115T080000Z", "X-Amz-Expires": "50"}, 1_800_000_050.0),
        ({"Expires": "soon"}, None),
        ({"X-Amz-Date": "20270115T080000Z"}, None),
        ({}, None),
    ],
)
def test_how_long_a_signed_url_lives(query: dict[str, str], end: float | None) -> None:
    assert expires_at("https://cdn.example/x?" + urlencode(query)) == end


@given(st.text(max_size=80))
@example("Expires=" + "9" * 400)
def test_any_query_has_an_end_or_none(query: str) -> None:
    found = expires_at("https://cdn.example/x?" + query)
    assert found is None or found >= 0


@pytest.mark.parametrize(
    "location",
    ["http://hub.example/x", "ftp://hub.example/x", "file:///etc/passwd", "https://:80/nowhere", "https://[", "", None],
)
def test_bad_redirects_are_not_followed(location: str | None) -> None:
    with pytest.raises(BadResponse) as refused:
        next_hop("https://hub.example/a?Signature=secret", location)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "location",
    [
        "https://elsewhere.example\\@hub.example/x",
        "https://elsewhere.example\\.hub.example/x",
        "https://name:word@cdn.example/x",
        "https://name@cdn.example/x",
        "https://@cdn.example/x",
        "//hub.example@elsewhere.example/x",
        "https://hub.example:443:80/x",
        "https://hub.example\x1b[31m/x",
        "https://hub.exa\u2028mple/x",
        "https://hub。example/x",
        "/line\nHost: elsewhere.example",
        "https://cdn.example/" + "x" * 20_000,
    ],
)
def test_an_address_that_two_programs_may_read_as_two_is_not_followed(location: str) -> None:
    with pytest.raises(BadResponse) as refused:
        next_hop("https://hub.example/a", location)
    assert str(refused.value).isprintable()


@given(st.text(max_size=60) | st.text("htps:/\\@.[]%#?;ab1-\t\n ", max_size=40).map("https:".__add__))
def test_a_followed_redirect_goes_to_the_host_that_was_checked(location: str) -> None:
    try:
        target = next_hop("https://hub.example/a", location)
    except BadResponse:
        return
    try:
        sent = Session().prepare_request(Request("GET", target)).url
    except InvalidURL:
        return
    assert sent is not None
    asked = parse_url(sent)  # what urllib3 connects to
    assert (asked.scheme, (asked.host or "").strip("[]"), asked.port or 443) == origin_of(target)
    assert asked.auth is None


LOCAL = [
    "localhost", "a.localhost", "LOCALHOST.", "127.0.0.1", "127.1.2.3", "127.1", "0x7f000001", "2130706433",
    "0177.0.0.1",     "0.0.0.0", "0", "169.254.169.254", "[::1]", "[::]", "[fe80::1]", "[::ffff:127.0.0.1]",
    "[::ffff:169.254.1.1]",
    "224.0.0.1", "[ff02::1]",
]  # fmt: skip


@pytest.mark.parametrize("host", LOCAL)
def test_a_redirect_from_another_host_to_this_machine_is_not_followed(host: str) -> None:
    with pytest.raises(BadResponse, match="to this machine"):
        next_hop("https://hub.example/a", f"https://{host}:8443/x")
    assert next_hop("http://127.0.0.1:80/a", f"http://{host}/x") == f"http://{host}/x", "a Hub of this machine may"


@pytest.mark.parametrize("host", ["10.1.2.3", "192.168.0.1", "cdn.example", "[2606:4700::1]", "8.8.8.8", "1e100.net"])
def test_a_redirect_to_any_other_machine_is_followed(host: str) -> None:
    assert next_hop("https://hub.example/a", f"https://{host}/x?y") == f"https://{host}/x?y"


def test_relative_redirects_keep_their_query() -> None:
    assert next_hop("https://hub.example/a/b?old", "/c?x=1&y=%22") == "https://hub.example/c?x=1&y=%22"


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin_of("https://Hub.Example/a") == origin_of("https://hub.example:443/b")
    assert origin_of("http://127.0.0.1:1/") != origin_of("http://127.0.0.1:2/")
    assert origin_of("http://hub.example/") != origin_of("https://hub.example/")
    assert host_of("https://user:word@hub.example/x?Signature=s") == "hub.example"


def test_a_path_is_quoted_whole_but_for_its_slashes() -> None:
    commit = Commit(RepoType.DATASET, "acme/tiny", "main", "0" * 40, 0.0, "http://hub.example")
    expected = f"http://hub.example/datasets/acme/tiny/resolve/{'0' * 40}/d%20%23/%3F%25%C3%A9%5C"
    assert resolve_url(commit, "d #/?%é\\") == expected
