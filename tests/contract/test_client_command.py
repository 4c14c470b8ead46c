"""The `hf` command as users run it, and our own `scripts/hub`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.sample import CONFIG, WEIGHTS
from tests.hub import Hub, Repo

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]


def test_download_then_verify_then_notice_damage(hub: Hub, repo: Repo, hf: Run) -> None:
    done = hf("download", "acme/tiny", "--quiet", HF_TOKEN="hf_good")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert (folder / "config.json").read_bytes() == CONFIG
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS.read(0, WEIGHTS.size)
    assert hub.journal.requests("cdn")
    assert not any(r.authorized for r in hub.journal.requests("cdn"))
    assert all(r.token == "hf_good" for r in hub.journal.requests("resolve"))

    good = hf("cache", "verify", "acme/tiny")
    assert good.returncode == 0, good.stdout + good.stderr
    (folder / "sub" / "a.bin").resolve().write_bytes(b"124")
    bad = hf("cache", "verify", "acme/tiny")
    assert bad.returncode != 0
    assert "sub/a.bin" in bad.stdout + bad.stderr


def test_missing_repo_is_told_in_words(hf: Run) -> None:
    done = hf("download", "acme/none")
    assert done.returncode == 1
    assert "acme/none" in done.stderr


def serve(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "scripts" / "hub"), "serve", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "sub" / "a.bin").write_bytes(b"123")
    return folder


def test_served_folder_is_a_repo(folder: Path, tmp_path: Path) -> None:
    port_file, journal = tmp_path / "port", tmp_path / "journal"
    options = ("--port-file", str(port_file), "--journal", str(journal), "--control", "--max-seconds", "60")
    with serve(f"acme/tiny={folder}", f"acme/other={folder}", *options) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        assert port_file.read_text().strip() == endpoint
        with urllib.request.urlopen(f"{endpoint}/acme/other/resolve/main/sub/a.bin", timeout=10) as answer:
            assert answer.read() == b"123"
        with urllib.request.urlopen(f"{endpoint}/-/journal", timeout=10) as answer:
            seen = json.load(answer)
        assert seen["requests_by_kind"] == {"resolve": 1, "cdn": 1}
        assert seen["bytes_by_kind"]["cdn"] == 3
        process.terminate()
        assert process.wait(timeout=10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert not port_file.exists()
    assert [json.loads(line)["kind"] for line in journal.read_text().splitlines()] == ["resolve", "cdn"]


def test_server_ends_with_its_parent(folder: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with serve(str(folder), "--parent-pid", str(parent.pid), "--max-seconds", "60") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        assert process.poll() is None
        parent.communicate(timeout=10)
        assert process.wait(timeout=10) == 0


def test_server_ends_by_itself(folder: Path) -> None:
    with serve(str(folder), "--max-seconds", "0.1", "--parent-pid", str(os.getpid())) as process:
        assert process.wait(timeout=10) == 0


def test_no_folder_is_said_in_one_line(tmp_path: Path) -> None:
    with serve(str(tmp_path / "none")) as process:
        _, error = process.communicate(timeout=10)
    assert process.returncode == 2
    assert error.splitlines() == [f"hub: no such folder: {tmp_path / 'none'}"]
