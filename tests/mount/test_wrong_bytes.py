"""Bytes that are not what the Hub's hash says: found when the file is whole, dropped, and not kept by the kernel."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from hffs.cache import Layout
from hffs.cache.integrity import mismatches
from tests.hub import Hub, Match, Synthetic, faults
from tests.support.mismatch_records import recorded

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
        assert eventually(lambda: history(mounted) == [("model.safetensors", 1)], 30)
        # The handle is still open and its pages were kept over opens: they must be gone all the same.
        assert eventually(lambda: (mounted / "model.safetensors").read_bytes() == expected, 30)
    assert eventually(lambda: mounted.status()["verification"]["verified"] == 1, 30)
    assert (mounted / "model.safetensors").read_bytes() == expected
    verification = mounted.status()["verification"]
    assert (verification["failed"], verification["mismatches"]) == ([], []), "it was mended"


@on_both_bindings
@pytest.mark.allow_warnings("the daemon says what was wrong")
def test_wrong_bytes_are_not_read_again_after_a_new_open(hub: Hub, mount: Mount) -> None:
    right = Synthetic(SIZE, seed=5)
    names = ["model.safetensors", "deep/same.safetensors"]
    hub.add_repo("acme/tiny", files=dict.fromkeys(names, right))
    hub.faults.add(Match(kind="cdn", count=1), faults.flip_bit(1_000_000))
    mounted = mount("acme/tiny", "--prefetch", "none")
    expected = right.read(0, SIZE)
    assert [(mounted / name).read_bytes() == expected for name in names] != [True, True], "the fault reached no reader"
    assert eventually(lambda: len(history(mounted)) == 1, 30)
    assert eventually(lambda: all((mounted / name).read_bytes() == expected for name in names), 30)
    assert eventually(lambda: mounted.status()["verification"]["verified"] == 2, 30)


@on_both_bindings
@pytest.mark.allow_warnings("the daemon says what was wrong")
def test_content_that_stays_wrong_is_named_in_status_and_never_called_verified(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/tiny", files={"model.safetensors": Synthetic(SIZE, seed=5)})
    hub.faults.add(Match(kind="cdn"), faults.flip_bit(2_000_000))
    mounted = mount("acme/tiny", "--prefetch", "none")
    with contextlib.suppress(OSError):
        (mounted / "model.safetensors").read_bytes()
    assert eventually(lambda: mounted.status()["verification"]["failed"] == ["model.safetensors"], 30)
    assert mounted.status()["verification"]["verified"] == 0
    assert os.getxattr(mounted / "model.safetensors", "user.hffs.verification") == b"failed"


@pytest.mark.kernel
@pytest.mark.allow_warnings("the daemon says what was wrong")
def test_content_that_stays_wrong_is_eio_and_not_fetched_again(hub: Hub, mount: Mount) -> None:
    right = Synthetic(SIZE, seed=5)
    hub.add_repo("acme/tiny", files={"model.safetensors": right, "good.bin": b"good"})
    hub.faults.add(Match(kind="cdn", file="model.safetensors"), faults.flip_bit(2_000_000))
    mounted = mount("acme/tiny", "--prefetch", "none")
    path = mounted / "model.safetensors"
    assert_eventually_refused(path)
    assert eventually(lambda: mounted.status()["verification"]["failed"] == ["model.safetensors"], 30)
    verification = mounted.status()["verification"]
    [found] = verification["mismatches"]
    assert (verification["verified"], found["path"], found["copies"]) == (0, "model.safetensors", 2)
    assert found["expected"] == os.getxattr(path, "user.hffs.sha256").decode() != found["got"]
    assert os.getxattr(path, "user.hffs.state") == b"failed"
    assert eventually(lambda: sent(hub) >= 2 * SIZE and not mounted.status()["workers"]["active"], 30)
    asked = len(hub.journal.requests(file="model.safetensors"))
    assert len([each for each in hub.journal.requests(file="model.safetensors") if each.kind == "resolve"]) == 2
    for _ in range(10):
        with pytest.raises(OSError, match="Input/output") as refused:
            path.read_bytes()
        assert refused.value.errno == errno.EIO
    assert len(hub.journal.requests(file="model.safetensors")) == asked
    assert (mounted / "good.bin").read_bytes() == b"good"
    loud = [line for line in mounted.warnings_logged() if "bad-content" in line]
    assert len(loud) == 1, mounted.warnings_logged()
    cache = layout(mounted)
    mounted.kill()
    assert [found.copies for found in mismatches.current(cache)] == [2], "still recorded without a mount"


@pytest.mark.kernel
@pytest.mark.allow_warnings("the daemon says what was wrong")
def test_every_name_of_wrong_content_is_forgotten_by_the_kernel(hub: Hub, mount: Mount) -> None:
    right = Synthetic(SIZE, seed=6)
    names = ["a.safetensors", "deep/b.safetensors"]
    hub.add_repo("acme/tiny", files=dict.fromkeys(names, right))
    hub.faults.add(Match(kind="cdn", count=1), faults.flip_bit(1_000_000))
    mounted = mount("acme/tiny", "--prefetch", "none")
    expected = right.read(0, SIZE)
    files = [open(mounted / name, "rb") for name in names]  # noqa: SIM115
    assert b"".join(file.read(1_500_000) for file in files) != 2 * expected[:1_500_000]
    files[0].read()
    assert eventually(lambda: history(mounted) == [(names[0], 1)], 30)
    assert eventually(lambda: all(os.pread(file.fileno(), SIZE, 0) == expected for file in files), 30)
    for file in files:
        file.close()


@pytest.mark.kernel
@pytest.mark.allow_warnings("the daemon says what was wrong")
def test_a_new_worker_goes_on_refusing(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/tiny", files={"model.safetensors": Synthetic(SIZE, seed=5)})
    hub.faults.add(Match(kind="cdn"), faults.flip_bit(2_000_000))
    mounted = mount("acme/tiny", "--prefetch", "none")
    assert_eventually_refused(mounted / "model.safetensors")
    before = mounted.status()["pid"]
    mounted.commands.expect("restart", str(mounted.path))
    assert eventually(lambda: mounted.status()["pid"] != before, 30)
    asked = len(hub.journal.requests(file="model.safetensors"))
    with pytest.raises(OSError, match="Input/output"):
        (mounted / "model.safetensors").read_bytes()
    assert len(hub.journal.requests(file="model.safetensors")) == asked


@pytest.mark.kernel
def test_a_file_larger_than_the_cache_is_verified_as_it_passes(hub: Hub, mount: Mount) -> None:
    right = Synthetic(6 * SIZE, seed=7)
    hub.add_repo("acme/tiny", files={"model.safetensors": right})
    mounted = mount("acme/tiny", "--prefetch", "none", "--cache-size", "6M", "--min-free", "0")
    path = mounted / "model.safetensors"
    assert path.read_bytes() == right.read(0, 6 * SIZE)
    assert eventually(lambda: mounted.status()["verification"]["passed"] == 1, 30)
    assert mounted.status()["verification"]["verified"] == 0
    assert os.getxattr(path, "user.hffs.state") == b"partial"
    assert os.getxattr(path, "user.hffs.verification") == b"passed"
    assert os.getxattr(path, "user.hffs.hash") == b"sha256 listing"


def assert_eventually_refused(path: Path) -> None:
    def refused() -> bool:
        try:
            path.read_bytes()
        except OSError as error:
            return error.errno == errno.EIO
        return False

    assert eventually(refused, 30)


def layout(mounted: Any) -> Layout:
    return Layout(mounted.status()["cache"]["dir"])


def history(mounted: Any) -> list[tuple[str, int]]:
    """Reads the file without a mount."""
    return [(found.path, found.copies) for found in recorded(layout(mounted))]


def sent(hub: Hub) -> int:
    return sum(each.bytes_sent for each in hub.journal.requests(file="model.safetensors") if each.kind == "cdn")
