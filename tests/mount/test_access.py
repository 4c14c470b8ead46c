"""What the Hub may refuse or say wrongly, and what a mount makes of it: an errno, or a name that is left out."""

from __future__ import annotations

import errno
import os

import pytest

from tests.hub import Hub, Match, faults

from .conftest import Mount
from .mounted import Commands, eventually, on_both_bindings

pytestmark = on_both_bindings

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000}
TOKEN = "hf_good"


@pytest.mark.allow_warnings
def test_a_gated_file_is_seen_but_may_not_be_read(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/gated", files=FILES, gated=True)
    mounted = mount("acme/gated", "--prefetch", "none")
    assert sorted(os.listdir(mounted.path)) == sorted(FILES)
    for path, data in FILES.items():
        assert os.stat(mounted / path).st_size == len(data)
        with pytest.raises(OSError) as refused:
            (mounted / path).read_bytes()
        assert refused.value.errno == errno.EACCES


def test_a_token_opens_gated_and_private_repos_and_reaches_only_the_hub(
    hub: Hub, mount: Mount, commands: Commands
) -> None:
    hub.add_repo("acme/gated", files=FILES, gated=True).grant("alice")
    hub.add_repo("acme/private", files=FILES, private=True)
    commands.environment["HF_TOKEN"] = TOKEN
    for repo in ("acme/gated", "acme/private"):
        mounted = mount(repo, "--log-level", "debug")
        for path, data in FILES.items():
            assert (mounted / path).read_bytes() == data
        assert TOKEN not in str(mounted.status())
        assert TOKEN not in mounted.log()
        signature = "Signature="
        assert signature not in mounted.log()
    assert not any(record.authorized for record in hub.journal.requests("cdn"))
    assert hub.journal.requests("cdn")


def test_a_private_repo_does_not_exist_for_others(hub: Hub, commands: Commands, mount: Mount) -> None:
    hub.add_repo("acme/private", files=FILES, private=True)
    with pytest.raises(AssertionError, match=r"hffs mount acme/private \S+: [34]\n"):
        mount("acme/private")


@pytest.mark.allow_warnings
def test_names_that_must_not_become_paths_are_left_out(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/tiny", files=FILES)
    hub.faults.add(Match(kind="tree"), faults.listed())
    mounted = mount("acme/tiny")
    for _, folders, files in os.walk(mounted.path):
        for name in folders + files:
            assert name not in ("", ".", "..")
            assert "/" not in name
            assert "\0" not in name
    assert (mounted / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not (mounted / "etc").exists()
    assert not (mounted / "escape").exists()


def test_a_refused_connection_or_two_is_not_seen_by_a_reader(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/tiny", files=FILES)
    mounted = mount("acme/tiny", "--prefetch", "none")
    hub.faults.add(Match(kind="cdn", count=2), faults.unavailable())
    assert (mounted / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert eventually(lambda: mounted.status()["state"] == "serving", 10)
