"""One tensor of a big file costs what one tensor weighs: counted by what the Hub sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub import Hub

from .conftest import Mount
from .models import sparse_safetensors, tensor_bytes
from .mounted import Mounted, eventually, load

pytestmark = pytest.mark.loaders

SLACK = 8 << 20  # promised: header + tensor x 1.2 + 8 MiB
LAYERS = 56
MATRIX, NORM = (4096, 4096), (4096,)
BIG = ("BF16", (32768, 4096))  # 256 MiB, in the middle: enough for a window of 128 MiB at its end
TENSORS: dict[str, tuple[str, tuple[int, ...]]] = {}
for layer in range(LAYERS):
    TENSORS |= {f"layers.{layer}.mlp": ("BF16", MATRIX), f"layers.{layer}.norm": ("BF16", NORM)}
    TENSORS |= {"embed": BIG} if layer == 30 else {}
WRITTEN = {f"layers.{layer}.{kind}": layer for layer in (0, 20, 40, LAYERS - 1) for kind in ("mlp", "norm")}


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A safetensors file of a little over 2 GiB that takes 130 MB of disk, and the length of its header."""
    path = tmp_path_factory.mktemp("big") / "model.safetensors"
    header = sparse_safetensors(path, TENSORS, WRITTEN)
    assert path.stat().st_size > 2 << 30
    return path, header


def settled(mounted: Mounted) -> int:
    """Bytes fetched, once nothing more is being fetched."""
    fetched = [-1]

    def quiet() -> bool:
        status = mounted.status()
        fetched.append(int(status["bytes_fetched"]))
        return status["workers"]["active"] == 0 and fetched[-1] == fetched[-2]

    assert eventually(quiet, 20), mounted.status()["workers"]
    return fetched[-1]


def test_tensors_and_rows_of_a_2_gib_file_cost_no_more_than_promised(
    hub: Hub, mount: Mount, big: tuple[Path, int]
) -> None:
    """However far ahead it was wanted: the file stays open, so that nothing of that is given up when a loader ends."""
    path, header = big
    hub.add_repo("acme/big", files={"model.safetensors": path})
    mounted = mount("acme/big", "--prefetch", "none")
    with (mounted / "model.safetensors").open("rb"):
        assert settled(mounted) == 0, "mounting and opening fetch no data"
        # Far from one another, so that each is cold; a small one first, which the header's cost weighs on most.
        for name, rows in (
            ("layers.40.norm", None),
            ("layers.0.mlp", None),
            (f"layers.{LAYERS - 1}.mlp", None),
            ("embed", None),
            ("layers.20.mlp", (100, 200)),
        ):
            hub.journal.clear()
            if rows is None:
                weight = tensor_bytes(*TENSORS[name])
                load("one_tensor", mounted / "model.safetensors", path, name)
            else:
                weight = tensor_bytes("BF16", (rows[1] - rows[0], *MATRIX[1:]))
                load("one_slice", mounted / "model.safetensors", path, name, *rows)
            settled(mounted)
            sent = hub.journal.bytes_sent("cdn")
            print(f"{name} {rows or ''}: {weight} bytes cost {sent}, the header is {header}")
            assert 0 < sent <= header + 1.2 * weight + SLACK, name
