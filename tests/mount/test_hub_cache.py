"""A mount beside huggingface_hub's cache: what was downloaded there is read without the Hub, and is left as it was."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.hub import Hub, Repo, Synthetic
from tests.unit.cache.test_adopt import tree

from .conftest import Mount
from .models import Samples
from .mounted import Commands, eventually, forget_pages, program

WEIGHTS = Synthetic(3_000_000, seed=5)
BIG = Synthetic(24 << 20, seed=6)  # beyond what is hashed when it is opened
FILES = {"config.json": b'{"a": 1}\n' * 100, "model.safetensors": WEIGHTS, "sub dir/ä.txt": b"odd"}


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.add_repo("acme/tiny", files={**FILES, "big.safetensors": BIG})


@pytest.fixture
def hf_cache(commands: Commands) -> Path:
    return Path(commands.environment["HF_HOME"]) / "hub"


def download(hub: Hub, commands: Commands, *words: str) -> None:
    """As `hf download` does it, into the cache of the test's own home."""
    call = "from huggingface_hub.cli.hf import main; main()"
    program(sys.executable, "-c", call, "download", "acme/tiny", *words, env=commands.environment)
    hub.journal.clear()


def fetched(hub: Hub) -> list[str]:
    return [str(record.file) for kind in ("resolve", "resolve-cache", "cdn") for record in hub.journal.requests(kind)]


def test_a_mount_reads_what_was_downloaded_and_asks_for_none_of_it(
    hub: Hub, repo: Repo, mount: Mount, commands: Commands, hf_cache: Path
) -> None:
    download(hub, commands)
    before = tree(hf_cache)
    mounted = mount("acme/tiny")
    total = sum(len(each) if isinstance(each, bytes) else each.size for each in (*FILES.values(), BIG))
    assert eventually(lambda: int(mounted.status()["bytes_local"]) == total, 30), mounted.status()
    for name, each in FILES.items():
        assert (mounted / name).read_bytes() == (each if isinstance(each, bytes) else each.read(0, each.size))
    assert (mounted / "big.safetensors").read_bytes() == BIG.read(0, BIG.size)
    assert fetched(hub) == []
    assert mounted.status()["verification"]["verified"] == len(FILES) + 1
    mounted.unmount()
    assert tree(hf_cache) == before


def test_a_big_file_that_is_read_meanwhile_goes_on_with_what_is_there(
    hub: Hub, repo: Repo, mount: Mount, commands: Commands, hf_cache: Path
) -> None:
    """Downloaded only after the mount was made: opening it is what has it looked for."""
    mounted = mount("acme/tiny", "--prefetch", "none")
    download(hub, commands)
    with (mounted / "big.safetensors").open("rb", buffering=0) as file:
        file.seek(20 << 20)
        assert file.read(100) == BIG.read(20 << 20, 100)
        assert eventually(lambda: "event=adopted" in mounted.log(), 30), mounted.log()
        hub.down()
        forget_pages(mounted / "big.safetensors")
        file.seek(0)
        assert b"".join(iter(lambda: file.read(1 << 20), b"")) == BIG.read(0, BIG.size)
        hub.up()


def test_what_is_deleted_there_is_fetched(
    hub: Hub, repo: Repo, mount: Mount, commands: Commands, hf_cache: Path
) -> None:
    download(hub, commands)
    mounted = mount("acme/tiny", "--prefetch", "none")
    assert (mounted / "model.safetensors").read_bytes() == WEIGHTS.read(0, WEIGHTS.size)
    assert fetched(hub) == []
    shutil.rmtree(hf_cache / "models--acme--tiny")
    forget_pages(mounted / "model.safetensors")
    assert (mounted / "model.safetensors").read_bytes() == WEIGHTS.read(0, WEIGHTS.size)
    forget_pages(mounted / "config.json")
    assert (mounted / "config.json").read_bytes() == FILES["config.json"]
    assert set(fetched(hub)) <= {"model.safetensors", "config.json"}


def test_hydrating_a_mount_fetches_nothing_of_it(
    hub: Hub, repo: Repo, mount: Mount, commands: Commands, hf_cache: Path
) -> None:
    download(hub, commands)
    mounted = mount("acme/tiny", "--prefetch", "none")
    output = commands.expect("hydrate", str(mounted.path))
    assert output.rstrip().endswith("verified; nothing was fetched"), output
    assert fetched(hub) == []


def test_a_cache_below_the_mountpoint_is_not_looked_into(
    hub: Hub, repo: Repo, mount: Mount, commands: Commands, tmp_path: Path
) -> None:
    """Its daemon would ask itself, and hear nothing."""
    commands.environment["HF_HUB_CACHE"] = str(tmp_path / "mnt" / "0" / "hub")
    mounted = mount("acme/tiny", "--prefetch", "none")
    assert (mounted / "config.json").read_bytes() == FILES["config.json"]
    assert (mounted / "model.safetensors").read_bytes() == WEIGHTS.read(0, WEIGHTS.size)


OFFLINE = """
import os, sys
import torch
from huggingface_hub import scan_cache_dir
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.from_pretrained("acme/single")
model = AutoModelForCausalLM.from_pretrained("acme/single")
known = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert config.to_dict()["hidden_size"] == known.config.hidden_size
for name, tensor in known.state_dict().items():
    assert torch.equal(model.state_dict()[name], tensor), name
assert scan_cache_dir().warnings == []
"""


@pytest.mark.loaders
def test_an_export_is_loaded_offline_by_name(
    hub: Hub, commands: Commands, hf_cache: Path, samples: Samples, tmp_path: Path
) -> None:
    hub.add_repo("acme/single", files=samples.single)
    output = commands.expect("hydrate", "acme/single", "--to-hf-cache")
    assert "verified" in output
    before = tree(hf_cache)
    hub.down()
    environ = {**os.environ, **commands.environment, "HF_HUB_OFFLINE": "1"}
    program(sys.executable, "-c", OFFLINE, samples.single, env=environ)
    assert tree(hf_cache) == before
