"""The record of mismatches: shared between processes, persistent, bounded, and tolerant of any content."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from hffs.cache import Layout
from hffs.cache.integrity import mismatches
from hffs.cache.integrity.mismatches import MOST, Mismatches
from hffs.model import Blob, RemoteFile
from tests.support.mismatch_records import recorded
from tests.unit.memory import COMMIT

CHECKOUT = Path(__file__).parents[3]
FILE = RemoteFile(COMMIT, "sub/model.bin", Blob("e" * 64, 5, COMMIT.source), lfs=True)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "cache")
    layout.prepare()
    return layout


def wrong(record: Mismatches, file: RemoteFile = FILE, *, began: float = 0.0, now: float, got: str = "bad") -> int:
    return record.record(file, "good", got, began=began, now=now).copies


def test_a_mismatch_is_recorded_with_all_its_fields(layout: Layout) -> None:
    Mismatches(layout).record(FILE, "good", "bad", began=1.0, now=2.0)
    [found] = mismatches.current(layout)
    assert (found.at, found.path, found.repo, found.commit) == (2.0, "sub/model.bin", "acme/tiny", COMMIT.sha)
    assert (found.etag, found.size, found.origin) == ("e" * 64, 5, "http://hub")
    assert (found.expected, found.got, found.copies) == ("good", "bad", 1)
    assert Mismatches(layout).find(FILE.blob) == found


def test_a_new_record_has_no_mismatches(layout: Layout) -> None:
    assert mismatches.current(layout) == []
    assert not Mismatches(layout).clear(FILE.blob, right=True, now=1.0)
    assert not (layout.root / "mismatches").exists(), "a cache in which all was right has no such file"


def test_wrong_copies_are_counted_until_cleared(layout: Layout) -> None:
    record = Mismatches(layout)
    assert [wrong(record, began=at, now=at + 0.5) for at in (1.0, 2.0, 3.0)] == [1, 2, 3]
    assert record.clear(FILE.blob, right=True, now=4.0)
    assert record.find(FILE.blob) is None
    assert mismatches.current(layout) == []
    assert wrong(record, began=5.0, now=6.0) == 1
    assert record.clear(FILE.blob, right=False, now=7.0)
    assert Mismatches(layout).find(FILE.blob) is None
    assert len(recorded(layout)) == 4, "what was wrong stays in the history"


def test_copies_of_different_origins_are_separate(layout: Layout) -> None:
    record = Mismatches(layout)
    wrong(record, now=1.0)
    assert record.find(Blob(FILE.blob.etag, 5, "http://mirror")) is None


def test_one_copy_hashed_by_two_processes_counts_once(layout: Layout) -> None:
    one, other = Mismatches(layout), Mismatches(layout)
    assert wrong(one, began=1.0, now=10.0) == 1
    assert wrong(other, began=9.0, now=11.0) == 1, "it was hashing when the first had found it wrong"
    assert len(recorded(layout)) == 1
    assert wrong(other, began=12.0, now=13.0) == 2
    assert wrong(one, began=14.0, now=15.0) == 3


def test_a_clock_that_jumps_causes_no_endless_fetches(layout: Layout) -> None:
    record = Mismatches(layout)
    assert [wrong(record, began=0.0, now=at) for at in (1.0, 2.0, 3.0, 4.0)] == [1, 1, 2, 2]


def test_mismatches_of_other_processes_are_seen(layout: Layout) -> None:
    one, other = Mismatches(layout), Mismatches(layout)
    assert one.current() == []
    wrong(other, now=1.0)
    assert [found.copies for found in one.current()] == [1]


MANY = """
import sys
from hffs.cache import Layout
from hffs.cache.integrity.mismatches import Mismatches
from hffs.model import Blob, RemoteFile
from tests.unit.memory import COMMIT
record = Mismatches(Layout(sys.argv[1]))
for count in range(30):
    name = f"{sys.argv[2]}-{count}"
    record.record(RemoteFile(COMMIT, name, Blob(name, 5, "http://hub")), "good", "bad", began=0.0, now=1.0)
"""


def test_many_processes_lose_no_line(layout: Layout) -> None:
    command = [sys.executable, "-c", MANY, str(layout.root)]
    processes = [subprocess.Popen([*command, str(number)], cwd=CHECKOUT) for number in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert {found.path for found in recorded(layout)} == {f"{n}-{c}" for n in range(3) for c in range(30)}


def test_the_record_is_bounded(layout: Layout) -> None:
    record = Mismatches(layout)
    for count in range(2 * MOST + 10):
        wrong(record, began=count, now=count + 0.5)
    kept = recorded(layout)
    assert MOST <= len(kept) < 2 * MOST
    assert kept[-1].copies == 2 * MOST + 10, "the newest stay, and what they count"
    assert [path.name for path in layout.root.iterdir() if path.name.startswith(".mismatches")] == []


LINE = json.dumps({"what": "wrong", **asdict(mismatches.Mismatch(3.5, "a", "b", "c", "good", 5, "o", "e", "g", 7))})


@pytest.mark.parametrize(
    "rubbish",
    [
        '{"what":"wro', "[]", "{}", "\0\0", '{"what":"wrong","at":"x"}', '{"what":"later"}', "[" * 9000,
        LINE.replace("3.5", "9" * 400), LINE.replace("3.5", "NaN"), LINE.replace("7", "Infinity"),
        LINE.replace("7", "9" * 4300), LINE.replace("7", "0"),
    ],
    ids=lambda line: line[:40],
)  # fmt: skip
def test_a_torn_or_unknown_line_is_skipped(layout: Layout, rubbish: str) -> None:
    record = Mismatches(layout)
    wrong(record, began=1.0, now=2.0)
    with open(layout.root / "mismatches", "a", encoding="utf-8") as file:
        file.write(rubbish)
    assert wrong(Mismatches(layout), began=3.0, now=4.0) == 2
    assert [found.copies for found in recorded(layout)] == [1, 2]


@pytest.mark.allow_warnings("the disk refuses the record")
def test_a_mismatch_is_remembered_when_the_disk_refuses_it(layout: Layout) -> None:
    (layout.root / "mismatches").mkdir()
    record = Mismatches(layout)
    assert [wrong(record, began=at, now=at + 0.5) for at in (1.0, 2.0)] == [1, 2]
    assert record.find(FILE.blob) is not None
    assert record.clear(FILE.blob, right=True, now=3.0)
    assert record.find(FILE.blob) is None


def test_each_line_is_a_json_object(layout: Layout) -> None:
    wrong(Mismatches(layout), now=1.0)
    row = json.loads((layout.root / "mismatches").read_text())
    assert (row["what"], row["path"], row["expected"], row["got"]) == ("wrong", "sub/model.bin", "good", "bad")
