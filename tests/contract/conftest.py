"""A hub, and the real client kept to it: no token, cache or network but what a test gives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants
from tqdm import tqdm

from tests.contract.sample import FILES
from tests.hub import Hub, Repo

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def private_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Replaces the client's constants, which it read from the caller's environment at import."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # else a thread of its own stays behind
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub
        assert hub.errors == []


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.add_repo("acme/tiny", files=FILES)


@pytest.fixture
def api(hub: Hub) -> HfApi:
    """A client without a token."""
    return HfApi(endpoint=hub.endpoint, token=False)


@pytest.fixture
def alice(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token="hf_good")


@pytest.fixture
def hf(hub: Hub, tmp_path: Path) -> Run:
    """Runs the `hf` command against the hub, in a home of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        ours = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HOME": str(tmp_path),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        command = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()", *arguments]
        return subprocess.run(command, env={**kept, **ours, **environment}, capture_output=True, text=True, timeout=60)

    return run
