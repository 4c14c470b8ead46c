"""A Hub that counts requests: readers first, the background within limits, and everybody is told why it is slow."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, Match, Synthetic, faults

from .conftest import Mount
from .mounted import Commands, Mounted, eventually

FILES: dict[str, bytes | Path | Synthetic] = {f"{n:02}.json": f"{n:02}".encode() for n in range(60)}


@pytest.fixture
def hub() -> Iterator[Hub]:
    """One whose window does not end while a test runs."""
    began = time.time() // 300 * 300 + 1
    with Hub(clock=lambda: began) as hub:
        hub.add_repo("acme/tiny", files=FILES)
        yield hub
        assert hub.errors == []


def resolved(hub: Hub, status: int | None = None) -> int:
    """How many requests of the scarce kind were sent."""
    return len(hub.journal.requests("resolve", status=status))


def right(mounted: Mounted, path: str) -> bool:
    return (mounted / path).read_bytes() == FILES[path]


def fails(mounted: Mounted, path: str) -> int | None:
    with pytest.raises(OSError) as caught:
        (mounted / path).read_bytes()
    return caught.value.errno


def idle(mounted: Mounted) -> bool:
    return not mounted.status()["workers"]["active"]


def test_a_prefetch_uses_no_more_than_half_of_what_is_left_and_readers_the_rest(hub: Hub, mount: Mount) -> None:
    hub.limits.quotas["resolvers"] = 40
    mounted = mount("acme/tiny", "--read-timeout", "2")
    assert eventually(lambda: resolved(hub) >= 16 and idle(mounted), 20)
    left = 40 - resolved(hub)
    assert left >= 20, "half of forty"
    reported = next(quota for quota in mounted.status()["hub"]["quotas"] if quota["kind"] == "resolvers")
    assert (reported["left"], reported["limit"]) == (left, 40)
    assert f"{left} of 40 resolvers" in mounted.commands.expect("status", str(mounted.path))
    remote = list(FILES)[-left - 3 :]
    for path in remote[:left]:
        assert right(mounted, path), "as long as there is any"
    assert resolved(hub) == 40
    for path in remote[left:]:
        assert fails(mounted, path) == errno.ETIMEDOUT, "a clear word, and not for ever"
    assert resolved(hub, 429) == 1, "and the Hub is asked once"
    assert mounted.status()["hub"]["slowed"].startswith("the Hub takes no request of the kind 'resolvers' for ")
    assert right(mounted, "00.json")


def test_a_hydration_slows_down_before_the_limit_and_leaves_the_rest_to_readers(
    hub: Hub, mount: Mount, commands: Commands
) -> None:
    hub.limits.quotas["resolvers"] = 12
    mounted = mount("acme/tiny", "--prefetch", "none")
    assert right(mounted, "59.json")
    assert mounted.post("hydrate")["state"] == "running"
    # Down to a quarter of 12; of the last three two are the readers', and the window is as long as one is spread over.
    assert eventually(lambda: resolved(hub) >= 9 and idle(mounted), 30)
    assert resolved(hub) == 9
    status = mounted.status()
    assert status["hydration"]["state"] == "running"
    assert "3 requests of the kind 'resolvers' are left" in status["hub"]["slowed"]
    assert "background work may use one in" in commands.expect("status", str(mounted.path))
    for path in ("58.json", "57.json"):
        assert right(mounted, path), "a reader is not held up"
    assert resolved(hub) == 11
    assert resolved(hub, 429) == 0


def test_a_file_whose_address_is_known_is_fetched_whatever_the_quota(hub: Hub, mount: Mount) -> None:
    big = Synthetic(32 << 20, seed=3)
    hub.add_repo("acme/big", files={"model.safetensors": big, "other.safetensors": b"o" * 1000})
    hub.limits.quotas["resolvers"] = 2
    mounted = mount("acme/big", "--prefetch", "none", "--fetch-size", "1M")
    assert (mounted / "other.safetensors").read_bytes() == b"o" * 1000
    assert (mounted / "model.safetensors").read_bytes() == big.read(0, big.size)
    assert resolved(hub) == 2


def test_listings_that_are_limited_do_not_stop_files(hub: Hub, mount: Mount) -> None:
    mounted = mount("acme/tiny", "--prefetch", "none")
    hub.faults.add(Match(kind="api"), faults.rate_limited(t=200))
    assert right(mounted, "07.json")
