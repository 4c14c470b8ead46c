"""One server's bytes are never another's until their hash was seen: two Hubs, one cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hffs.errors import IntegrityError
from hffs.ranges import BLOCK_SIZE
from tests.hub import Hub, Match, Synthetic, faults
from tests.mount.mounted import eventually
from tests.support.clock import Clock

from .reading import Reads

LFS, GIT = "model.safetensors", "vocab.txt"
SIZE = 4 * BLOCK_SIZE + 1000
RIGHT = {LFS: Synthetic(SIZE, seed=71).read(0, SIZE), GIT: b"word\n" * 60_000}
FLIPPED = 7  # the byte of which the mirror flips a bit
BYTES = (Match(kind="cdn"), Match(kind="resolve-cache"))


@pytest.fixture
def two(wall: Clock, tmp_path: Path) -> Iterator[tuple[Reads, Reads]]:
    """Readers of a mirror and of the Hub, in one process each as it were, with one cache directory."""
    with Hub(clock=wall) as mirror, Hub(clock=wall) as hub:
        both = [Reads(each, wall, tmp_path / "blocks") for each in (mirror, hub)]
        for reads in both:
            reads.add(RIGHT)
        yield both[0], both[1]
        for reads in both:
            reads.close()


def poison(mirror: Reads) -> None:
    for match in BYTES:
        mirror.hub.faults.add(match, faults.flip_bit(FLIPPED))


@pytest.mark.parametrize("name", [LFS, GIT])
def test_part_of_a_file_from_a_poisoned_mirror_is_never_the_hubs(name: str, two: tuple[Reads, Reads]) -> None:
    mirror, hub = two
    poison(mirror)
    assert mirror.read(name, 0, 100) != RIGHT[name][:100], "a part of a file cannot be checked"
    assert hub.read(name, 0, 100) == RIGHT[name][:100]
    assert hub.ranges(name) != [], "it asked its own server"
    assert hub.read(name) == RIGHT[name]


@pytest.mark.allow_warnings("event=mismatch", "event=verify-failed")
@pytest.mark.parametrize("name", [LFS, GIT])
def test_a_whole_file_from_a_poisoned_mirror_is_never_the_hubs(name: str, two: tuple[Reads, Reads]) -> None:
    mirror, hub = two
    poison(mirror)
    mirror.read(name)
    assert hub.read(name) == RIGHT[name]
    assert hub.ranges(name) != []


@pytest.mark.allow_warnings("event=mismatch", "event=bad-content")  # when it has the whole of that
def test_a_mirror_that_promises_the_same_hash_and_another_size_is_never_the_hubs(two: tuple[Reads, Reads]) -> None:
    """The same etag, and so the same folder of the cache, for content that is shorter."""
    mirror, hub = two
    other = RIGHT[LFS][:BLOCK_SIZE]

    def shorter(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        for row in rows:
            lfs = row.get("lfs")
            if row["path"] == LFS and isinstance(lfs, dict):
                row["size"] = lfs["size"] = len(other)
        return rows

    mirror.hub.faults.add(Match(kind="paths-info"), faults.json_changed(shorter))
    mirror.hub.faults.add(Match(kind="resolve"), faults.header("X-Linked-Size", str(len(other))))
    for match in BYTES:
        mirror.hub.faults.add(match, faults.wrong_content_range(0, len(other)))
    assert mirror.read(LFS, 0, 100) == other[:100]
    assert mirror.remote.file(LFS).blob.size == len(other)
    assert hub.read(LFS) == RIGHT[LFS]
    with contextlib.suppress(IntegrityError):  # once it was hashed twice, the mirror's is refused
        assert mirror.read(LFS, 0, 100) == other[:100], "each goes on with its own"
    assert hub.read(LFS) == RIGHT[LFS], "and what the mirror promised is not held against the Hub"


def test_a_mirror_that_lists_a_hash_as_no_hash_proves_nothing(two: tuple[Reads, Reads]) -> None:
    """64 digits of a file that is said to be none of LFS are no sha256: nothing vouches for such a file, ever."""
    mirror, hub = two
    poison(mirror)

    def plain(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        for row in rows:
            lfs = row.pop("lfs", None)
            if isinstance(lfs, dict):
                row["oid"] = lfs["oid"]
        return rows

    mirror.hub.faults.add(Match(kind="paths-info"), faults.json_changed(plain))
    blob = mirror.remote.file(LFS).blob
    assert (blob.etag, blob.digest) == (hub.remote.file(LFS).blob.etag, None)
    mirror.hub.faults.add(Match(kind="resolve"), faults.header("X-Linked-Etag", f'"{blob.etag}"'))
    mirror.read(LFS)
    assert hub.read(LFS) == RIGHT[LFS]
    assert hub.ranges(LFS) != []


def test_what_was_seen_to_be_right_serves_both(two: tuple[Reads, Reads]) -> None:
    mirror, hub = two
    assert mirror.read(LFS) == RIGHT[LFS]
    blob = mirror.remote.file(LFS).blob
    assert eventually(lambda: mirror._store.state(blob) == "verified", 10)
    assert hub.read(LFS) == RIGHT[LFS]
    assert hub.ranges(LFS) == [], "the hash is that of the Hub's own listing"
