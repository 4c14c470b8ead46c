"""Real mounts: a Hub and as many mounts as a test asks for, and checks that they leave nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hub import Hub
from tests.support.once import made_once

from .models import Samples
from .mounted import CHECKOUT, Commands, Mounted, program, python
from .sample import write

Mount = Callable[..., Mounted]
FAILED = pytest.StashKey[bool]()


class SharedMount(NamedTuple):
    mounted: Mounted
    hub: Hub


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.fuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[FAILED] = call.excinfo is not None
    return report


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """The sample repos, made anew for each run: importing torch and diffusers for it takes ten seconds."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def make(root: Path) -> None:
        program(*python("models", root), cwd=CHECKOUT, env=environment)

    return Samples(made_once(tmp_path_factory, "samples", make))


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of ``sample`` in an ordinary folder; tests only read them."""
    return write(tmp_path_factory.mktemp("source"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub of the test's own. Its switches (page_size, shape, faults) may be set before and after mounting."""
    with Hub() as hub:
        yield hub
        assert hub.errors == []


@pytest.fixture(scope="module")
def binding(request: pytest.FixtureRequest) -> str:
    """The FUSE binding: the default, except in tests marked ``on_both_bindings``."""
    return str(getattr(request, "param", "auto"))


@pytest.fixture
def commands(tmp_path: Path, hub: Hub, binding: str) -> Commands:
    return Commands(tmp_path, hub.endpoint, binding)


@contextmanager
def mounting(
    commands: Commands, below: Path, *, quiet: Callable[[], bool], show: Callable[[], bool]
) -> Iterator[Mount]:
    """Mounts below a folder, unmounted at the end. ``quiet``: their logs may have warnings; ``show``: print them."""
    mounts: list[Mounted] = []

    def mount(repo: str, *options: str, revision: str | None = None) -> Mounted:
        more = ("--revision", revision) if revision is not None else ()
        made = Mounted(commands, below / str(len(mounts)))
        mounts.append(made)
        made.start(repo, [*options, *more])
        return made

    yield mount
    wrong = []
    for made in reversed(mounts):
        try:
            if made.is_mounted():
                made.unmount()
            assert not made.is_alive(), f"the daemon {made.pid} outlives its mount"
        except Exception as error:  # every mount is ended, then all errors are reported
            wrong.append(str(error))
        finally:
            made.force_unmount()
    warnings_logged = mounts[0].warnings_logged() if mounts and not quiet() else []
    if wrong or warnings_logged or show():
        print(f"--- the daemons' log\n{mounts[0].log() if mounts else ''}")
    assert not wrong, wrong
    assert not warnings_logged, warnings_logged


@pytest.fixture
def mount(request: pytest.FixtureRequest, tmp_path: Path, commands: Commands) -> Iterator[Mount]:
    """``mount("acme/tiny", "--prefetch", "none")`` mounts below the test's folder, and is unmounted after it.

    A daemon that logged a WARNING or worse fails a test that is not marked ``allow_warnings``.
    """
    with mounting(
        commands,
        tmp_path / "mnt",
        quiet=lambda: request.node.get_closest_marker("allow_warnings") is not None,
        show=lambda: request.node.stash.get(FAILED, False),
    ) as mount:
        yield mount


@pytest.fixture(scope="module")
def shared_mount(tmp_path_factory: pytest.TempPathFactory, source: Path, binding: str) -> Iterator[SharedMount]:
    """The files of ``sample``, mounted once for all tests of a module that read no file's content."""
    home = tmp_path_factory.mktemp("shared-mount")
    with Hub() as hub:
        hub.add_repo("acme/tiny", files=source)
        commands = Commands(home, hub.endpoint, binding)
        with mounting(commands, home / "mnt", quiet=lambda: False, show=lambda: False) as mount:
            yield SharedMount(mount("acme/tiny", "--prefetch", "none"), hub)
        fetched = hub.journal.requests("cdn")
        assert fetched == [], "a shared mount is for tests that read no content"
        assert hub.errors == []


@pytest.fixture
def mounted(hub: Hub, mount: Mount, source: Path) -> Mounted:
    """The files of ``sample``, mounted and cold: nothing has been fetched."""
    hub.add_repo("acme/tiny", files=source)
    return mount("acme/tiny", "--prefetch", "none")
