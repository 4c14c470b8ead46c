"""A hub with one repo, and the plainest client there is."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import pytest

from tests.hub import Hub, Repo, Synthetic

WEIGHTS = Synthetic(1_000_000, seed=3)
CONFIG = b'{"a": 1}\n' * 100


@dataclass(frozen=True)
class Got:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class Fetch(Protocol):
    def __call__(
        self, url: str, method: str = "GET", *, body: bytes | None = None, **headers: str
    ) -> Got: ...  # header names with _ for -


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub
        assert hub.errors == []


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.add_repo("acme/tiny", files={"config.json": CONFIG, "model.safetensors": WEIGHTS, "empty.txt": b""})


@pytest.fixture
def fetch(hub: Hub) -> Iterator[Fetch]:
    """One request on a kept connection per origin; paths without an origin go to the API. No redirect is followed."""
    kept: dict[str, http.client.HTTPConnection] = {}

    def fetch(url: str, method: str = "GET", *, body: bytes | None = None, **headers: str) -> Got:
        origin = urlsplit(url).netloc or urlsplit(hub.endpoint).netloc
        connection = kept.setdefault(origin, http.client.HTTPConnection(origin, timeout=10))
        target = url.partition(origin)[2] if origin in url else url
        try:
            connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Got(answer.status, named, answer.read())
        except BaseException:
            connection.close()
            raise

    yield fetch
    for connection in kept.values():
        connection.close()


@pytest.fixture
def signed(fetch: Fetch, repo: Repo) -> str:
    """The CDN's URL of the weights."""
    return fetch("/acme/tiny/resolve/main/model.safetensors").headers["location"]
