"""The metadata index: texts in, texts out; any failure is at worst a miss."""

from __future__ import annotations

import os
import pickle
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hffs.cache import Index
from hffs.cache.index import TextDisk
from tests.support.clock import Clock


@pytest.fixture
def index(tmp_path: Path, clock: Clock) -> Iterator[Index]:
    made = Index(tmp_path / "index", clock=clock)
    yield made
    made.close()


def database(tmp_path: Path) -> Path:
    return tmp_path / "index" / "cache.db"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_text_is_returned_until_it_is_deleted(index: Index) -> None:
    assert index.get("key") is None
    for text in ("text", "", "two\nlines\n", "ü" * 100_000):
        index.set("key", text)
        assert index.get("key") == text
    index.delete("key")
    assert index.get("key") is None
    index.delete("key")


def test_texts_persist_and_are_visible_to_other_processes(index: Index, tmp_path: Path, clock: Clock) -> None:
    index.set("key", "text")
    other = Index(tmp_path / "index", clock=clock)
    assert other.get("key") == "text"
    other.set("key", "newer")
    assert index.get("key") == "newer"
    other.close()


def test_the_age_of_a_text_is_known(index: Index, clock: Clock) -> None:
    assert index.age("key") is None
    index.set("key", "text")
    clock.now += 90.5
    assert index.age("key") == 90.5
    clock.now -= 1000
    assert index.age("key") == 0
    index.set("key", "text")
    assert index.age("key") == 0


def test_a_text_expires_at_its_time(index: Index, clock: Clock) -> None:
    index.set("short", "text", expire=30)
    index.set("long", "text")
    clock.now += 29
    assert index.get("short") == "text"
    clock.now += 1
    assert index.get("short") is None
    assert index.age("short") is None
    assert index.get("long") == "text"


def test_nothing_is_culled(index: Index, tmp_path: Path) -> None:
    for number in range(300):
        index.set(str(number), "x" * 10_000)
    connection = sqlite3.connect(database(tmp_path))
    assert connection.execute("SELECT count(*) FROM Cache").fetchone() == (300,)
    settings = dict(connection.execute("SELECT key, value FROM Settings").fetchall())
    connection.close()
    assert (settings["eviction_policy"], settings["cull_limit"]) == ("none", 0)
    assert {path.name for path in database(tmp_path).parent.iterdir()} == {"cache.db", "cache.db-wal", "cache.db-shm"}


def test_keys_are_found_by_prefix(index: Index) -> None:
    for key in ("a/1", "a/2", "a/ü\U0001f600", "b/1", "a"):
        index.set(key, "x")
    assert index.keys("a/") == ["a/1", "a/2", "a/ü\U0001f600"]
    assert index.keys("c") == []


def test_the_oldest_texts_are_dropped_when_the_index_is_too_large(index: Index) -> None:
    for number in range(1000):
        index.set(f"{number:04}", "x" * 4000)
    assert index.trim(8 << 20) == 0, "it is half of that"
    index.set("0000", "anew")
    dropped = index.trim(2 << 20)
    left = index.keys("")
    assert 256 <= dropped == 1000 - len(left)
    assert left == ["0000", *(f"{number:04}" for number in range(dropped + 1, 1000))]
    assert index.trim(2 << 20) == 0


def test_an_unusable_database_has_no_keys_and_nothing_to_trim(index: Index) -> None:
    index.set("key", "text")
    index.close()
    assert index.keys("") == []
    assert index.trim(0) == 0


class Trap:
    """Unpickling one of these leaves a mark."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.allow_warnings("holds a row of mode 4")
@pytest.mark.parametrize("where", ["value", "file", "text file"])
def test_a_row_marked_as_pickle_is_never_unpickled(
    index: Index, tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    index.set("key", "text")
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    (tmp_path / "index" / "row.val").write_bytes(trap)
    connection = sqlite3.connect(database(tmp_path))
    value, filename = (trap, None) if where == "value" else (None, "row.val")
    mode = 3 if where == "text file" else 4
    connection.execute("UPDATE Cache SET mode = ?, value = ?, filename = ?", (mode, value, filename))
    connection.commit()
    connection.close()
    assert index.get("key") is None
    assert index.get("key") is None
    assert not (tmp_path / "sprung").exists()
    assert len(warnings(caplog)) == 1
    index.set("key", "text")  # mends it, and removes no file a row names
    assert index.get("key") == "text"
    assert (tmp_path / "index" / "row.val").exists()


@pytest.mark.parametrize("value", [b"bytes", 5, 1.5, None, ["list"]])
def test_only_text_is_stored(value: object) -> None:
    disk = TextDisk("nowhere")
    for use in (lambda: disk.store(value, False), lambda: disk.put(value), lambda: disk.fetch(1, None, value, False)):
        with pytest.raises(ValueError):
            use()
    for stored in (lambda: disk.store("text", True), lambda: disk.get("text", 0)):
        with pytest.raises(ValueError):
            stored()


@pytest.mark.parametrize("value", [b"\x80\x04N.", 7, "no header", "a b\ntext", "\ntext"])
@pytest.mark.allow_warnings("ignored")
def test_a_row_of_another_kind_is_a_miss(index: Index, tmp_path: Path, value: object) -> None:
    index.set("key", "text")
    connection = sqlite3.connect(database(tmp_path))
    connection.execute("UPDATE Cache SET value = ?", (value,))
    connection.commit()
    connection.close()
    assert index.get("key") is None
    assert index.age("key") is None


@pytest.mark.allow_warnings("ignored")
def test_texts_that_sqlite_cannot_store_are_ignored(index: Index) -> None:
    index.set("\ud800", "text")
    index.set("key", "\ud800")
    assert index.get("\ud800") is None
    assert index.get("key") is None


@pytest.mark.allow_warnings("damaged and begins anew")
@pytest.mark.parametrize("garbage", [b"this is no database, however long it is. " * 200, b"SQLite format 3\0" * 300])
def test_a_damaged_database_is_renamed_and_replaced(
    tmp_path: Path, clock: Clock, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "index").mkdir()
    database(tmp_path).write_bytes(garbage)
    index = Index(tmp_path / "index", clock=clock)
    index.set("key", "text")
    assert index.get("key") == "text"
    index.close()
    (aside,) = (path for path in database(tmp_path).parent.iterdir() if "damaged" in path.name)
    assert aside.read_bytes() == garbage
    assert len(warnings(caplog)) == 1


@pytest.mark.allow_warnings("damaged and begins anew")
def test_a_database_damaged_while_open_is_replaced_once_and_never_raises(index: Index, tmp_path: Path) -> None:
    for number in range(200):
        index.set(str(number), "x" * 1000)
    index.close()
    damaged = bytearray(database(tmp_path).read_bytes())
    for page in range(1, len(damaged) // 4096):
        damaged[page * 4096 : page * 4096 + 2000] = b"\xa5" * 2000
    database(tmp_path).write_bytes(damaged)
    again = Index(tmp_path / "index")
    for number in range(200):
        assert again.get(str(number)) in {None, "x" * 1000}
    again.set("key", "text")
    assert again.get("key") == "text"
    again.close()


@pytest.mark.allow_warnings("damaged and begins anew")
def test_a_database_is_replaced_only_once_on_a_bad_disk(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    index = Index(folder, clock=clock)
    for _ in range(3):
        index._drop()
        for path in folder.glob("cache.db*"):
            if "damaged" not in path.name:
                path.unlink()
        database(tmp_path).write_bytes(b"garbage" * 1000)
        clock.now += 100
        index.set("key", "text")
    assert index.get("key") is None
    assert len(list(folder.glob("cache.db.damaged*"))) == 1
    index.close()


@pytest.mark.allow_warnings("cannot be used")
def test_a_folder_that_cannot_be_created_is_a_miss(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "index").write_text("in the way")
    index = Index(tmp_path / "index", clock=clock)
    for _ in range(3):
        index.set("key", "text")
        assert index.get("key") is None
        clock.now += 100
    assert len(warnings(caplog)) == 1
    (tmp_path / "index").unlink()
    index.set("key", "text")
    assert index.get("key") == "text"
    index.close()


@pytest.mark.allow_warnings("cannot be used")
def test_a_locked_database_is_tried_once_in_ten_seconds(
    index: Index, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hffs.cache.index._TIMEOUT_S", 0.01)
    index.set("key", "text")
    hog = sqlite3.connect(database(tmp_path))
    hog.execute("BEGIN EXCLUSIVE")
    index.set("key", "newer")  # fails, and is not tried again for a while
    assert index.get("key") is None
    hog.rollback()
    hog.close()
    assert index.get("key") is None
    clock.now += 10
    assert index.get("key") == "text"


def test_threads_share_it_and_leave_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    index = Index(tmp_path / "index")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                index.set(f"{number} {turn}", str(turn))
                assert index.get(f"{number} {turn}") == str(turn)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    index.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_index_holds_nothing(index: Index) -> None:
    index.set("key", "text")
    index.close()
    index.close()
    index.set("key", "newer")
    assert index.get("key") is None
    index.delete("key")
