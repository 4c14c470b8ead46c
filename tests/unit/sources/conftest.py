"""A local Hub, and the room's parts pointed at it with a token and clocks that the test turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import huggingface_hub
import pytest

from hffs.model import Blob, Commit, Entry, RemoteFile
from hffs.ranges import ByteRange
from hffs.sources.http.connections import Connections
from hffs.sources.hub.access import HubAccess
from hffs.sources.hub.auth import Auth
from hffs.sources.hub.catalog import HubCatalog
from hffs.sources.hub.hub_transport import HubTransport
from hffs.sources.hub.repo_id import parse_repo
from hffs.sources.hub.url_resolver import UrlResolver
from tests.hub import Hub
from tests.support.clock import Clock


@dataclass
class Remote:
    """One process's view of the hub. ``token`` is what huggingface_hub would find."""

    hub: Hub
    wall: Clock
    steady: Clock
    patience: float = 20.0
    read_timeout: float = 10.0
    connect_timeout: float = 10.0
    token: str | None = None
    tokens: list[str] = field(default_factory=list)  # when not empty: one for each time it is asked for
    slept: list[float] = field(default_factory=list)
    gate: Callable[[], float] | None = None  # by which refusals are remembered; None: the clock that the test turns

    def __post_init__(self) -> None:
        self.auth = Auth(find=self._find)
        self.access = HubAccess(self.auth, now=self.gate or self.steady)
        self.catalog = HubCatalog(self.hub.endpoint, self.access, sleep=self._sleep)
        limits = self.connect_timeout, self.read_timeout
        self.resolver = UrlResolver(
            self.access, Connections(*limits), patience=self.patience, clock=self.wall, monotonic=self.steady
        )
        self.transport = HubTransport(self.resolver, self.access, Connections(*limits))

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.steady.now += seconds

    def _find(self) -> str | None:
        return self.tokens.pop(0) if self.tokens else self.token

    def commit(self, repo: str = "acme/tiny", revision: str | None = None, type: str = "model") -> Commit:  # noqa: A002
        return self.catalog.resolve(parse_repo(repo, type=type, revision=revision)).commit

    def entry(self, path: str, commit: Commit | None = None) -> Entry:
        commit = commit or self.commit()
        (found,) = self.catalog.stat(commit, [path])
        return found

    def file(self, path: str, commit: Commit | None = None) -> RemoteFile:
        commit = commit or self.commit()
        entry = self.entry(path, commit)
        assert entry.etag is not None
        assert entry.size is not None
        return RemoteFile(commit, path, Blob(entry.etag, entry.size, commit.source, entry.digest()), entry.lfs)

    def read(self, file: RemoteFile, start: int = 0, stop: int | None = None) -> bytes:
        stop = file.blob.size if stop is None else stop
        buffer = bytearray(stop - start)
        with self.transport.open_range(file, ByteRange(start, stop)) as body:
            body.readinto(memoryview(buffer))
        return bytes(buffer)

    def pass_time(self, seconds: float) -> None:
        self.wall.now += seconds
        self.steady.now += seconds

    def close(self) -> None:
        self.transport.close()
        huggingface_hub.close_session()


@pytest.fixture
def wall() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def hub(wall: Clock) -> Iterator[Hub]:
    with Hub(clock=wall) as hub:
        yield hub
        assert not hub.errors


@pytest.fixture
def remote(hub: Hub, wall: Clock) -> Iterator[Remote]:
    remote = Remote(hub, wall, Clock(1000.0))
    yield remote
    remote.close()


@pytest.fixture
def content() -> bytes:
    return os.urandom(100_000)
