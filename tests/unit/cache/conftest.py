"""A cache for each test, with a clock that the test moves."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Layout, StoredBlob
from tests.support.clock import Clock
from tests.unit.cache import exported


@pytest.fixture
def clock() -> Clock:
    return Clock(1_700_000_000.0)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "cache")
    made.prepare()
    return made


@pytest.fixture
def store(layout: Layout, clock: Clock) -> Iterator[BlobStore]:
    made = BlobStore(layout, clock=clock, boot_id="this boot")
    yield made
    made.close()


@pytest.fixture
def as_on_ext4(monkeypatch: pytest.MonkeyPatch) -> None:
    """No reflinks, on any file system."""
    monkeypatch.setattr(fcntl, "ioctl", exported.no_reflink)


@pytest.fixture
def stored(store: BlobStore) -> StoredBlob:
    """The blob of ``exported``, complete and verified."""
    return exported.whole(store)
