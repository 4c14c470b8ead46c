"""Which exception the real client raises for each of our refusals: the table in the Hub's protocol."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, errors, hf_hub_download
from huggingface_hub.utils import _http

from tests.hub import Hub, Match, Repo, faults


def raised(error: pytest.ExceptionInfo[BaseException]) -> tuple[type[BaseException], int]:
    response = error.value.response  # type: ignore[attr-defined]
    assert isinstance(response, httpx2.Response)
    return error.type, response.status_code


def test_a_missing_repo_is_401_without_a_token_and_404_with_one(hub: Hub, api: HfApi, alice: HfApi) -> None:
    with pytest.raises(errors.RepositoryNotFoundError) as error:
        api.model_info("acme/none")
    assert raised(error) == (errors.RepositoryNotFoundError, 401)
    with pytest.raises(errors.RepositoryNotFoundError) as error:
        alice.model_info("acme/none")
    assert raised(error) == (errors.RepositoryNotFoundError, 404)


def test_bare_401_is_what_the_real_hub_sends() -> None:
    with Hub(bare_401=True) as hub:
        with pytest.raises(errors.HfHubHTTPError) as error:
            HfApi(endpoint=hub.endpoint, token=False).model_info("acme/none")
        assert raised(error) == (errors.HfHubHTTPError, 401)  # over http the client does not guess
        assert "Invalid username or password." in str(error.value)
        assert "X-Error-Code" not in error.value.response.headers


def test_a_private_repo_looks_missing_without_access(hub: Hub, api: HfApi, alice: HfApi, repo: Repo) -> None:
    repo.private = True
    with pytest.raises(errors.RepositoryNotFoundError) as error:
        api.model_info("acme/tiny")
    assert raised(error)[1] == 401
    assert alice.model_info("acme/tiny").private
    repo.readers = {"bob"}
    with pytest.raises(errors.RepositoryNotFoundError) as error:
        alice.model_info("acme/tiny")
    assert raised(error)[1] == 404


def test_bad_token_is_refused_even_where_none_is_needed(hub: Hub, repo: Repo) -> None:
    bad = HfApi(endpoint=hub.endpoint, token="hf_bad")
    for call in (lambda: bad.model_info("acme/tiny"), bad.whoami):
        with pytest.raises(errors.HfHubHTTPError) as error:
            call()
        assert raised(error) == (errors.HfHubHTTPError, 401)


def test_rotated_token_is_refused_from_then_on(hub: Hub, alice: HfApi, repo: Repo) -> None:
    assert alice.model_info("acme/tiny").id == "acme/tiny"
    del hub.tokens["hf_good"]
    with pytest.raises(errors.HfHubHTTPError):
        alice.model_info("acme/tiny")


def test_gated_repo_shows_its_listing_and_keeps_its_files(hub: Hub, api: HfApi, alice: HfApi, repo: Repo) -> None:
    repo.gated = "manual"
    url = f"{hub.endpoint}/acme/tiny/resolve/main/config.json"
    assert api.model_info("acme/tiny").gated == "manual"
    assert len(list(api.list_repo_tree("acme/tiny"))) == 5
    for client, status in ((api, 401), (alice, 403)):
        with pytest.raises(errors.GatedRepoError) as error:
            client.get_hf_file_metadata(url=url, token=client.token)
        assert raised(error)[1] == status
        with pytest.raises(errors.GatedRepoError):
            client.auth_check("acme/tiny")
    repo.grant("alice")
    alice.auth_check("acme/tiny")
    assert alice.get_hf_file_metadata(url=url, token="hf_good").commit_hash == repo.commit_of("main")


def test_missing_revision(hub: Hub, api: HfApi, repo: Repo) -> None:
    with pytest.raises(errors.RevisionNotFoundError) as error:
        api.model_info("acme/tiny", revision="none")
    assert raised(error) == (errors.RevisionNotFoundError, 404)
    with pytest.raises(errors.RevisionNotFoundError):
        hf_hub_download("acme/tiny", "config.json", revision="none", endpoint=hub.endpoint, token=False)


def test_missing_file_is_remembered_as_missing(hub: Hub, api: HfApi, repo: Repo, tmp_path: Path) -> None:
    with pytest.raises(errors.RemoteEntryNotFoundError) as error:
        hf_hub_download("acme/tiny", "none.json", endpoint=hub.endpoint, token=False, cache_dir=tmp_path)
    assert raised(error) == (errors.RemoteEntryNotFoundError, 404)
    marker = tmp_path / "models--acme--tiny" / ".no_exist" / repo.commit_of("main") / "none.json"
    assert marker.exists()  # it takes X-Repo-Commit on the 404 for that


@pytest.mark.parametrize("path", ["no such", "config.json"])
def test_tree_of_no_folder(api: HfApi, repo: Repo, path: str) -> None:
    with pytest.raises(errors.RemoteEntryNotFoundError):
        list(api.list_repo_tree("acme/tiny", path))


def test_disabled_repo(hub: Hub, api: HfApi, repo: Repo) -> None:
    hub.disable("acme/tiny")
    with pytest.raises(errors.DisabledRepoError) as error:
        api.model_info("acme/tiny")
    assert raised(error) == (errors.DisabledRepoError, 403)


def test_former_and_wrong_case_ids_lead_to_the_repo(hub: Hub, api: HfApi, repo: Repo, tmp_path: Path) -> None:
    hub.rename("tiny", "acme/tiny")
    hub.rename("old/name", "acme/tiny")
    for name in ("tiny", "old/name", "Acme/Tiny"):
        assert api.model_info(name, files_metadata=True).id == "acme/tiny"
        got = hf_hub_download(name, "sub/a.bin", endpoint=hub.endpoint, token=False, cache_dir=tmp_path / name)
        with open(got, "rb") as file:
            assert file.read() == b"123"
    assert {record.status for record in hub.journal.requests("info", repo="old/name")} == {307}


@pytest.mark.allow_warnings("Rate limited")
def test_used_up_quota_is_429_until_the_window_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000 * 300.0 + 20]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(_http.time, "sleep", sleep)
    with Hub(quotas={"api": 3}, clock=lambda: now[0]) as hub:
        hub.add_repo("acme/tiny", files={"f": b""})
        api = HfApi(endpoint=hub.endpoint, token=False)
        for _ in range(4):
            list(api.list_repo_tree("acme/tiny"))
        assert [record.status for record in hub.journal.requests()] == [200, 200, 200, 429, 200]
        assert waits == [281.0]  # the client's t + 1


@pytest.mark.allow_warnings("HTTP Error 503", "Rate limited")
def test_announced_wait_of_a_503_is_kept(hub: Hub, api: HfApi, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(_http.time, "sleep", waits.append)
    hub.faults.add(Match(kind="tree", count=1), faults.unavailable(retry_after=7))
    assert len(list(api.list_repo_tree("acme/tiny"))) == 5
    assert waits == [8.0]


def test_head_without_commit_is_no_hub_to_the_client(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    hub.faults.add(Match(method="HEAD"), faults.without("X-Repo-Commit"))
    with pytest.raises(errors.LocalEntryNotFoundError) as error:
        hf_hub_download("acme/tiny", "config.json", endpoint=hub.endpoint, token=False, cache_dir=tmp_path)
    assert isinstance(error.value.__cause__, errors.FileMetadataError)
