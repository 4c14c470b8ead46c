"""The page about the command line shows what was captured, and nothing of the machine that it was captured on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CAPTURES = {file.stem: file.read_text() for file in (DOCS / "captures").glob("*.txt")}


def test_the_page_shows_the_captures_as_they_are() -> None:
    page = (DOCS / "command-line.md").read_text()
    shown = dict(re.findall(r"<!-- (\S+) -->\n```text\n(.*?)```", page, re.DOTALL))
    assert len(shown) == page.count("```text")
    assert shown == {name: text for name, text in CAPTURES.items() if name in shown}


@pytest.mark.parametrize("name", sorted(CAPTURES))
def test_a_capture_fits_its_terminal_and_names_no_place_of_the_machine(name: str) -> None:
    lines = CAPTURES[name].splitlines()
    assert max(map(len, lines)) <= int(name.rpartition("-")[2])
    paths = re.findall(r"(?<![\w.:/])/[a-z][\w./-]*", CAPTURES[name])
    assert all(path.startswith(("/mnt/", "/var/cache/hffs", "/run/hffs/")) for path in paths), paths
