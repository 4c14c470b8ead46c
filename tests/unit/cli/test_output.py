from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffs.cli import output


@given(st.text(st.characters(codec=None)))
def test_whatever_a_name_holds_a_terminal_is_shown_only_printable_text(name: str) -> None:
    assert output.shown(name).isprintable()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_names_are_shown_as_they_are(name: str) -> None:
    if name.isprintable():
        assert output.shown(name) == name


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
def test_what_would_steer_a_terminal_is_written_out(name: str, shown: str) -> None:
    assert output.shown(name) == shown


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "?"), (0, "0B"), (1023, "1023B"), (1024, "1.0K"), (548_105_171, "522.7M"), (2**30 - 1, "1.0G"),
     (2**40, "1.0T"), (2**70, "1048576.0P")],
)  # fmt: skip
def test_sizes_are_written_as_df_h_does(count: int | None, text: str) -> None:
    assert output.size(count) == text


@given(st.integers(0, 2**62))
def test_a_size_is_never_longer_than_seven_characters(count: int) -> None:
    assert len(output.size(count)) <= 7


@pytest.mark.parametrize(
    ("local", "whole", "text"),
    [(0, 100, "0B of 100B (0 %)"), (1, 1000, "1B of 1000B (<1 %)"), (999, 1000, "999B of 1000B (99 %)"),
     (5, 5, "5B of 5B (100 %)"), (0, 0, "0B of 0B (100 %)"), (7, None, "7B of ?")],
)  # fmt: skip
def test_only_what_is_whole_is_a_hundred_percent(local: int, whole: int | None, text: str) -> None:
    assert output.share(local, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7300, "2 h 1 min"), (200_000, "2 d 7 h")],
)
def test_lengths_of_time_are_written_for_people(seconds: float, text: str) -> None:
    assert output.span(seconds) == text


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_a_table_without_a_terminal_is_plain_and_every_row_is_a_line(rows: list[tuple[str, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        import io
        import sys

        patch.setattr(sys, "stdout", io.StringIO())
        output.table(["NAME", "SIZE"], rows, right=[1])
        written = sys.stdout.getvalue()
    lines = written.removesuffix("\n").split("\n")
    assert len(lines) == len(rows) + 1
    assert all(line.isprintable() and not line.endswith(" ") for line in lines)
