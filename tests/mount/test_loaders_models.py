"""Models loaded from a cold mount by the libraries people use; each must find what it finds in the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub import Hub

from .conftest import Mount
from .models import Samples, minilm
from .mounted import load, on_both_bindings

pytestmark = pytest.mark.loaders


def size_of(*folders: Path) -> int:
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def fetched(hub: Hub) -> int:
    """Bytes of file content that left the Hub."""
    return sum(hub.journal.bytes_sent(kind) for kind in ("cdn", "resolve", "resolve-cache"))


def test_transformers_loads_a_single_file_and_shards_tensor_for_tensor(
    hub: Hub, mount: Mount, samples: Samples
) -> None:
    hub.add_repo("acme/single", files=samples.single)
    hub.add_repo("acme/sharded", files=samples.sharded)
    single, sharded = mount("acme/single"), mount("acme/sharded")
    load("transformers_kinds", single.path, sharded.path, samples.single)
    shards = sorted(path.name for path in samples.sharded.glob("model-*.safetensors"))
    for repo, names in (("acme/single", ["model.safetensors"]), ("acme/sharded", shards)):
        asked = sorted(str(record.file) for record in hub.journal.requests("resolve", repo=repo, status=302))
        assert asked == names, "each weight file's address is asked for once"
    assert fetched(hub) <= size_of(samples.single, samples.sharded), "bytes were fetched twice"


def test_the_real_minilm_understands_sentences_as_it_does_locally(hub: Hub, mount: Mount) -> None:
    hub.add_repo("sentence-transformers/all-MiniLM-L6-v2", files=minilm())
    mounted = mount("sentence-transformers/all-MiniLM-L6-v2")
    load("sentences", mounted.path, minilm())
    assert fetched(hub) <= size_of(minilm()), "bytes were fetched twice"


def test_safetensors_gives_every_tensor_and_every_slice(hub: Hub, mount: Mount, samples: Samples) -> None:
    hub.add_repo("acme/single", files=samples.single)
    mounted = mount("acme/single", "--prefetch", "none")
    load("safetensors", mounted / "model.safetensors", samples.single / "model.safetensors")
    assert fetched(hub) <= size_of(samples.single), "bytes were fetched twice"


def test_diffusers_loads_a_component_from_its_folder(hub: Hub, mount: Mount, samples: Samples) -> None:
    hub.add_repo("acme/pipeline", files=samples.pipeline)
    load("diffusers", mount("acme/pipeline").path, samples.pipeline)


def test_torch_load_maps_a_pickle_and_reads_it_whole(hub: Hub, mount: Mount, samples: Samples) -> None:
    hub.add_repo("acme/pickled", files=samples.pickled)
    name = "pytorch_model.bin"
    load("torch_load", mount("acme/pickled") / name, samples.pickled / name)


@on_both_bindings
def test_gguf_reads_tensors_from_the_last_to_the_first(hub: Hub, mount: Mount, samples: Samples) -> None:
    hub.add_repo("acme/gguf", files=samples.gguf)
    load("gguf", mount("acme/gguf") / "model.gguf", samples.gguf / "model.gguf")
