"""What goes over the wire when nothing is wrong."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import pytest

from tests.hub import Hub, Repo
from tests.unit.hub.conftest import CONFIG, WEIGHTS, Fetch

SHA256 = hashlib.sha256(WEIGHTS.read(0, WEIGHTS.size)).hexdigest()


def test_lfs_file_redirects_to_the_other_origin(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    for method in ("HEAD", "GET"):
        got = fetch("/acme/tiny/resolve/main/model.safetensors", method)
        assert got.status == 302
        assert got.headers["location"].startswith(hub.cdn_origin + "/xet-bridge-us/")
        assert got.headers["x-repo-commit"] == repo.commit_of("main")
        assert got.headers["x-linked-etag"] == f'"{SHA256}"'
        assert got.headers["x-linked-size"] == str(WEIGHTS.size)
        assert int(got.headers["content-length"]) < 2000
        assert "x-xet-hash" not in got.headers


def test_git_file_redirects_within_the_origin(repo: Repo, fetch: Fetch) -> None:
    got = fetch("/acme/tiny/resolve/main/config.json", "HEAD", Accept_Encoding="identity")
    assert got.status == 307
    location = got.headers["location"]
    oid = repo.commits[repo.commit_of("main")].tree.files["config.json"].oid
    assert location.startswith(f"/api/resolve-cache/models/acme/tiny/{repo.commit_of('main')}/config.json?")
    assert location.endswith(f"&etag=%22{oid}%22")
    behind = fetch(location, "HEAD", Accept_Encoding="identity")
    assert behind.status == 200
    assert behind.headers["content-length"] == str(len(CONFIG))
    for headers in (got.headers, behind.headers):
        assert headers["x-repo-commit"] == repo.commit_of("main")
        assert f'"{oid}"' in (headers.get("x-linked-etag"), headers.get("etag"))


def test_text_is_compressed_when_gzip_is_offered_and_then_has_no_ranges(repo: Repo, fetch: Fetch) -> None:
    location = fetch("/acme/tiny/resolve/main/config.json").headers["location"]
    got = fetch(location, Accept_Encoding="gzip, deflate", Range="bytes=10-19")
    assert (got.status, gzip.decompress(got.body)) == (200, CONFIG)
    assert got.headers["etag"].startswith('W/"')
    assert got.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in got.headers
    assert "content-range" not in got.headers
    plain = fetch(location, Accept_Encoding="identity", Range="bytes=10-19")
    assert (plain.status, plain.body) == (206, CONFIG[10:20])
    assert fetch(location, "HEAD", Accept_Encoding="gzip").body == b""


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, WEIGHTS.size),
        ("bytes=-7", WEIGHTS.size - 7, WEIGHTS.size),
        ("bytes=-99999999", 0, WEIGHTS.size),
        ("bytes=999990-99999999", 999_990, WEIGHTS.size),
    ],
)
def test_ranges_on_the_cdn(fetch: Fetch, signed: str, asked: str, start: int, stop: int) -> None:
    got = fetch(signed, Range=asked)
    assert got.status == 206
    assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{WEIGHTS.size}"
    assert got.body == WEIGHTS.read(start, stop - start)


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=9-3", "lines=1-2", "bytes=-", "bytes=a-b"])
def test_what_is_no_single_range_is_answered_with_the_whole(fetch: Fetch, signed: str, asked: str) -> None:
    got = fetch(signed, Range=asked)
    assert (got.status, len(got.body)) == (200, WEIGHTS.size)


@pytest.mark.parametrize("asked", ["bytes=1000000-", "bytes=1000000-1000001", "bytes=-0"])
def test_range_past_the_end_is_416(fetch: Fetch, signed: str, asked: str) -> None:
    got = fetch(signed, Range=asked)
    assert (got.status, got.body) == (416, b"")
    assert got.headers["content-range"] == f"bytes */{WEIGHTS.size}"
    assert fetch(signed, Range="bytes=0-9").status == 206  # and the connection lives


def test_empty_file_has_no_range(repo: Repo, fetch: Fetch) -> None:
    location = fetch("/acme/tiny/resolve/main/empty.txt").headers["location"]
    assert fetch(location, Accept_Encoding="identity").headers["content-length"] == "0"
    assert fetch(location, Accept_Encoding="identity", Range="bytes=0-0").status == 416


def test_conditions(repo: Repo, fetch: Fetch, signed: str) -> None:
    etag = fetch(signed, "HEAD").headers["etag"]
    assert SHA256 not in etag
    assert len(etag) == 66
    assert fetch(signed, If_None_Match=etag).status == 304
    assert fetch(signed, If_None_Match='"other"').status == 200
    assert fetch(signed, Range="bytes=0-9", If_Range=etag).status == 206
    assert fetch(signed, Range="bytes=0-9", If_Range='"other"').status == 200
    assert fetch(signed, Range="bytes=0-9", If_Range=f"W/{etag}").status == 200
    oid = repo.commits[repo.commit_of("main")].tree.files["config.json"].oid
    assert fetch("/acme/tiny/resolve/main/config.json", If_None_Match=f'"{oid}"').status == 304


def test_signed_url_needs_every_part_and_ends(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    signed = fetch("/acme/tiny/resolve/main/model.safetensors").headers["location"]
    assert fetch(signed, "HEAD").status == 200
    parts = urlsplit(signed)
    expires = next(p for p in parts.query.split("&") if p.startswith("Expires="))
    later = f"Expires={int(expires.removeprefix('Expires=')) + 1000}"
    wrong = [
        signed.replace(expires, later),
        signed.replace("Signature=", "Signature=x"),
        signed.replace("Policy=", "Policy=x"),
        signed.replace(parts.path, parts.path[:-1] + "0"),
        signed.partition("?")[0],
        signed.replace("Key-Pair-Id=", "Key-Pair-Id=x"),
    ]
    for url in wrong:
        got = fetch(url)
        assert got.status == 403, url
        assert got.body.startswith(b"<?xml")
        assert "x-error-code" not in got.headers
    hub.expire_urls()
    assert fetch(signed).status == 403


def test_signed_url_ends_with_time(fetch: Fetch) -> None:
    now = [1000.0]
    with Hub(clock=lambda: now[0], url_lifetime=60) as hub:
        hub.add_repo("acme/tiny", files={"a.bin": b"1"})
        signed = fetch(f"{hub.endpoint}/acme/tiny/resolve/main/a.bin").headers["location"]
        assert "Expires=1060&" in signed
        now[0] = 1059.9
        assert fetch(signed).body == b"1"
        now[0] = 1060.0
        assert fetch(signed).status == 403


def test_tree_paths_with_slashes_either_way(hub: Hub, fetch: Fetch) -> None:
    hub.add_repo("acme/deep", type="dataset", files={"a/b c/d#.txt": b"1", "a/e": b"2"})
    for path in ("a/b%20c", "a%2Fb%20c"):
        got = fetch(f"/api/datasets/acme/deep/tree/{quote('main', safe='')}/{path}")
        assert [entry["path"] for entry in json.loads(got.body)] == ["a/b c/d#.txt"]


def test_tree_pages_by_link(hub: Hub, fetch: Fetch) -> None:
    hub.add_repo("acme/many", files={f"f{n}": b"" for n in range(10)})
    got = fetch("/api/models/acme/many/tree/main?recursive=true&limit=4")
    seen, pages = json.loads(got.body), 1
    while "link" in got.headers:
        url, _, relation = got.headers["link"].partition("; ")
        assert relation == 'rel="next"'
        assert url.startswith(f"<{hub.endpoint}/")
        got = fetch(url.strip("<>"))
        seen, pages = seen + json.loads(got.body), pages + 1
    assert ([entry["path"] for entry in seen], pages) == ([f"f{n}" for n in range(10)], 3)
    assert fetch("/api/models/acme/many/tree/main?cursor=nonsense").status == 400


def test_sizes_can_be_left_out(repo: Repo, fetch: Fetch) -> None:
    repo.omit_sizes = {"model.safetensors"}
    for url in ("/api/models/acme/tiny/tree/main", "/api/models/acme/tiny?blobs=true"):
        found = json.loads(fetch(url).body)
        lines = found if isinstance(found, list) else found["siblings"]
        sizes = {line.get("path") or line["rfilename"]: line.get("size") for line in lines}
        assert sizes["model.safetensors"] is None
        assert sizes["config.json"] == len(CONFIG)


def test_paths_info_as_form_and_as_json(repo: Repo, fetch: Fetch) -> None:
    url = "/api/models/acme/tiny/paths-info/main"
    form = fetch(url, "POST", body=b"paths=config.json&paths=none&expand=false")
    sent = json.dumps({"paths": ["config.json", "none"], "expand": True}).encode()
    as_json = fetch(url, "POST", body=sent, Content_Type="application/json")
    assert [entry["path"] for entry in json.loads(form.body)] == ["config.json"]
    assert json.loads(as_json.body)[0]["lastCommit"]["id"] == repo.commit_of("main")


def test_one_segment_ids(hub: Hub, fetch: Fetch) -> None:
    hub.add_repo("gpt2", files={"a.bin": b"1", "b.txt": b"2"})
    assert json.loads(fetch("/api/models/gpt2").body)["id"] == "gpt2"
    assert len(json.loads(fetch("/api/models/gpt2/tree/main").body)) == 2
    assert fetch(fetch("/gpt2/resolve/main/a.bin").headers["location"]).body == b"1"
    assert fetch(fetch("/gpt2/resolve/main/b.txt").headers["location"]).body == b"2"


def test_renamed_repo_redirects_relatively_and_keeps_the_query(hub: Hub, repo: Repo, fetch: Fetch) -> None:
    hub.rename("old", "acme/tiny")
    got = fetch("/api/models/old/tree/main/a%2Fb?recursive=true")
    assert (got.status, got.headers["location"]) == (307, "/api/models/acme/tiny/tree/main/a%2Fb?recursive=true")
    got = fetch("/old/resolve/main/config.json", "HEAD")
    assert (got.status, got.headers["location"]) == (307, "/acme/tiny/resolve/main/config.json")


def test_rename_moves_the_repo_itself(hub: Hub, repo: Repo, fetch: Fetch, signed: str) -> None:
    hub.rename("acme/tiny", "new/home")
    assert json.loads(fetch("/api/models/new/home").body)["id"] == "new/home"
    assert fetch("/api/models/acme/tiny").headers["location"] == "/api/models/new/home"
    assert fetch(signed, "HEAD").status == 200


def test_every_counted_answer_tells_its_limit(repo: Repo, fetch: Fetch) -> None:
    assert fetch("/api/models/acme/tiny").headers["ratelimit"].startswith('"api";r=')
    resolved = fetch("/acme/tiny/resolve/main/config.json").headers
    assert resolved["ratelimit-policy"].startswith('"fixed window";"resolvers";q=')


@pytest.fixture
def limited() -> Iterator[Hub]:
    with Hub(quotas={"api": 2, "resolvers": 1}, clock=lambda: 300_010.0) as hub:
        hub.add_repo("acme/tiny", files={"a.bin": b"1"})
        yield hub


def test_quotas_are_per_bucket_and_user(limited: Hub, fetch: Fetch) -> None:
    info, file = f"{limited.endpoint}/api/models/acme/tiny", f"{limited.endpoint}/acme/tiny/resolve/main/a.bin"
    assert [fetch(info).status for _ in range(3)] == [200, 200, 429]
    assert fetch(info, Authorization="Bearer hf_good").status == 200
    assert [fetch(file).status for _ in range(2)] == [302, 429]
    got = fetch(info)
    assert got.headers["ratelimit"] == '"api";r=0;t=290'
    assert got.headers["retry-after"] == "290"
    assert got.headers["ratelimit-policy"] == '"fixed window";"api";q=2;w=300'


def test_unknown_places_are_404(repo: Repo, fetch: Fetch) -> None:
    for url in (
        "/",
        "/api",
        "/api/nothing",
        "/acme",
        "/acme/tiny/blob/main/a",
        "/-/journal",
        "/api/models/acme/tiny/x/y",
    ):
        assert fetch(url).status == 404, url
    assert fetch("/api/models/acme/tiny", "DELETE").status == 405
