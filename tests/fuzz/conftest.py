"""No parser may take more than a gigabyte, whatever it is given: a MemoryError is then the test's failure."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.conftest import fetcher_of, filesystem_of, index, source, store, timers

from .mutations import EXAMPLES

__all__ = ["fetcher_of", "filesystem_of", "index", "source", "store", "timers"]

ROOM = 1 << 30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.allow_warnings("whatever is dropped is told"))
            item.add_marker(pytest.mark.timeout(120 if EXAMPLES <= 1000 else 3600))


@pytest.fixture(autouse=True)
def _bounded(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    if EXAMPLES > 1000:  # pytest keeps every record, which takes most of a long run's time
        caplog.set_level(logging.WARNING)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
