"""`hffs map`: the blocks of a file as a grid."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffs import cli
from hffs.cli.display.block_map import block_map
from hffs.cli.display.terminal_layout import ASCII, Page, cells, drawn
from hffs.control.messages import BlockRun, FileBlockMap
from hffs.system import mount_table

from .conftest import Daemon

State = Literal["local", "in_flight", "queued", "absent"]
BLOCK = 262_144


def file(size: int, *runs: tuple[State, int], path: str = "unet/model.safetensors") -> FileBlockMap:
    made: list[BlockRun] = []
    start = 0
    for state, count in runs:
        made.append({"state": state, "start": start, "count": count})
        start += count
    return {"path": path, "size": size, "block_size": BLOCK, "runs": made}


BIG = file(
    5 * 2**30 - 1000,
    ("local", 5001), ("in_flight", 64), ("queued", 2000), ("absent", 8000), ("local", 1), ("absent", 5414),
)  # fmt: skip
SMALL = file(5 * BLOCK, ("local", 2), ("absent", 3), path="config.json")


def printed(found: FileBlockMap, page: Page) -> list[str]:
    return [drawn(line, page) for line in block_map(found, page)]


def test_a_big_file_at_80_columns() -> None:
    assert printed(BIG, Page(80, 24)) == [
        "unet/model.safetensors  5.0G in 20480 blocks",
        "      0B  ████████████████████████████████████████████████████████████████",
        "  512.0M  ████████████████████████████████████████████████████████████████",
        "    1.0G  ████████████████████████████▒▒▒░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░",
        "    1.5G  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░···································",
        "    2.0G  ································································",
        "    2.5G  ································································",
        "    3.0G  ································································",
        "    3.5G  ······················▄·········································",
        "    4.0G  ································································",
        "    4.5G  ································································",
        "█ local 1.2G (24 %)   ▄ in part   ▒ in flight 16.0M   ░ queued 500.0M",
        "· absent 3.3G",
        "a mark is 32 blocks, 8.0M",
    ]


def test_a_small_file_has_a_mark_for_each_block() -> None:
    assert printed(SMALL, Page(80)) == [
        "config.json  1.2M in 5 blocks",
        "      0B  ██···",
        "█ local 512.0K (40 %)   · absent 768.0K",
        "a mark is 1 block, 256.0K",
    ]
    assert printed(file(0), Page(80)) == ["unet/model.safetensors  0B", "it is empty: there is nothing to fetch"]
    unknown: FileBlockMap = {"path": "new.bin", "size": None, "block_size": BLOCK, "runs": []}
    assert printed(unknown, Page(80)) == ["new.bin  ?", "its size is not known yet, and none of it is local"]


def test_a_terminal_without_unicode_gets_ascii_marks() -> None:
    lines = printed(BIG, Page(80, marks=ASCII))
    assert all(line.isascii() for line in lines)
    assert lines[3] == "    1.0G  ############################>>>?????????????????????????????????"


RUNS = st.lists(st.tuples(st.sampled_from(["local", "in_flight", "queued", "absent"]), st.integers(1, 30_000)))


@given(RUNS, st.integers(40, 300), st.integers(10, 80))
def test_a_map_fits_its_terminal_and_its_marks_are_true(runs: list[tuple[State, int]], width: int, height: int) -> None:
    blocks = sum(count for _, count in runs)
    lines = printed(file(blocks * BLOCK, *runs), Page(width, height))
    assert len(lines) < height
    assert all(cells(line) <= width for line in lines)
    marks = "".join(line[10:] for line in lines[1:] if line[8:10] == "  " and set(line[10:]) <= set("█▄▒░·"))
    if blocks:
        each = int(lines[-1].split()[3])
        assert len(marks) == -(-blocks // each)
        flat = [state for state, count in runs for _ in range(count)]
        for number, mark in enumerate(marks):
            states = set(flat[number * each : (number + 1) * each])
            assert (mark == "█") == (states == {"local"})
            assert (mark == "·") == (states == {"absent"})
            assert (mark == "▒") == ("in_flight" in states)


@pytest.fixture
def mounted(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon whose mount is in the mount table."""
    daemon(blocks=SMALL)
    mounted = {"/mnt/model": mount_table.Mounted("/mnt/model", mount_table.TYPE, "hffs:acme/tiny")}
    monkeypatch.setattr(mount_table, "table", lambda: mounted)


def test_the_command_draws_and_prints_json(mounted: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["map", "/mnt/model/config.json"]) == 0
    assert capsys.readouterr().out.splitlines() == printed(SMALL, Page())
    assert cli.main(["map", "/mnt/model/config.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"mountpoint": "/mnt/model", **SMALL}


@pytest.mark.parametrize(
    ("target", "code", "why"),
    [
        ("/mnt/model", 2, "/mnt/model is a mount, not a file: name a file in it: hffs map /mnt/model/FILE"),
        ("/mnt/model/missing", 3, "missing is not in this mount"),
        ("/mnt/none/x", 3, "/mnt/none/x is not mounted: hffs status lists the mounts"),
    ],
)
def test_a_target_that_is_no_file_is_an_error(
    mounted: None, capsys: pytest.CaptureFixture[str], target: str, code: int, why: str
) -> None:
    assert cli.main(["map", target]) == code
    assert capsys.readouterr() == ("", f"hffs: {why}\n")


def test_marks_are_coloured_if_the_page_is() -> None:
    page = Page(80, colour=True)
    assert printed(SMALL, page)[1].endswith("\x1b[32m██\x1b[0m\x1b[2m···\x1b[0m")
