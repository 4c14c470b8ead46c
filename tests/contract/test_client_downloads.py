"""Files as the real client fetches them: redirects, etags, tokens, resumption, whole snapshots."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants, file_download, get_hf_file_metadata, hf_hub_download, snapshot_download

from tests.contract.sample import CONFIG, ODD_NAME, WEIGHTS
from tests.hub import Hub, Match, Repo, faults

Download = Callable[..., Path]


@pytest.fixture
def download(hub: Hub, tmp_path: Path) -> Download:
    def download(name: str, token: str | bool = False, **options: object) -> Path:
        where = {"endpoint": hub.endpoint, "cache_dir": tmp_path, "token": token, **options}
        return Path(hf_hub_download("acme/tiny", name, **where))

    return download


def test_git_file_metadata_comes_from_behind_a_relative_redirect(hub: Hub, repo: Repo) -> None:
    found = get_hf_file_metadata(f"{hub.endpoint}/acme/tiny/resolve/main/config.json", token=False)
    assert found.commit_hash == repo.commit_of("main")
    assert found.etag == hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest()
    assert found.size == len(CONFIG)
    assert [(r.kind, r.status) for r in hub.journal.requests()] == [("resolve", 307), ("resolve-cache", 200)]


def test_lfs_file_metadata_comes_from_the_redirect_to_the_cdn(hub: Hub, repo: Repo) -> None:
    found = get_hf_file_metadata(f"{hub.endpoint}/acme/tiny/resolve/main/model.safetensors", token=False)
    assert found.etag == hashlib.sha256(WEIGHTS.read(0, WEIGHTS.size)).hexdigest()
    assert found.size == WEIGHTS.size
    assert found.xet_file_data is None
    assert found.location.startswith(hub.cdn_origin)
    assert [(r.kind, r.status) for r in hub.journal.requests()] == [("resolve", 302)]


def test_git_file_comes_compressed_and_ends_up_plain(hub: Hub, repo: Repo, download: Download) -> None:
    path = download("config.json")
    assert path.read_bytes() == CONFIG
    assert path.resolve().name == repo.commits[repo.commit_of("main")].tree.files["config.json"].oid
    (sent,) = hub.journal.requests("resolve-cache", method="GET")
    assert sent.headers["accept-encoding"].startswith("gzip")
    assert 0 < sent.bytes_sent < len(CONFIG) / 2


def test_lfs_file_comes_from_the_cdn_without_the_token(hub: Hub, repo: Repo, download: Download) -> None:
    path = download("model.safetensors", token="hf_good")
    assert path.read_bytes() == WEIGHTS.read(0, WEIGHTS.size)
    assert path.resolve().name == hashlib.sha256(path.read_bytes()).hexdigest()
    (head,), (get,) = hub.journal.requests("resolve"), hub.journal.requests("cdn")
    assert (head.token, head.method) == ("hf_good", "HEAD")
    assert (get.token, get.method, get.bytes_sent) == (None, "GET", WEIGHTS.size)


def test_token_goes_with_a_relative_redirect(hub: Hub, repo: Repo, download: Download) -> None:
    repo.private = True
    assert download("config.json", token="hf_good").read_bytes() == CONFIG
    assert {r.token for r in hub.journal.requests("resolve-cache")} == {"hf_good"}


@pytest.mark.parametrize(("name", "content"), [("empty.txt", b""), (ODD_NAME, b"odd"), ("sub/a.bin", b"123")])
def test_odd_files_arrive(repo: Repo, download: Download, name: str, content: bytes) -> None:
    assert download(name).read_bytes() == content


def test_empty_lfs_file_arrives(hub: Hub, download: Download) -> None:
    hub.add_repo("acme/tiny", files={"empty.bin": b""})
    assert download("empty.bin").read_bytes() == b""


def test_second_download_asks_but_fetches_nothing(hub: Hub, repo: Repo, download: Download) -> None:
    download("model.safetensors")
    hub.journal.clear()
    download("model.safetensors")
    assert [r.method for r in hub.journal.requests()] == ["HEAD"]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client counts what it has got in smaller steps than 10 MB, and does not pause before it resumes."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)


@pytest.mark.allow_warnings("the client tells of the broken connection")
def test_broken_download_is_resumed_where_it_broke(hub: Hub, repo: Repo, download: Download, hasty: None) -> None:
    hub.faults.add(Match(kind="cdn", count=1), faults.short_body(1_000_000))
    assert download("model.safetensors").read_bytes() == WEIGHTS.read(0, WEIGHTS.size)
    first, second = hub.journal.requests("cdn")
    assert (first.status, first.range, first.bytes_sent) == (200, None, 1_000_000)
    start = int((second.range or "").removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 1_000_000
    assert (second.status, second.bytes_sent) == (206, WEIGHTS.size - start)


def test_reset_in_mid_body_is_final_for_this_client(hub: Hub, repo: Repo, download: Download, hasty: None) -> None:
    hub.faults.add(Match(kind="cdn", count=1), faults.reset(after=1_000_000))
    with pytest.raises(httpx2.ReadError):
        download("model.safetensors")


@pytest.mark.allow_warnings("the client tells of the broken connection")
def test_resumption_answered_with_the_whole_starts_over(hub: Hub, repo: Repo, download: Download, hasty: None) -> None:
    hub.faults.add(Match(kind="cdn", count=1), faults.short_body(1_000_000))
    hub.faults.add(Match(kind="cdn", nth=2), faults.ignore_range())
    assert download("model.safetensors").read_bytes() == WEIGHTS.read(0, WEIGHTS.size)
    assert [(r.status, r.range is None) for r in hub.journal.requests("cdn")] == [(200, True), (200, False)]


def test_long_body_is_noticed(hub: Hub, repo: Repo, download: Download) -> None:
    hub.faults.add(Match(kind="cdn"), faults.long_body(b"more"))
    with pytest.raises(OSError, match="Consistency check failed"):
        download("model.safetensors")


def test_snapshot_is_two_questions_and_two_per_file(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    where = {"endpoint": hub.endpoint, "cache_dir": tmp_path, "token": False}
    folder = Path(snapshot_download("acme/tiny", max_workers=1, **where))
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert set(files) == set(repo.commits[repo.commit_of("main")].tree.files)
    assert files["model.safetensors"] == WEIGHTS.read(0, WEIGHTS.size)
    kinds = [(r.kind, r.method) for r in hub.journal.requests()]
    assert kinds.count(("info", "GET")) == kinds.count(("tree", "GET")) == 1
    assert kinds.count(("resolve", "HEAD")) == 5
    assert kinds.count(("cdn", "GET")) == 2
    assert kinds.count(("resolve-cache", "HEAD")) == 3
    assert kinds.count(("resolve-cache", "GET")) == 2  # an empty file is there once its size is known
    assert {r.revision for r in hub.journal.requests("resolve")} == {repo.commit_of("main")}
    assert not any(r.authorized for r in hub.journal.requests())


def test_snapshot_fetches_only_what_the_patterns_allow(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    where = {"endpoint": hub.endpoint, "cache_dir": tmp_path, "token": False}
    snapshot_download("acme/tiny", allow_patterns=["*.json", "sub/*"], **where)
    assert {r.file for r in hub.journal.requests("resolve")} == {"config.json", "sub/a.bin"}


def test_snapshot_stays_at_its_commit_when_main_moves(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    before = repo.commit_of("main")
    move = faults.first(lambda: repo.commit({"config.json": b"new"}))
    hub.faults.add(Match(kind="resolve", count=1), move)
    folder = snapshot_download("acme/tiny", endpoint=hub.endpoint, cache_dir=tmp_path, token=False, max_workers=1)
    assert repo.commit_of("main") != before
    assert Path(folder).name == before
    assert Path(folder, "config.json").read_bytes() == CONFIG
