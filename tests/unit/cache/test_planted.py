"""Forged or corrupted files in a cache directory are never followed, trusted or run."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diskcache
import pytest

from hffs.cache import BlobStore, Index, Layout, revisions
from hffs.cache.budget import ledger
from hffs.cache.budget.ledger import Ledger
from hffs.cache.store import state_file
from hffs.errors import CacheUnusable
from hffs.model import RepoRef, RepoType
from hffs.transfer import listings
from tests.unit.cache.content import HUB, blob_of, fill, publish_all, some_bytes

CONTENT = some_bytes(300_000)
BLOB = blob_of(CONTENT)
SECRET = b"not yours"


class Trap:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.sprung),)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "cache")
    made.prepare()
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user's that no cache has any business with."""
    path = tmp_path / "victim"
    path.write_bytes(SECRET)
    return path


# Directories.


def test_a_cache_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "cache"
    theirs.mkdir(0o755)
    monkeypatch.setattr("hffs.cache.store.layout.os.geteuid", lambda: os.getuid() + 4711)
    with pytest.raises(CacheUnusable, match="belongs to another user"):
        Layout(theirs).prepare()
    assert os.listdir(theirs) == []


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_world_writable_cache_directory_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(CacheUnusable) as refused:
        Layout(tmp_path / "cache").prepare()
    assert str(refused.value).endswith(f"for example {tmp_path}/cache/hffs")
    assert os.listdir(tmp_path / "cache") == []
    Layout(tmp_path / "cache" / "hffs").prepare()
    assert (tmp_path / "cache" / "hffs").stat().st_mode & 0o777 == 0o700


# Links in place of files.


@pytest.mark.allow_warnings
@pytest.mark.parametrize("what", ["state", "new", "data", "lock"])
def test_a_link_in_place_of_a_blobs_file_is_not_followed(what: str, layout: Layout, victim: Path) -> None:
    place = layout.paths(BLOB.etag, BLOB.origin)
    os.makedirs(place.folder)
    os.symlink(victim, f"{place.folder}/{place.origin_id}.{what}")
    store = BlobStore(layout)
    try:
        if what == "lock":
            with pytest.raises(CacheUnusable):
                store.open(BLOB)
        else:
            stored = store.open(BLOB)
            publish_all(stored, CONTENT)
            assert stored.read(0, len(CONTENT)) == CONTENT
            stored.close()
    finally:
        store.close()
    assert victim.read_bytes() == SECRET
    assert victim.stat().st_size == len(SECRET)


@pytest.mark.allow_warnings
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_folder_or_pipe_in_place_of_a_state_file_is_replaced_safely(
    make: Callable[[str], None], layout: Layout
) -> None:
    place = layout.paths(BLOB.etag, BLOB.origin)
    os.makedirs(place.folder)
    make(place.state)
    Path(place.data).write_bytes(CONTENT)
    store = BlobStore(layout)
    try:
        assert store.local_bytes(BLOB) == 0
        if make is os.mkfifo:
            stored = store.open(BLOB)
            publish_all(stored, CONTENT)
            assert stored.read(0, len(CONTENT)) == CONTENT
            stored.close()
        else:
            with pytest.raises(CacheUnusable):
                store.open(BLOB)
    finally:
        store.close()


def test_a_link_in_place_of_the_ledger_is_not_followed(tmp_path: Path, victim: Path) -> None:
    os.symlink(victim, tmp_path / "ledger")
    with pytest.raises(CacheUnusable):
        Ledger(str(tmp_path / "ledger")).read()
    assert victim.read_bytes() == SECRET


# Contents with a right checksum that hffs never wrote.


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 2**61])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_ledger_with_impossible_numbers_is_counted_again(tmp_path: Path, place: int, value: int) -> None:
    table = ledger._Table(b"")
    numbers = [0, 1, *table.slots]
    numbers[place] = value
    table.held, table.counted, *table.slots = numbers
    path = tmp_path / "ledger"
    path.write_bytes(table.packed())
    found = Ledger(str(path))
    assert found.reserve(1) is None, "never counted"
    found.adjust(5)
    found.close()


@pytest.mark.allow_warnings
@pytest.mark.parametrize(
    "broken",
    [
        {"etag_bytes": 65535},
        {"origin_bytes": 65535},
        {"size": 2**63},
        {"text": b"\xff\xfe"},
        {"boot": b"\xff" * 36},
        {"algorithm": 2},
    ],
)
def test_a_forged_state_file_is_replaced(layout: Layout, broken: dict[str, Any]) -> None:
    store = BlobStore(layout)
    fill(store, CONTENT, HUB)
    store.close()
    place = layout.paths(BLOB.etag, BLOB.origin)
    raw = bytearray(Path(place.state).read_bytes())
    header = raw[: state_file.PRESENCE]
    at = state_file._PREFIX.size
    fields = list(state_file._FIXED.unpack_from(header, at))
    names = ["block_size", "size", "pinned", "algorithm", "etag_bytes", "origin_bytes", "boot"]
    for name, value in broken.items():
        if name != "text":
            fields[names.index(name)] = value
    state_file._FIXED.pack_into(header, at, *fields)
    if "text" in broken:
        header[state_file._TEXTS : state_file._TEXTS + 2] = broken["text"]
    body = bytes(header[at:])
    crc = state_file.crc32(body, state_file.crc32(state_file._PREFIX.pack(state_file._MAGIC, state_file.VERSION, 0)))
    raw[: state_file.PRESENCE] = state_file._PREFIX.pack(state_file._MAGIC, state_file.VERSION, crc) + body
    Path(place.state).write_bytes(raw)
    again = BlobStore(layout)
    try:
        assert again.state(BLOB) != "verified"
        stored = again.open(BLOB)
        publish_all(stored, CONTENT)
        assert stored.read(0, 100) == CONTENT[:100]
        stored.close()
    finally:
        again.close()


# The index.


@pytest.mark.allow_warnings
def test_pickles_in_the_index_are_never_loaded(tmp_path: Path) -> None:
    """As pickle, as a key that is one, and as a file beside: what diskcache itself would load."""
    sprung = tmp_path / "sprung"
    with diskcache.Cache(str(tmp_path / "index")) as theirs:
        theirs["value"] = Trap(sprung)
        theirs[("key", Trap(sprung))] = "text"
        theirs["big"] = [Trap(sprung), "x" * 100_000]
        pickled = pickle.dumps(Trap(sprung))
        theirs._sql("UPDATE Cache SET mode = 4, value = ? WHERE key = 'value'", (pickled,))
    assert not sprung.exists(), "nothing was loaded yet"
    index = Index(tmp_path / "index")
    assert [index.get(key) for key in ("value", "big", "key")] == [None, None, None]
    assert set(index.keys("")) <= {"value", "big"}
    index.set("value", "ours")
    assert index.get("value") == "ours"
    index.trim(0)
    index.close()
    assert not sprung.exists()


@pytest.mark.allow_warnings
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("disk_nonsense", 1),
        ("sqlite_writable_schema", 1),
        ("sqlite_user_version = 7; --", 1),
        ("_disk", "text"),
        ("get", "text"),
        ("eviction_policy", "no such"),
        ("cull_limit", "x"),
        ("size", None),
    ],
)
def test_forged_settings_in_the_index_are_ignored(tmp_path: Path, key: str, value: object) -> None:
    index = Index(tmp_path / "index")
    index.set("a", "text")
    index.close()
    with sqlite3.connect(tmp_path / "index" / "cache.db") as database:
        database.execute("INSERT OR REPLACE INTO Settings VALUES (?, ?)", (key, value))
    database.close()
    again = Index(tmp_path / "index")
    again.set("b", "text")
    assert again.get("b") == "text"
    again.close()
    with sqlite3.connect(tmp_path / "index" / "cache.db") as database:
        assert database.execute("PRAGMA user_version").fetchone() == (0,)
    database.close()


GOOD = ["a/b", "file", 5, "0" * 40, False]


@pytest.mark.allow_warnings
@pytest.mark.parametrize(
    "row",
    [
        ["../b", "file", 5, None, False],
        ["/etc/passwd", "file", 5, None, False],
        ["", "file", 5, None, False],
        [5, "file", 5, None, False],
        ["a", "link", 5, None, False],
        ["a", "file", -5, None, False],
        ["a", "file", 2**63, None, False],
        ["a", "file", "5", None, False],
        ["a", "file", True, None, False],
        ["a", "file", 5, 7, False],
        ["a", "file", 5, None, "yes"],
        ["a"],
        {"path": "a"},
        None,
    ],
)
def test_a_forged_listing_row_is_fetched_again(row: object) -> None:
    assert listings.decode(json.dumps([GOOD])) is not None
    assert listings.decode(json.dumps([GOOD, row])) is None
    assert listings.decode("[" * 100_000) is None


@pytest.mark.parametrize(
    "row",
    [
        ["../x", "a" * 40, 1, 1, 1],
        ["acme/tiny", "../" + "a" * 37, 1, 1, 1],
        ["acme/tiny", "a" * 40, float("inf"), 1, 1],
        ["acme/tiny", "a" * 40, float("nan"), 1, 1],
        ["acme/tiny", "a" * 40, -1, 1, 1],
        ["acme/tiny", "a" * 40, 1, 1, 10**400],
        ["acme/tiny", None, 1, 1, 1],
        [{}, "a" * 40, 1, 1, 1],
        "text",
    ],
)
def test_a_forged_revision_row_is_ignored(tmp_path: Path, row: object) -> None:
    index = Index(tmp_path / "index")
    ref = RepoRef(RepoType.MODEL, "acme/tiny", "main")
    for rows in ([row], "[" * 100_000):
        index.set(revisions._key(HUB, ref.type, ref.id, "main"), rows if isinstance(rows, str) else json.dumps(rows))
        assert revisions.last_known(index, HUB, ref) is None
        assert revisions.records(index) == []
    index.close()
