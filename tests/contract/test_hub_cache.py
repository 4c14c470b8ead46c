"""huggingface_hub's cache and ours, the real client on its side: each uses the other's files, none touches them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi, scan_cache_dir, snapshot_download

import hffs
from hffs.api import hub_cache
from hffs.api.hydrate import HydrationFailed
from hffs.cache import BlobStore, Layout
from hffs.errors import NotFound, UsageError
from hffs.model import Blob
from hffs.ranges import block_count
from tests.contract.conftest import Run
from tests.contract.sample import CONFIG, FILES, ODD_NAME
from tests.hub import Hub, Repo, Synthetic
from tests.unit.cache.test_adopt import tree

CHECKOUT = Path(__file__).parents[2]
BIG = Synthetic(20 << 20, seed=3)  # beyond what is hashed at the first open, or copied
ALL_FILES = {**FILES, "big.safetensors": BIG}


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.add_repo("acme/tiny", files=ALL_FILES)


@pytest.fixture
def hf_cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def options(hub: Hub, tmp_path: Path, hf_cache: Path) -> dict[str, str]:
    return {"endpoint": hub.endpoint, "cache_dir": str(tmp_path / "ours"), "hf_cache": str(hf_cache)}


@pytest.fixture
def download(hub: Hub, hf_cache: Path) -> Callable[..., Path]:
    """The real client fills its cache."""

    def download(**more: object) -> Path:
        found = snapshot_download(
            "acme/tiny", endpoint=hub.endpoint, cache_dir=hf_cache, token=False, max_workers=1, **more
        )
        hub.journal.clear()
        return Path(found)

    return download


def content_requests(hub: Hub) -> list[str]:
    return [r.file for r in (*hub.journal.requests("cdn"), *hub.journal.requests("resolve-cache", method="GET"))]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def expected() -> dict[str, bytes]:
    return {name: each if isinstance(each, bytes) else each.read(0, each.size) for name, each in ALL_FILES.items()}


def evict_all(cache_dir: str, endpoint: str, repo: Repo) -> None:
    """Everything of ours is dropped, as eviction and ``--force`` do it."""
    store = BlobStore(Layout(cache_dir))
    for file in repo.commits[repo.commit_of("main")].tree.files.values():
        etag = file.sha256 or file.oid
        stored = store.open(Blob(etag, file.size, endpoint))
        stored.discard(range(block_count(stored.size)))
        stored.close()
    store.close()


# Theirs used by us


def test_what_the_client_has_downloaded_is_not_fetched_again(
    hub: Hub, repo: Repo, hf_cache: Path, download: Callable[..., Path], options: dict[str, str], tmp_path: Path
) -> None:
    download()
    before = tree(hf_cache)
    done = hffs.hydrate("acme/tiny", to=tmp_path / "to", **options)
    assert (done.files, done.bytes_fetched) == (len(ALL_FILES), 0)
    assert content_requests(hub) == []
    assert contents(tmp_path / "to") == expected()
    assert tree(hf_cache) == before


def test_what_it_has_not_is_fetched(
    hub: Hub, repo: Repo, download: Callable[..., Path], options: dict[str, str]
) -> None:
    download(ignore_patterns=["*.bin", "config.json"])
    done = hffs.hydrate("acme/tiny", **options)
    assert sorted(content_requests(hub)) == ["config.json", "sub/a.bin"]
    assert done.bytes_fetched == len(CONFIG) + 3


def test_switched_off_it_is_not_used(
    hub: Hub, repo: Repo, download: Callable[..., Path], options: dict[str, str]
) -> None:
    download()
    done = hffs.hydrate("acme/tiny", **{**options, "hf_cache": "none"})
    assert done.bytes_fetched == done.bytes_total


def test_force_fetches_in_spite_of_it(
    hub: Hub, repo: Repo, hf_cache: Path, download: Callable[..., Path], options: dict[str, str]
) -> None:
    download()
    hffs.hydrate("acme/tiny", **options)
    before = tree(hf_cache)
    done = hffs.hydrate("acme/tiny", force=True, **options)
    assert done.bytes_fetched == done.bytes_total
    assert tree(hf_cache) == before


@pytest.mark.allow_warnings("one line for each blob that is wrong")
@pytest.mark.parametrize("name", ["config.json", "big.safetensors"])
def test_a_wrong_byte_is_not_used_but_fetched(
    hub: Hub, repo: Repo, download: Callable[..., Path], options: dict[str, str], tmp_path: Path, name: str
) -> None:
    folder = download()
    with (folder / name).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff" if expected()[name][-1:] != b"\xff" else b"\x00")
    done = hffs.hydrate("acme/tiny", to=tmp_path / "to", **options)
    assert done.bytes_fetched == len(expected()[name])
    assert set(content_requests(hub)) == {name}
    assert contents(tmp_path / "to") == expected()


def test_what_the_client_deletes_we_fetch(
    hub: Hub, repo: Repo, hf_cache: Path, download: Callable[..., Path], options: dict[str, str], tmp_path: Path
) -> None:
    download()
    hffs.hydrate("acme/tiny", **options)
    (revision,) = [each.commit_hash for found in scan_cache_dir(hf_cache).repos for each in found.revisions]
    scan_cache_dir(hf_cache).delete_revisions(revision).execute()
    assert not list(hf_cache.glob("models--*"))
    done = hffs.hydrate("acme/tiny", to=tmp_path / "to", **options)
    assert done.bytes_fetched == done.bytes_total
    assert contents(tmp_path / "to") == expected()


def test_what_we_drop_the_client_keeps(
    hub: Hub, repo: Repo, hf_cache: Path, download: Callable[..., Path], options: dict[str, str]
) -> None:
    folder = download()
    before = tree(hf_cache)
    hffs.hydrate("acme/tiny", **options)
    evict_all(options["cache_dir"], hub.endpoint, repo)
    assert tree(hf_cache) == before
    assert contents(folder) == expected()
    hffs.hydrate("acme/tiny", **options)
    assert content_requests(hub) == []


def test_adopting_asks_no_server_and_takes_all_of_a_repo(
    hub: Hub, repo: Repo, hf_cache: Path, download: Callable[..., Path], options: dict[str, str]
) -> None:
    download()
    before = tree(hf_cache)
    (found,) = hub_cache.adopt(["acme/tiny"], **options)
    assert hub.journal.requests() == []
    total = sum(len(each) for each in expected().values())
    assert (found.repo, found.bytes_adopted, found.wrong) == ("acme/tiny", total, ())
    assert found.in_place + found.reflinked == len(ALL_FILES) - 1  # one is empty
    (again,) = hub_cache.adopt(**options)
    assert (again.bytes_adopted, again.held) == (0, len(ALL_FILES))
    assert tree(hf_cache) == before
    assert hffs.hydrate("acme/tiny", **options).bytes_fetched == 0


@pytest.mark.allow_warnings("one line about the blob that is wrong")
def test_adopting_tells_of_what_is_wrong(repo: Repo, download: Callable[..., Path], options: dict[str, str]) -> None:
    folder = download()
    (folder / "config.json").write_bytes(CONFIG.upper())
    (found,) = hub_cache.adopt(["acme/tiny"], **options)
    assert found.wrong == (os.path.realpath(folder / "config.json"),)


def test_adopting_what_is_not_there(options: dict[str, str]) -> None:
    with pytest.raises(NotFound, match="acme/tiny is not in"):
        hub_cache.adopt(["acme/tiny"], **options)
    assert hub_cache.adopt(**options) == []
    with pytest.raises(UsageError, match="name one with --hf-cache"):
        hub_cache.adopt(**{**options, "hf_cache": "none"})


def test_the_shared_store_of_the_client_is_used_and_left_alone(
    hub: Hub, repo: Repo, hf_cache: Path, download: Callable[..., Path], options: dict[str, str]
) -> None:
    from huggingface_hub.utils import _shared_blobs

    folder = download()
    blob = Path(os.path.realpath(folder / "big.safetensors"))
    xet = "0123456789abcdef" * 4
    assert _shared_blobs.publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=xet, cache_dir=hf_cache, expected_size=BIG.size, replace_existing=False
    )
    assert blob.is_symlink()
    before = tree(hf_cache)
    assert hffs.hydrate("acme/tiny", **options).bytes_fetched == 0
    exported = hub_cache.export("acme/tiny", **options)
    evict_all(options["cache_dir"], hub.endpoint, repo)
    assert {name: what for name, what in tree(hf_cache).items() if ".locks" not in name} == {
        name: what for name, what in before.items() if ".locks" not in name
    }
    assert contents(Path(exported.path)) == expected()


# Ours shown to them


def test_an_export_is_what_the_client_itself_would_have_written(
    hub: Hub, repo: Repo, hf_cache: Path, options: dict[str, str], tmp_path: Path, hf: Run
) -> None:
    done = hub_cache.export("acme/tiny", **options)
    commit = repo.commit_of("main")
    assert done.path == str(hf_cache / "models--acme--tiny" / "snapshots" / commit)
    assert contents(Path(done.path)) == expected()
    by_client = tmp_path / "by client"
    snapshot_download("acme/tiny", endpoint=hub.endpoint, cache_dir=by_client, token=False, max_workers=1)
    assert layout(hf_cache) == {name: what for name, what in layout(by_client).items() if "/trees" not in name}
    assert (hf_cache / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    found = scan_cache_dir(hf_cache)
    assert (found.warnings, [each.repo_id for each in found.repos]) == ([], ["acme/tiny"])
    assert {ref for each in found.repos for ref in each.refs} == {"main"}
    verified = hf("cache", "verify", "acme/tiny", "--cache-dir", str(hf_cache))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    hub.journal.clear()
    again = snapshot_download("acme/tiny", cache_dir=hf_cache, local_files_only=True)
    assert (again, hub.journal.requests()) == (done.path, [])
    snapshot_download("acme/tiny", endpoint=hub.endpoint, cache_dir=hf_cache, token=False, max_workers=1)
    assert content_requests(hub) == []


def layout(root: Path) -> dict[str, str]:
    """What lies where: links with their targets, the refs' words."""
    return {
        path.relative_to(root).as_posix(): os.readlink(path) if path.is_symlink() else ref_of(path)
        for path in root.rglob("*")
        if path.name != "CACHEDIR.TAG"
    }


def ref_of(path: Path) -> str:
    return path.read_text() if path.parent.name == "refs" else "folder" if path.is_dir() else "file"


def test_there_is_nowhere_to_show_it_when_that_cache_is_switched_off(repo: Repo, options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="name one with --hf-cache"):
        hffs.hydrate("acme/tiny", to_hf_cache=True, **{**options, "hf_cache": "none"})


def test_a_part_is_shown_where_it_belongs(hub: Hub, repo: Repo, options: dict[str, str]) -> None:
    done = hub_cache.export("acme/tiny/sub", **options)
    assert contents(Path(done.path)) == {"sub/a.bin": b"123"}
    hub_cache.export("acme/tiny", include=["config.json"], **options)
    assert contents(Path(done.path)) == {"sub/a.bin": b"123", "config.json": CONFIG}
    assert sorted(set(content_requests(hub))) == ["config.json", "sub/a.bin"]


def test_exported_twice_nothing_changes_the_second_time(
    hub: Hub, repo: Repo, hf_cache: Path, options: dict[str, str]
) -> None:
    hub_cache.export("acme/tiny", **options)
    before = tree(hf_cache)
    hub.journal.clear()
    done = hub_cache.export("acme/tiny", **options)
    assert (done.bytes_fetched, content_requests(hub)) == (0, [])
    assert tree(hf_cache) == before


def test_an_export_into_the_cache_it_came_from_changes_nothing(
    repo: Repo, hf_cache: Path, download: Callable[..., Path], options: dict[str, str]
) -> None:
    download()
    before = tree(hf_cache)
    hub_cache.export("acme/tiny", **options)
    assert tree(hf_cache) == before


def test_a_wrong_blob_there_is_replaced_and_never_written_to(
    repo: Repo, hf_cache: Path, download: Callable[..., Path], options: dict[str, str], tmp_path: Path
) -> None:
    folder = download()
    wrong = CONFIG.upper()
    (folder / "config.json").write_bytes(wrong)
    kept = tmp_path / "kept"
    os.link(os.path.realpath(folder / "config.json"), kept)
    hffs.hydrate("acme/tiny", **{**options, "hf_cache": "none"})
    hub_cache.export("acme/tiny", **options)
    assert contents(folder) == expected()
    assert kept.read_bytes() == wrong


def test_each_side_may_drop_what_was_exported(hub: Hub, repo: Repo, hf_cache: Path, options: dict[str, str]) -> None:
    done = hub_cache.export("acme/tiny", **options)
    before = tree(hf_cache)
    evict_all(options["cache_dir"], hub.endpoint, repo)
    after = tree(hf_cache)
    assert {name: what[0] for name, what in after.items()} == {name: what[0] for name, what in before.items()}
    assert contents(Path(done.path)) == expected()


def test_what_was_exported_and_deleted_there_is_ours_still(
    hub: Hub, repo: Repo, hf_cache: Path, options: dict[str, str], tmp_path: Path
) -> None:
    hub_cache.export("acme/tiny", **options)
    (revision,) = [each.commit_hash for found in scan_cache_dir(hf_cache).repos for each in found.revisions]
    scan_cache_dir(hf_cache).delete_revisions(revision).execute()
    done = hffs.hydrate("acme/tiny", to=tmp_path / "plain", **options)
    assert done.bytes_fetched == 0
    assert contents(tmp_path / "plain") == expected()


def test_without_fetching_it_says_what_is_missing(
    hub: Hub, repo: Repo, hf_cache: Path, options: dict[str, str]
) -> None:
    hffs.hydrate("acme/tiny", include=["*.json", "sub/*"], **options)
    hub.journal.clear()
    with pytest.raises(HydrationFailed, match=r"not all of acme/tiny is on this machine: big.safetensors, .* missing"):
        hub_cache.export("acme/tiny", fetch=False, **options)
    assert content_requests(hub) == []
    assert not (hf_cache / "models--acme--tiny" / "refs").exists()
    hffs.hydrate("acme/tiny", **options)
    hub_cache.export("acme/tiny", fetch=False, **options)
    assert (hf_cache / "models--acme--tiny" / "refs" / "main").read_text() == repo.commit_of("main")


def test_other_revisions_and_kinds_of_repos(hub: Hub, hf_cache: Path, options: dict[str, str]) -> None:
    data = hub.add_repo("acme/rows", type="dataset", files={ODD_NAME: b"odd", "train/a.parquet": b"rows"})
    data.tag("v1.0", data.commit_of("main"))
    done = hub_cache.export("datasets/acme/rows", revision="v1.0", **options)
    assert contents(Path(done.path)) == {ODD_NAME: b"odd", "train/a.parquet": b"rows"}
    hub_cache.export("datasets/acme/rows", revision=data.commit_of("main"), **options)
    assert [p.name for p in (hf_cache / "datasets--acme--rows" / "refs").iterdir()] == ["v1.0"]
    found = scan_cache_dir(hf_cache)
    assert [(each.repo_type, each.repo_id) for each in found.repos] == [("dataset", "acme/rows")]
    assert found.warnings == []


KILLED = """
import os, signal, sys
from hffs.api import hub_cache
at = sys.argv[1]
before = getattr(os, at)
left = [int(sys.argv[2])]
def killing(*args, **more):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return before(*args, **more)
setattr(os, at, killing)
hub_cache.export("acme/tiny", endpoint=sys.argv[3], cache_dir=sys.argv[4], hf_cache=sys.argv[5])
"""


@pytest.mark.parametrize(("at", "count"), [("symlink", 1), ("symlink", 4), ("write", 2), ("link", 1), ("replace", 1)])
def test_killed_in_between_nothing_half_written_is_seen(
    hub: Hub, repo: Repo, hf_cache: Path, options: dict[str, str], at: str, count: int
) -> None:
    hffs.hydrate("acme/tiny", **options)  # so that only what is written there is interrupted
    words = [at, str(count), hub.endpoint, options["cache_dir"], str(hf_cache)]
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env=environ, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    wanted = expected()
    for snapshot in (hf_cache / "models--acme--tiny").glob("snapshots/*"):
        for name, content in contents(snapshot).items():
            assert content == wanted[name]
    refs = hf_cache / "models--acme--tiny" / "refs"
    assert not refs.exists() or list(refs.iterdir()) == []
    exported = hub_cache.export("acme/tiny", **options)
    assert contents(Path(exported.path)) == wanted
    assert scan_cache_dir(hf_cache).warnings == []


@pytest.mark.allow_warnings("a file could not be shown there")
def test_a_download_under_way_is_waited_for(
    hub: Hub, repo: Repo, hf_cache: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    from hffs.cache.hf_cache import hub_cache as module

    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    etag = repo.commits[repo.commit_of("main")].tree.files["config.json"].oid
    lock = hf_cache / ".locks" / "models--acme--tiny" / f"{etag}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(HydrationFailed, match="another process has been writing"):
        hub_cache.export("acme/tiny", **options)
    hub_cache.export("acme/tiny", **options)


def test_the_api_is_the_clients_own_view(repo: Repo, api: HfApi, options: dict[str, str], hf_cache: Path) -> None:
    """What is exported passes the client's own check of every hash."""
    hub_cache.export("acme/tiny", **options)
    checked = api.verify_repo_checksums("acme/tiny", cache_dir=str(hf_cache))
    assert (checked.mismatches, checked.missing_paths, checked.extra_paths) == ([], [], [])
    assert checked.checked_count == len(ALL_FILES)
    assert json.loads(json.dumps(checked.revision)) == repo.commit_of("main")


# What is here.


def test_what_the_client_has_is_available_without_a_question(hub, repo, options, download, hf_cache) -> None:
    def available(**more: object) -> bool:
        return hffs.is_available_locally("acme/tiny", **options, **more)

    assert not available(), "there is no cache at all"
    download(allow_patterns=["*.json"])
    assert available(include="*.json")
    assert not available()
    folder = download()
    assert available()
    assert available(revision=repo.commit_of("main"))
    assert hffs.is_available_locally("acme/tiny/config.json", **options)
    assert not available(revision="v9")
    assert not available(include="*.none")
    assert not hffs.is_available_locally("acme/other", **options)
    assert not hffs.is_available_locally("acme/tiny", **{**options, "hf_cache": "none"})
    (folder / "big.safetensors").resolve().unlink()
    assert not available()
    assert available(exclude="big.safetensors")
    assert hub.journal.requests() == []


def test_a_repo_may_lie_half_here_and_half_there(hub, repo, options, download) -> None:
    hffs.hydrate("acme/tiny", include="*.safetensors", **{**options, "hf_cache": "none"})
    assert not hffs.is_available_locally("acme/tiny", **options)
    download(ignore_patterns=["*.safetensors"])
    assert hffs.is_available_locally("acme/tiny", **options)
