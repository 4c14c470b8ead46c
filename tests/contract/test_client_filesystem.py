"""HfFileSystem, the client's own reading by ranges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from huggingface_hub import HfFileSystem

from tests.contract.sample import CONFIG, ODD_NAME, WEIGHTS
from tests.hub import Hub, Match, Repo, faults


@pytest.fixture
def fs(hub: Hub) -> Iterator[HfFileSystem]:
    yield HfFileSystem(endpoint=hub.endpoint, token=False, skip_instance_cache=True)
    HfFileSystem.clear_instance_cache()


def test_ls_and_info(repo: Repo, fs: HfFileSystem) -> None:
    assert sorted(fs.ls("acme/tiny", detail=False)) == [
        f"acme/tiny/{name}" for name in ("config.json", "empty.txt", "model.safetensors", "sub", "sub dir")
    ]
    assert fs.info("acme/tiny/model.safetensors")["size"] == WEIGHTS.size
    assert fs.isdir("acme/tiny/sub")
    assert sorted(fs.glob("acme/tiny/**/*.bin")) == ["acme/tiny/sub/a.bin"]


def test_cat_whole_files(repo: Repo, fs: HfFileSystem) -> None:
    assert fs.cat_file("acme/tiny/config.json") == CONFIG
    assert fs.cat_file(f"acme/tiny/{ODD_NAME}") == b"odd"


def test_random_reads_fetch_ranges(hub: Hub, repo: Repo, fs: HfFileSystem) -> None:
    with fs.open("acme/tiny/model.safetensors", "rb", block_size=65536) as file:
        for offset in (2_500_000, 0, 1_048_570, 2_999_990):
            file.seek(offset)
            assert file.read(100) == WEIGHTS.read(offset, 100)
    sent = hub.journal.requests("cdn")
    assert {record.status for record in sent} == {206}
    assert sum(record.bytes_sent for record in sent) < WEIGHTS.size / 4
    assert len(hub.journal.requests("resolve")) == len(sent)  # the client asks for a new URL each time


def test_read_after_expiry_gets_a_new_url(hub: Hub, repo: Repo, fs: HfFileSystem) -> None:
    with fs.open("acme/tiny/model.safetensors", "rb", block_size=65536) as file:
        assert file.read(10) == WEIGHTS.read(0, 10)
        hub.expire_urls()
        file.seek(2_000_000)
        assert file.read(10) == WEIGHTS.read(2_000_000, 10)


def test_pinned_revision_reads_the_past(repo: Repo, fs: HfFileSystem) -> None:
    first = repo.commit_of("main")
    repo.commit({"config.json": b"new"})
    assert fs.cat_file(f"acme/tiny@{first}/config.json") == CONFIG
    assert fs.cat_file("acme/tiny/config.json") == b"new"


def test_a_wrong_bit_reaches_a_reader_that_does_not_check(hub: Hub, repo: Repo, fs: HfFileSystem) -> None:
    hub.faults.add(Match(kind="cdn"), faults.flip_bit(2_000_005))
    got = fs.cat_file("acme/tiny/model.safetensors", start=2_000_000, end=2_000_010)
    good = WEIGHTS.read(2_000_000, 10)
    assert [n for n in range(10) if got[n] != good[n]] == [5]
