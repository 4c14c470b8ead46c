"""Bytes that are not what the Hub's hash says: found when the file is whole, dropped, and not kept by the kernel."""

from __future__ import annotations

import pytest

from tests.hub import Hub, Match, Synthetic, faults

from .conftest import Mount
from .mounted import eventually, on_both_bindings

SIZE = 3 << 20


@pytest.mark.kernel
@pytest.mark.allow_warnings("the daemon says what was wrong")
def test_wrong_bytes_are_dropped_from_disk_and_from_the_kernels_pages(hub: Hub, mount: Mount) -> None:
    right = Synthetic(SIZE, seed=5)
    hub.add_repo("acme/tiny", files={"model.safetensors": right})
    hub.faults.add(Match(kind="cdn", count=1), faults.flip_bit(1_000_000))
    mounted = mount("acme/tiny", "--prefetch", "none")
    expected = right.read(0, SIZE)
    with open(mounted / "model.safetensors", "rb") as file:
        first = file.read()
        assert first != expected, "the fault did not reach the reader, and this test shows nothing"
        assert eventually(lambda: mounted.status()["verification"]["failed"] == ["model.safetensors"], 30)
        # The handle is still open and its pages were kept over opens: they must be gone all the same.
        assert eventually(lambda: (mounted / "model.safetensors").read_bytes() == expected, 30)
    assert eventually(lambda: mounted.status()["verification"]["verified"] == 1, 30)
    assert (mounted / "model.safetensors").read_bytes() == expected


@on_both_bindings
@pytest.mark.allow_warnings("the daemon says what was wrong")
def test_wrong_bytes_are_named_in_status_and_never_called_verified(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/tiny", files={"model.safetensors": Synthetic(SIZE, seed=5)})
    hub.faults.add(Match(kind="cdn"), faults.flip_bit(2_000_000))
    mounted = mount("acme/tiny", "--prefetch", "none")
    (mounted / "model.safetensors").read_bytes()
    assert eventually(lambda: mounted.status()["verification"]["failed"] != [], 30)
    assert mounted.status()["verification"]["verified"] == 0
