"""``docs/faults.md`` names tests that exist, and every way of being wrong that is tested stands in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .test_links import REFUSED
from .test_wrong_answers import ASKED_AGAIN

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "faults.md").read_text()


@pytest.mark.parametrize("document", ["faults.md", "security.md"])
def test_every_test_named_in_the_document_exists(document: str) -> None:
    page = (CHECKOUT / "docs" / document).read_text()
    defined = {
        name
        for path in (CHECKOUT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)[`\[]", page))
    assert len(named) > 10
    assert named <= defined, named - defined
    for path in re.findall(r"`(tests/[\w/]+\.py)`", page):
        assert (CHECKOUT / path).is_file(), path


def test_every_wrong_answer_has_its_row() -> None:
    for name in [*ASKED_AGAIN, *REFUSED]:
        assert f"`[{name}]`" in PAGE, name


def test_every_end_to_end_test_of_an_answer_stands_in_the_document() -> None:
    for module in ("test_wrong_answers.py", "test_links.py", "test_retries.py"):
        for name in re.findall(r"^def (test_\w+)", (Path(__file__).parent / module).read_text(), re.MULTILINE):
            assert f"`{name}" in PAGE, name
