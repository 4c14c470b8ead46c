"""Faults applied to real mounts, with the fixtures of ``tests/mount``, or, where no kernel is needed, to a reader
without a mount (``reading``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub import Hub
from tests.mount.conftest import binding, commands, hub, mount, pytest_runtest_makereport
from tests.mount.mounted import Commands, Mounted
from tests.support.clock import Clock

from .reading import Reads
from .refusing import Refusals, at

__all__ = ["binding", "commands", "hub", "mount", "pytest_runtest_makereport"]

MountAt = Callable[..., Mounted]
MakeReads = Callable[..., Reads]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and "commands" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.fuse)


@pytest.fixture
def wall() -> Clock:
    """The clock by which the signed URLs of ``reads.hub`` expire."""
    return Clock(1_800_000_000.0)


@pytest.fixture
def reads_of(wall: Clock, tmp_path: Path) -> Iterator[MakeReads]:
    """``reads_of(deadline=2.0, …)`` makes a reader with these options. All share one hub; each has its own cache."""
    made: list[Reads] = []
    with Hub(clock=wall) as its_hub:

        def make(**options: object) -> Reads:
            made.append(Reads(its_hub, wall, tmp_path / f"blocks-{len(made)}", **options))  # type: ignore[arg-type]
            return made[-1]

        yield make
        its_hub.faults.clear()
        its_hub.cut()  # ends every read that still waits for a byte
        for reads in made:
            reads.close()
        assert its_hub.errors == []


@pytest.fixture
def reads(reads_of: MakeReads) -> Reads:
    return reads_of()


class Anywhere(Mounted):
    """A mount at a path with any characters."""

    def is_mounted(self) -> bool:
        return bool(at(self.path))


@pytest.fixture
def refusals(commands: Commands) -> Refusals:
    """``refusals.of(code, "mount", …)`` returns the message of a command that must fail."""
    return Refusals(commands)


@pytest.fixture
def nothing_left(refusals: Refusals) -> Iterator[None]:
    """Asserts after the test that no daemon, socket, record or mount is left: a failed command undid its steps."""
    yield
    refusals.nothing_left()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory to mount at."""
    where = tmp_path / "place"
    where.mkdir()
    return where


@pytest.fixture
def mount_at(commands: Commands) -> Iterator[MountAt]:
    """``mount_at(path, "acme/tiny", *options)`` mounts like ``mount``, at a path of the test's choice.

    Mounts that the test leaves are ended by force, since the test may have killed the daemon itself."""
    mounts: list[Mounted] = []

    def mount(path: Path, repo: str, *options: str) -> Mounted:
        made = Anywhere(commands, path)
        mounts.append(made)
        made.start(repo, options)
        return made

    yield mount
    for made in reversed(mounts):
        made.force_unmount()
