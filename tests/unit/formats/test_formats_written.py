"""Plans of files written by the real libraries, compared with the positions that these report."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from hffs.formats import ReadPlan, format_of
from hffs.formats.load_order import name_order
from hffs.ranges import ByteRange

pytestmark = pytest.mark.loaders


def learn(path: Path) -> tuple[ReadPlan | None, list[ByteRange]]:
    data = path.read_bytes()
    found = format_of(str(path), len(data))
    assert found is not None
    seen = [found.first(len(data))]
    while True:
        learnt = found.learn(len(data), seen[-1], data[seen[-1].start : seen[-1].stop])
        if not isinstance(learnt, ByteRange):
            return learnt, seen
        seen.append(learnt)


def order(plan: ReadPlan) -> list[int]:
    return sorted(range(len(plan)), key=plan.rank_of)


def test_safetensors(tmp_path: Path) -> None:
    import numpy
    from safetensors import safe_open
    from safetensors.numpy import save_file

    made = {f"model.layers.{n}.{kind}": numpy.full((n + 1, 8), n, "f4") for n in range(12) for kind in ("mlp", "norm")}
    made |= {"lm_head.weight": numpy.ones((3, 3), "f2"), "empty": numpy.zeros((0, 4), "f4"), "odd": numpy.ones(3, "u1")}
    path = tmp_path / "model.safetensors"
    save_file(made, path, metadata={"format": "np", "author": 'we said "{hi}"'})
    plan, _ = learn(path)
    assert plan is not None
    assert len(plan) == len(made) - 1
    data = path.read_bytes()
    pieces = [data[plan.start_of(piece) : plan.end_of(piece)] for piece in order(plan)]
    with safe_open(path, "np") as file:
        expected = [file.get_tensor(name).tobytes() for name in sorted(file.keys(), key=name_order)]
    assert pieces == [tensor for tensor in expected if tensor]


def test_gguf(tmp_path: Path) -> None:
    import gguf
    import numpy

    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_token_list([f"word{n}" * (n % 7) for n in range(30_000)])
    writer.add_token_scores([0.5] * 30_000)
    writer.add_key_value("nested", [[1, 2], [3]], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.ARRAY)
    writer.add_bool("flag", True)
    for n in range(12):
        writer.add_tensor(f"blk.{n}.weight", numpy.full((n + 1, 33), n, "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    plan, seen = learn(path)
    assert plan is not None
    assert [at.start for at in seen] == [0] * len(seen)
    assert order(plan) == list(range(12))
    known = [int(tensor.data_offset) for tensor in gguf.GGUFReader(path).tensors]
    assert [plan.start_of(piece) for piece in range(12)] == known


@pytest.mark.parametrize("columns", [3, 4000])
def test_parquet(tmp_path: Path, columns: int) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({f"column {n}": [n] for n in range(columns)}), path)
    plan, seen = learn(path)
    assert plan is None
    length = parquet.ParquetFile(path).metadata.serialized_size
    size = path.stat().st_size
    assert min(at.start for at in seen) <= size - 8 - length
    assert len(seen) == (1 if length < 65528 else 2)


@pytest.mark.parametrize("count", [3, 5000])
@pytest.mark.parametrize("name", ["x.zip", "x.bin"])
def test_zip(tmp_path: Path, count: int, name: str) -> None:
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as file:
        for n in range(count):
            file.writestr(f"archive/data/{n}", b"x" * 20)
        file.comment = b"made for a test"
    _, seen = learn(path)
    assert min(at.start for at in seen if at.stop == path.stat().st_size) <= file.start_dir


def test_what_torch_saves_is_a_zip(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "pytorch_model.bin"
    torch.save({f"w{n}": torch.ones(10) for n in range(1500)}, path)
    _, seen = learn(path)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as file:
        assert seen[-1].start == file.start_dir
