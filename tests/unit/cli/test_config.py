"""``hffs config`` and ``--config``: values, their origins, and no secret."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "c"
    (folder / "hffs").mkdir(parents=True)
    (folder / "hffs" / "hffs.toml").write_text('cache-size = "50G"\n')
    (folder / "hffs" / "mnt-model.toml").write_text('repo = "acme/tiny"\nworkers = 2\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.setenv("HFFS_ENDPOINT", "http://me:hidden@mirror.example")
    monkeypatch.setenv("HF_TOKEN", "hf_hidden")
    monkeypatch.setenv("HFFS_RUNTIME_DIR", "/r")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/alice/.cache")
    monkeypatch.delenv("HF_HOME")


def test_each_setting_is_shown_with_its_origin_in_80_columns(hffs: Run, tmp_path: Path) -> None:
    shown = hffs("config", "--bandwidth", "20M")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.stdout.splitlines() if line}
    assert lines["SETTING"].split() == ["VALUE", "FROM"]
    assert lines["cache-size"].split() == ["50.0G", f"{tmp_path}/c/hffs/hffs.toml:1"]
    assert lines["bandwidth"].split() == ["20.0M/s", "--bandwidth"]
    assert lines["endpoint"].split() == ["http://…@mirror.example", "HFFS_ENDPOINT"]
    assert lines["exclude"].split() == ["nothing", "default"]
    assert lines[f"{tmp_path}/c/hffs/hffs.toml:"] == "read"
    assert lines["/etc/hffs/hffs.toml:"] == "does not exist"
    assert "hidden" not in shown.stdout
    short = [line for line in shown.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, short)) <= 80


def test_json_has_values_origins_and_files(hffs: Run, tmp_path: Path) -> None:
    shown = hffs("config", "@mnt-model", "--json")
    assert "hidden" not in shown.stdout
    output = json.loads(shown.stdout)
    settings = {each.pop("name"): each for each in output["settings"]}
    file = f"{tmp_path}/c/hffs/hffs.toml:1"
    assert settings["cache-size"] == {"value": 50 * 2**30, "origin": "file", "where": file}
    assert settings["workers"] == {"value": 2, "origin": "file", "where": f"{tmp_path}/c/hffs/mnt-model.toml:2"}
    assert settings["binding"] == {"value": "auto", "origin": "default", "where": ""}
    assert output["mount"] == {"repo": "acme/tiny"}


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--config", "/nowhere", "status"], 3, "hffs: /nowhere does not exist: name an existing file, or none\n"),
        (["status", "--config", "/nowhere"], 3, "hffs: /nowhere does not exist: name an existing file, or none\n"),
        (["config", "mnt-model"], 2, "hffs: 'mnt-model' is not the name of a mount's file: write @NAME\n"),
        (
            ["mount", "@mnt-model"],
            2,
            "hffs: no mountpoint is named: name an empty directory after REPO, see hffs mount --help\n",
        ),
        (
            ["mount", "acme/tiny"],
            2,
            "hffs: no mountpoint is named: name an empty directory after REPO, see hffs mount --help\n",
        ),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(hffs: Run, words: list[str], code: int, expected: str) -> None:
    done = hffs(*words)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", expected)


def test_config_none_reads_no_file(hffs: Run) -> None:
    output = json.loads(hffs("config", "--config", "none", "--json").stdout)
    assert output["files"] == []
    assert {each["origin"] for each in output["settings"]} == {"default", "environment"}
