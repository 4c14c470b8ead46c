"""A second process on the same blob: its leases hold, and its death leaves nothing locked or half written."""

from __future__ import annotations

import hashlib

import pytest

from hffs.cache import BlobStore, Layout
from hffs.errors import BlockAbsent
from hffs.ranges import BLOCK_SIZE
from tests.unit.cache.content import OtherProcess, blob_of, piece, pieces, publish, publish_all, some_bytes

CONTENT = some_bytes(3 * BLOCK_SIZE + 1000)
BLOB = blob_of(CONTENT)
ALL = range(4)


def test_another_process_holds_its_lease_until_it_releases_or_dies(store: BlobStore, layout: Layout) -> None:
    stored = store.open(BLOB)
    with OtherProcess(layout.root, BLOB) as other:
        assert other.ask("lease 1 3") == "[range(1, 3)] []"
        with stored.lease(ALL) as lease:
            assert (lease.blocks, lease.busy) == ([range(1), range(3, 4)], [range(1, 3)])
        assert other.ask("release") == "released"
        with stored.lease(ALL) as lease:
            assert lease.blocks == [ALL]
            assert other.ask("lease 0 4") == "[] [range(0, 4)]"
        assert other.ask("lease 0 4") == "[range(0, 4)] []"
        other.kill()
        with stored.lease(ALL) as lease:
            assert lease.blocks == [ALL]


def test_what_one_process_publishes_another_reads(store: BlobStore, layout: Layout) -> None:
    stored = store.open(BLOB)
    with OtherProcess(layout.root, BLOB) as other:
        other.ask("lease 0 4")
        assert other.ask("publish") == "published"
        assert stored.read(0, len(CONTENT)) == CONTENT
        assert stored.discard(range(2, 3)) == BLOCK_SIZE
        assert other.ask(f"read 0 {len(CONTENT)}") == "absent"
        publish(stored, CONTENT, range(2, 3))
        assert other.ask(f"read 0 {len(CONTENT)}") == hashlib.sha256(CONTENT).hexdigest()
        assert other.ask("verify") == "True"
        assert stored.verified


@pytest.mark.parametrize("write", [1, 2, 3, 4])  # count, data, CRC, presence byte: each half done
def test_a_process_killed_while_publishing_leaves_the_block_absent(
    store: BlobStore, layout: Layout, write: int
) -> None:
    stored = store.open(BLOB)
    publish(stored, CONTENT, range(1))
    with OtherProcess(layout.root, BLOB) as other:
        assert other.ask("lease 0 4") == "[range(1, 4)] []"
        other.ask(f"halt {write}")
        assert other.ask("publish") == "halted"
        assert stored.missing(ALL) == [range(1, 4)]
        with pytest.raises(BlockAbsent):
            stored.read(BLOCK_SIZE, 1)
        with stored.lease(ALL) as lease:
            assert lease.busy == [range(1, 4)]
        other.kill()
        assert stored.missing(ALL) == [range(1, 4)]
        with stored.lease(ALL) as lease:
            assert lease.blocks == [range(1, 4)]
            stored.publish(lease, 1, piece(CONTENT, 1))
    publish_all(stored, CONTENT)
    assert stored.read(0, len(CONTENT)) == CONTENT


@pytest.mark.parametrize(("write", "shown"), [(1, 1), (2, 1), (3, 1), (4, 2)])  # half of three presence bytes: one
def test_a_process_killed_while_publishing_a_run_leaves_whole_blocks(
    store: BlobStore, layout: Layout, write: int, shown: int
) -> None:
    stored = store.open(BLOB)
    publish(stored, CONTENT, range(1))
    with OtherProcess(layout.root, BLOB) as other:
        assert other.ask("lease 0 4") == "[range(1, 4)] []"
        other.ask(f"halt {write}")
        assert other.ask("publish-runs") == "halted"
        for _ in ("while it stands still", "when it is dead"):
            assert stored.missing(ALL) == [range(shown, 4)]
            assert stored.read(0, shown * BLOCK_SIZE) == CONTENT[: shown * BLOCK_SIZE]
            with pytest.raises(BlockAbsent):
                stored.read(shown * BLOCK_SIZE, 1)
            other.kill()
        with stored.lease(ALL) as lease:
            assert lease.blocks == [range(shown, 4)]
            stored.publish(lease, shown, pieces(CONTENT, range(shown, 4)))
    assert stored.read(0, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("write", [1])  # the presence bytes; a run of two, of which one is written
def test_a_process_killed_while_dropping_leaves_whole_blocks(store: BlobStore, layout: Layout, write: int) -> None:
    stored = store.open(BLOB)
    publish_all(stored, CONTENT)
    with OtherProcess(layout.root, BLOB) as other:
        other.ask(f"halt {write}")
        assert other.ask("discard 1 3") == "halted"
        other.kill()
    assert stored.missing(ALL) == [range(1, 2)]
    assert stored.read(2 * BLOCK_SIZE, 10) == CONTENT[2 * BLOCK_SIZE : 2 * BLOCK_SIZE + 10]
    publish_all(stored, CONTENT)
    assert stored.read(0, len(CONTENT)) == CONTENT


def test_two_processes_opening_a_new_blob_share_one_file(store: BlobStore, layout: Layout) -> None:
    with OtherProcess(layout.root, BLOB) as one, OtherProcess(layout.root, BLOB) as other:
        assert one.ask("lease 0 2") == "[range(0, 2)] []"
        assert other.ask("lease 0 4") == "[range(2, 4)] [range(0, 2)]"
        assert one.ask("publish") == other.ask("publish") == "published"
        assert store.open(BLOB).read(0, len(CONTENT)) == CONTENT
