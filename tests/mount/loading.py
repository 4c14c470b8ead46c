"""What loaders make of a directory, compared with what they make of the source: tensor for tensor, row for row.

``python -m tests.mount.loading LOADER PLACE SOURCE …`` is a process of its own, so that a fault in a page of a mount
kills it and not pytest, and so that nothing of an earlier test is in its memory. PLACE is read first: nothing warms it.
It ends with 0 or a traceback. Never knows whether PLACE is a mount.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SENTENCES = [
    "The cat sits outside in the sun.",
    "A kitten is lying in the sunshine.",
    "The stock market fell sharply today.",
]


def same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    import torch

    assert sorted(found) == sorted(expected), sorted(set(found) ^ set(expected))
    assert expected
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, (name, found[name].dtype)
        assert torch.equal(found[name], tensor), f"{name} differs"


def transformers(place: str, source: str, dtype: str) -> None:
    """Weights and, since without conversion most of them are faulted in only by computing, what the model says."""
    import torch
    from transformers import AutoModelForCausalLM

    def load(path: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        model.eval()
        with torch.no_grad():
            logits = model(torch.arange(32)[None]).logits
        return model.state_dict(), logits

    found, output = load(place)
    assert found["model.norm.weight"].dtype == (torch.bfloat16 if dtype == "auto" else getattr(torch, dtype))
    expected, known = load(source)
    same_tensors(found, expected)
    assert torch.equal(output, known)


def transformers_kinds(single: str, sharded: str, source: str) -> None:
    """One process for both layouts, since importing costs more than loading. One is cold as stored, one converted."""
    for place, dtypes in ((single, ("auto", "float32")), (sharded, ("float32", "auto"))):
        for dtype in dtypes:
            transformers(place, source, dtype)


def sentences(place: str, source: str) -> None:
    """A real tokenizer and a real model, and what they are for."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    def embed(folder: str) -> torch.Tensor:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder).eval()
        batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
        with torch.no_grad():
            tokens = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=1)

    found = embed(place)
    assert torch.equal(found, embed(source))
    near, far = float(found[0] @ found[1]), float(found[0] @ found[2])
    assert near > 0.5, near
    assert far < 0.2, far


def safetensors(place: str, source: str) -> None:
    """Every tensor by safe_open, parts of them by get_slice, all at once by load_file."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    expected = load_file(source)
    with safe_open(place, "pt") as file:
        same_tensors({name: file.get_tensor(name) for name in file.keys()}, expected)  # noqa: SIM118
        for name, tensor in expected.items():
            half = tensor.shape[0] // 2
            assert torch.equal(file.get_slice(name)[half:], tensor[half:]), name
    same_tensors(load_file(place), expected)


def one_tensor(place: str, source: str, name: str) -> None:
    """One tensor and no byte more than that takes."""
    import torch
    from safetensors import safe_open

    with safe_open(place, "pt") as here, safe_open(source, "pt") as there:
        found, expected = here.get_tensor(name), there.get_tensor(name)
        assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8)), name  # random bytes hold NaNs


def one_slice(place: str, source: str, name: str, start: str, stop: str) -> None:
    """Some rows of one tensor."""
    import torch
    from safetensors import safe_open

    rows = slice(int(start), int(stop))
    with safe_open(place, "pt") as here, safe_open(source, "pt") as there:
        found, expected = here.get_slice(name)[rows], there.get_slice(name)[rows]
        assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8)), name


def diffusers(place: str, source: str) -> None:
    """A component by its folder, in both dtypes people use."""
    import torch
    from diffusers import AutoencoderKL

    made: Any = AutoencoderKL  # has no types
    for dtype in (torch.float32, torch.float16):
        found, expected = (
            made.from_pretrained(folder, subfolder="vae", torch_dtype=dtype) for folder in (place, source)
        )
        same_tensors(found.state_dict(), expected.state_dict())


def torch_load(place: str, source: str) -> None:
    """As transformers reads pickles: mapped; and read into memory."""
    import torch

    expected = torch.load(source, weights_only=True)
    same_tensors(torch.load(place, mmap=True, weights_only=True), expected)
    same_tensors(torch.load(place, weights_only=True), expected)


def gguf(place: str, source: str) -> None:
    import numpy
    from gguf import GGUFReader

    found, expected = GGUFReader(place), GGUFReader(source)
    assert len(expected.tensors) == len(found.tensors) > 1
    for mine, theirs in zip(reversed(found.tensors), reversed(expected.tensors), strict=True):
        assert mine.name == theirs.name
        assert numpy.array_equal(mine.data, theirs.data), mine.name


def datasets(place: str, source: str) -> None:
    """Streamed, and as a whole (which copies it to HF_HOME); compared with the parquet file itself."""
    from datasets import load_dataset
    from pyarrow import parquet

    expected = parquet.read_table(f"{source}/data/train-00000-of-00001.parquet").to_pylist()
    assert list(load_dataset(place, split="train", streaming=True)) == expected
    assert load_dataset(place, split="train").to_list() == expected


def parquet_column(place: str, source: str, group: str, column: str, memory_map: str) -> None:
    """One column of one row group."""
    from pyarrow import parquet

    found, expected = (
        parquet.ParquetFile(path, memory_map=memory_map == "mapped").read_row_group(int(group), columns=[column])
        for path in (place, source)
    )
    assert found.num_rows > 0
    assert found.equals(expected)


LOADERS: dict[str, Callable[..., Any]] = {
    loader.__name__: loader
    for loader in (
        transformers, transformers_kinds, sentences, safetensors, one_tensor, one_slice, diffusers, torch_load, gguf,
        datasets, parquet_column,
    )
}  # fmt: skip


def main(loader: str, *arguments: str) -> None:
    LOADERS[loader](*arguments)


if __name__ == "__main__":
    assert Path(sys.argv[2]).exists(), sys.argv[2]
    main(*sys.argv[1:])
