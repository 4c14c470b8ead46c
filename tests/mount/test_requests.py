"""What a mount asks of the Hub, and what it never asks: counted by the Hub's journal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hub import Hub, Repo, Synthetic

from .conftest import Mount
from .mounted import Mounted, eventually, forget_pages, program, read
from .sample import BIG, FILES, content

CONTENT = ("resolve", "resolve-cache", "cdn")
WEIGHTS = "weights.safetensors"


def asked(hub: Hub, *kinds: str) -> list[str]:
    """The requests of these kinds, as text that says what went wrong."""
    return [f"{record.kind} {record.file} {record.range}" for kind in kinds for record in hub.journal.requests(kind)]


def walk(folder: Path) -> list[str]:
    """Every file below with its size, so that each is looked at."""
    return sorted(program("find", ".", "-type", "f", "-printf", "%s %p\n", cwd=folder).stdout.splitlines())


def test_a_mount_that_is_only_looked_at_fetches_no_file_data(hub: Hub, mounted: Mounted) -> None:
    program("ls", "-lR", mounted.path)
    program("find", mounted.path, "-ls")
    mounted.status()
    assert asked(hub, *CONTENT) == []


def test_small_files_of_a_model_are_fetched_before_anybody_asks_and_nothing_else(
    hub: Hub, mount: Mount, source: Path
) -> None:
    hub.add_repo("acme/tiny", files=source)
    mounted = mount("acme/tiny")
    small = {path for path in FILES if 0 < len(content(path)) < 1 << 20}
    local = sum(len(content(path)) for path in small)
    assert eventually(lambda: int(mounted.status()["bytes_local"]) == local, 20), mounted.status()
    assert {str(record.file) for record in hub.journal.requests("cdn")} < small
    assert hub.journal.bytes_sent("cdn") <= local
    before = len(hub.journal.requests())
    for path in small:
        assert (mounted / path).read_bytes() == content(path)
    assert len(hub.journal.requests()) == before


def test_of_a_dataset_only_the_readme_is_fetched_before_anybody_asks(hub: Hub, mount: Mount) -> None:
    files: dict[str, bytes | Path | Synthetic] = {
        "README.md": b"# Rows\n",
        "data/small.parquet": b"PAR1",
        "data/train.parquet": BIG,
    }
    hub.add_repo("acme/rows", type="dataset", files=files)
    mounted = mount("datasets/acme/rows")
    assert eventually(lambda: int(mounted.status()["bytes_local"]) == 7, 20), mounted.status()
    assert hub.journal.requests("cdn") == []


# Listings.


@pytest.fixture
def wide(hub: Hub) -> Repo:
    """2,500 files: 2,200 in one folder, 300 in three; a listing of all takes three pages."""
    hub.page_size = 1000
    files = {f"flat/{number:04}.txt": b"x" for number in range(2200)}
    files |= {f"deep/{folder}/{number:04}.txt": b"x" for folder in range(3) for number in range(100)}
    return hub.add_repo("acme/wide", files=files)


def test_a_listing_costs_pages_not_files(hub: Hub, mount: Mount, wide: Repo) -> None:
    mounted = mount("acme/wide", "--prefetch", "none")
    assert len(walk(mounted.path)) == 2500
    program("ls", "-lR", mounted.path)
    # One recursive page says that there is more; then root, deep and its three folders take a page each, flat three.
    assert len(asked(hub, "tree")) <= 1 + 5 + 3
    assert len(asked(hub, "api")) <= 1 + 5 + 3 + 2, asked(hub, "api")  # and what resolves the revision
    assert asked(hub, "paths-info", *CONTENT) == []


def test_a_flat_repo_of_three_pages_costs_three_requests(hub: Hub, mount: Mount) -> None:
    hub.page_size = 1000
    hub.add_repo("acme/flat", files={f"{number:04}.txt": b"x" for number in range(2500)})
    mounted = mount("acme/flat", "--prefetch", "none")
    assert len(walk(mounted.path)) == 2500
    assert len(asked(hub, "tree")) == 3
    assert mounted.status()["files"] == 2500


def test_what_has_been_listed_needs_no_network_again(hub: Hub, mount: Mount, wide: Repo) -> None:
    mounted = mount("acme/wide", "--prefetch", "none")
    names = walk(mounted.path)
    hub.journal.clear()
    hub.down()  # requests from now on fail
    assert walk(mounted.path) == names
    assert len(os.listdir(mounted / "flat")) == 2200
    for missing in ("model.safetensors", "flat/nope", "deep/1/nope", "nope/nope/nope"):
        assert not (mounted / missing).exists()
    assert os.stat(mounted / "deep/2/0099.txt").st_size == 1
    assert hub.journal.requests() == []


def test_a_second_mount_of_a_known_commit_lists_no_folder_again(
    hub: Hub, mount: Mount, mounted: Mounted, wide: Repo
) -> None:
    first = mount("acme/wide", "--prefetch", "none")
    names = walk(mounted.path), walk(first.path)
    mounted.unmount()
    first.unmount()
    hub.journal.clear()
    again = mount("acme/tiny", "--prefetch", "none"), mount("acme/wide", "--prefetch", "none")
    assert (walk(again[0].path), walk(again[1].path)) == names
    assert hub.journal.requests("tree", repo="acme/tiny") == []
    assert hub.journal.requests("tree", repo="acme/wide") == []
    assert asked(hub, "paths-info") == []


# Addresses.


def test_the_address_of_a_file_is_asked_for_once_however_often_it_is_read(
    hub: Hub, mounted: Mounted, source: Path
) -> None:
    for seed in range(3):
        read("preads", mounted / WEIGHTS, source / WEIGHTS, seed, 20)
        read("faults", mounted / WEIGHTS, source / WEIGHTS, seed + 10, 20)
    assert (mounted / WEIGHTS).read_bytes() == content(WEIGHTS)
    assert len(hub.journal.requests("cdn")) > 1
    assert len(hub.journal.requests("resolve", file=WEIGHTS)) == 1
    assert hub.journal.bytes_sent("cdn", file=WEIGHTS) <= BIG.size, "bytes were fetched twice"


def test_an_address_past_its_time_is_replaced_by_one_new_one(hub: Hub, mount: Mount) -> None:
    size = 64 << 20
    made = Synthetic(size, seed=9)
    hub.add_repo("acme/big", files={WEIGHTS: made})
    mounted = mount("acme/big", "--prefetch", "none")
    with (mounted / WEIGHTS).open("rb") as file:
        assert file.read(10) == made.read(0, 10)
        hub.expire_urls()
        assert os.pread(file.fileno(), 10, size - 10) == made.read(size - 10, 10)
        assert os.pread(file.fileno(), 10, size // 2) == made.read(size // 2, 10)
    assert len(hub.journal.requests("resolve", file=WEIGHTS)) == 2


def test_content_that_two_revisions_share_is_fetched_once(hub: Hub, mount: Mount) -> None:
    repo = hub.add_repo("acme/tiny", files={WEIGHTS: BIG, "config.json": b"{}"})
    first = repo.commit_of("main")
    repo.commit({"config.json": b"[]"})
    old, new = mount("acme/tiny", "--prefetch", "none", revision=first), mount("acme/tiny", "--prefetch", "none")
    assert (old / WEIGHTS).read_bytes() == content(WEIGHTS)
    sent = hub.journal.bytes_sent("cdn")
    forget_pages(new / WEIGHTS)
    assert (new / WEIGHTS).read_bytes() == content(WEIGHTS)
    assert hub.journal.bytes_sent("cdn") == sent == BIG.size
    assert ((old / "config.json").read_bytes(), (new / "config.json").read_bytes()) == (b"{}", b"[]")
