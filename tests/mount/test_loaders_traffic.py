"""One tensor of a big file costs what one tensor weighs: counted by what the Hub sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub import Hub

from .conftest import Mount
from .models import sparse_safetensors, tensor_bytes
from .mounted import load

pytestmark = pytest.mark.loaders

SLACK = 8 << 20  # promised: header + tensor x 2 + 8 MiB
LAYERS = 64
MATRIX, NORM = (4096, 4096), (4096,)
TENSORS = {
    name: ("BF16", shape)
    for layer in range(LAYERS)
    for name, shape in ((f"layers.{layer}.mlp", MATRIX), (f"layers.{layer}.norm", NORM))
}
WRITTEN = {f"layers.{layer}.{kind}": layer for layer in (0, 20, 40, LAYERS - 1) for kind in ("mlp", "norm")}


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A safetensors file of a little over 2 GiB that takes 130 MB of disk, and the length of its header."""
    path = tmp_path_factory.mktemp("big") / "model.safetensors"
    header = sparse_safetensors(path, TENSORS, WRITTEN)
    assert path.stat().st_size > 2 << 30
    return path, header


def test_tensors_and_rows_of_a_2_gib_file_cost_no_more_than_promised(
    hub: Hub, mount: Mount, big: tuple[Path, int]
) -> None:
    path, header = big
    hub.add_repo("acme/big", files={"model.safetensors": path})
    mounted = mount("acme/big", "--prefetch", "none")
    assert hub.journal.bytes_sent() < header, "mounting fetches no data"
    # Far from one another, so that each is cold; a small one first, which the header's cost weighs on most.
    for name, rows in (
        ("layers.40.norm", None),
        ("layers.0.mlp", None),
        (f"layers.{LAYERS - 1}.mlp", None),
        ("layers.20.mlp", (100, 200)),
    ):
        hub.journal.clear()
        if rows is None:
            weight = tensor_bytes(*TENSORS[name])
            load("one_tensor", mounted / "model.safetensors", path, name)
        else:
            weight = tensor_bytes("BF16", (rows[1] - rows[0], *MATRIX[1:]))
            load("one_slice", mounted / "model.safetensors", path, name, *rows)
        sent = hub.journal.bytes_sent("cdn")
        print(f"{name} {rows or ''}: {weight} bytes cost {sent}, the header is {header}")
        assert 0 < sent <= header + 2 * weight + SLACK, name
