"""Blobs and listings joined: local data of each commit, each content counted once, and unreferenced blobs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hffs.cache import BlobStore, Layout, blob_info, inventory
from hffs.cache.inventory import BlobIndex, ListedCommit
from hffs.model import Commit, Entry, RepoType
from hffs.ranges import BLOCK_SIZE
from tests.support.blobs import verify_blob
from tests.support.clock import Clock
from tests.unit.cache.content import HUB, MIRROR, blob_of, fill, publish, some_bytes

WEIGHTS, CONFIG, OLD = some_bytes(3 * BLOCK_SIZE, 1), some_bytes(100, 2), some_bytes(BLOCK_SIZE, 3)


def entry(path: str, content: bytes) -> Entry:
    return Entry(path, "file", len(content), blob_of(content).etag, lfs=True)


def listed(
    sha: str, *files: Entry, revisions: Sequence[str] = ("main",), name: str = "acme/tiny", complete: bool = True
) -> ListedCommit:
    commit = Commit(RepoType.MODEL, name, revisions[0] if revisions else "main", sha * 40, 1.0, HUB)
    return ListedCommit(commit, tuple(revisions), 500.0, files, complete)


NOW = listed("b", entry("model.bin", WEIGHTS), entry("config.json", CONFIG), entry("copy/config.json", CONFIG))
BEFORE = listed("a", entry("model.bin", OLD), entry("config.json", CONFIG), revisions=())


def shelf(layout: Layout) -> BlobIndex:
    return BlobIndex(blob_info.scan(layout))


def test_a_commit_is_listed_with_its_local_bytes(layout: Layout, store: BlobStore, clock: Clock) -> None:
    stored = store.open(blob_of(WEIGHTS))
    publish(stored, WEIGHTS, range(1))
    clock.now += 10
    stored.read(0, 10)
    stored.close()
    fill(store, CONFIG)
    found = inventory.build(shelf(layout), [NOW])
    (repo,) = found.repos
    (revision,) = repo.revisions
    assert (repo.repo, repo.type, repo.endpoint) == ("acme/tiny", "model", HUB)
    assert (revision.commit, revision.revisions, revision.seen) == ("b" * 40, ("main",), 500.0)
    assert (revision.files, revision.files_complete, revision.files_partial, revision.files_verified) == (3, 2, 1, 0)
    assert (revision.bytes_total, revision.bytes_local) == (len(WEIGHTS) + 200, BLOCK_SIZE + 200)
    assert not revision.complete
    every = list(blob_info.scan(layout))
    assert revision.bytes_disk == repo.bytes_disk == found.bytes_disk == blob_info.allocated(every), "config.json once"
    assert (found.blobs, found.others) == (2, ())


def test_shared_blobs_count_once_and_unknown_ones_are_listed_apart(layout: Layout, store: BlobStore) -> None:
    for content in (WEIGHTS, CONFIG, OLD):
        fill(store, content)
    orphan = fill(store, some_bytes(50, 9))
    found = inventory.build(shelf(layout), [BEFORE, NOW])
    (repo,) = found.repos
    assert [each.revisions for each in repo.revisions] == [("main",), ()], "what is current comes first"
    assert all(each.complete for each in repo.revisions)
    disk = {each.etag: each.bytes_disk for each in blob_info.scan(layout)}
    assert [each.etag for each in found.others] == [orphan.etag]
    assert found.bytes_disk == sum(disk.values())
    assert repo.bytes_disk == found.bytes_disk - disk[orphan.etag]
    assert sum(each.bytes_disk for each in repo.revisions) == repo.bytes_disk + disk[blob_of(CONFIG).etag]


def test_a_commit_without_local_data_is_not_listed(layout: Layout, store: BlobStore) -> None:
    stored = store.open(blob_of(WEIGHTS))
    stored.close()
    found = inventory.build(shelf(layout), [NOW])
    assert found.repos == ()
    assert found.others == ()


def test_totals_of_a_partly_known_listing_are_unknown(layout: Layout, store: BlobStore) -> None:
    fill(store, CONFIG)
    some = listed("b", entry("config.json", CONFIG), complete=False)
    (revision,) = inventory.build(shelf(layout), [some]).repos[0].revisions
    assert (revision.files, revision.bytes_total, revision.complete) == (None, None, False)
    assert revision.files_complete == 1


def test_a_copy_of_another_origin_counts_only_when_verified(layout: Layout, store: BlobStore) -> None:
    blob = fill(store, CONFIG, MIRROR)
    assert inventory.build(shelf(layout), [NOW]).repos == ()
    stored = store.open(blob)
    assert verify_blob(stored, 1.0)
    stored.close()
    (revision,) = inventory.build(shelf(layout), [NOW]).repos[0].revisions
    assert (revision.files_complete, revision.files_verified) == (2, 2)


def test_damaged_blobs_are_not_local(layout: Layout, store: BlobStore) -> None:
    blob = fill(store, CONFIG)
    with open(layout.copies(blob.etag)[0].state, "r+b") as state:
        state.write(b"torn")
    found = inventory.build(shelf(layout), [NOW])
    assert found.repos == ()
    assert [bool(each.unusable) for each in found.others] == [True]


@pytest.mark.parametrize(("older", "dropped"), [(None, {"old"}), (3600.0, {"old", "weights"})])
def test_blobs_without_commit_and_long_unused_ones_are_unreferenced(
    layout: Layout, store: BlobStore, clock: Clock, older: float | None, dropped: set[str]
) -> None:
    names = {}
    for name, content in (("weights", WEIGHTS), ("old", OLD), ("config", CONFIG), ("pinned", some_bytes(70, 5))):
        blob = fill(store, content)
        names[blob.etag] = name
        stored = store.open(blob)
        stored.read(0, 10)
        stored.close()
        if name == "pinned":
            (found,) = (each for each in blob_info.scan(layout) if each.etag == blob.etag)
            blob_info.pin(found, True)
        clock.now += 1800
    stored = store.open(blob_of(CONFIG))
    stored.read(0, 10)
    stored.close()
    let = inventory.unreferenced(shelf(layout), [NOW], now=clock.now, older=older)
    assert {names[each.etag] for each in let} == dropped


def test_blobs_without_a_hash_are_found_by_commit_and_path(layout: Layout, store: BlobStore) -> None:
    deep = "/".join(["a-folder"] * 40)  # more than a state file has room for
    mirrored = [Entry(path, "file", len(OLD), "v1", etag_from="server") for path in ("a.bin", f"{deep}/b.bin", "c.bin")]
    mine = listed("a", *mirrored)
    for file in mirrored[:2]:
        blob = file.blob(mine.commit)
        assert blob is not None
        stored = store.open(blob)
        publish(stored, OLD, range(1))
        stored.close()
    found = inventory.build(shelf(layout), [mine])
    assert found.others == ()
    assert [(each.files, each.files_complete) for repo in found.repos for each in repo.revisions] == [(3, 2)]
    assert inventory.unreferenced(shelf(layout), [mine], now=0.0) == []
    assert len(inventory.unreferenced(shelf(layout), [listed("b", *mirrored)], now=0.0)) == 2, "of another commit"
