from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hffs import names
from hffs.cli.display import tables, units
from hffs.cli.display.tables import print_table
from hffs.cli.display.terminal_layout import Page


@given(st.text(st.characters(codec=None)))
def test_shown_returns_printable_text_for_any_name(name: str) -> None:
    assert names.shown(name).isprintable()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_printable_names_are_not_changed(name: str) -> None:
    if name.isprintable():
        assert names.shown(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("two\nlines\ttab", "two\\nlines\\ttab"),
        ("left\u202eright", "left\\u202eright"),
        ("caf\udce9", "caf\\xe9"),
        ("é 漢字 😀", "é 漢字 😀"),
    ],
)
def test_control_characters_are_escaped(name: str, shown: str) -> None:
    assert names.shown(name) == shown


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "?"), (0, "0B"), (1023, "1023B"), (1024, "1.0K"), (548_105_171, "522.7M"), (2**30 - 1, "1.0G"),
     (2**40, "1.0T"), (2**70, "1048576.0P")],
)  # fmt: skip
def test_sizes_are_formatted_as_by_df_h(count: int | None, text: str) -> None:
    assert units.size(count) == text


@given(st.integers(0, 2**62))
def test_a_size_is_never_longer_than_seven_characters(count: int) -> None:
    assert len(units.size(count)) <= 7


@pytest.mark.parametrize(
    ("local", "whole", "text"),
    [(0, 100, "0B of 100B (0 %)"), (1, 1000, "1B of 1000B (<1 %)"), (999, 1000, "999B of 1000B (99 %)"),
     (5, 5, "5B of 5B (100 %)"), (0, 0, "0B of 0B (100 %)"), (7, None, "7B of ?")],
)  # fmt: skip
def test_only_the_whole_is_100_percent(local: int, whole: int | None, text: str) -> None:
    assert units.share(local, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7300, "2 h 1 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_a_table_in_a_pipe_has_one_plain_line_for_each_row(rows: list[tuple[str, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        import io
        import sys

        patch.setattr(sys, "stdout", io.StringIO())
        print_table(["NAME", "SIZE"], rows, right=[1])
        written = sys.stdout.getvalue()
    lines = written.removesuffix("\n").split("\n")
    assert len(lines) == len(rows) + 1
    assert all(line.isprintable() and not line.endswith(" ") for line in lines)


@pytest.mark.parametrize("width", [60, 90, 200])
def test_a_table_on_a_narrow_terminal_wraps_cells_and_loses_nothing(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "page_of", lambda _: Page(width))
    name = "datasets/模型/a-name-that-is-longer-than-its-column"
    row = [name, "refs/pr/1, main", "5.0G of 5.0G (100 %)", "complete, pinned"]
    print_table(["REPO", "REVISION", "LOCAL", "STATE"], [row], fold=[0, 1])
    lines = capsys.readouterr().out.splitlines()
    assert all(cell_len(line) <= width for line in lines)
    written = Counter("".join(lines[1:]).replace(" ", ""))
    assert written == Counter("".join(row).replace(" ", ""))
