"""Configuration files, their names, mount options and values of settings, all written by hand."""

from __future__ import annotations

import math
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import strategies as st

from hffs import config
from hffs.cli import mount_helper
from hffs.config import files
from hffs.daemon.mount_spec import MountSpec
from hffs.errors import HffsError, NotFound, UsageError

from .mutations import MISFITS, broken, broken_text, fuzzed

GENERAL = b"""# of this machine
cache-dir = "/var/cache/hffs"   # a big disk
cache-size = "500G"
min_free = 1073741824
read-timeout = 1.5
offline = false
include = ["*.json", '*.txt']
prefetch = "small"
log-file = "~/hffs.log"
token-file = \"\"\"token\"\"\"
"""
OF_A_MOUNT = b"""repo = "acme/tiny@main"
mountpoint = "/mnt/\\u00e9"
type = "model"
"hf-cache" = "none"
workers = 0x10
[section]
a.b = {c = [1, {d = 1979-05-27T07:32:00Z}]}
"""
NAMES = ["repo", "mountpoint", "type", "revision", "subfolder"]


def misfits(*keys: str) -> st.SearchStrategy[bytes]:
    """Files in which one to three keys have values of a wrong kind."""
    lines = st.lists(st.tuples(st.sampled_from(keys), st.sampled_from(MISFITS)), min_size=1, max_size=3)
    return lines.map(lambda pairs: "\n".join(f"{key} = {value}" for key, value in pairs).encode())


VALUES = [
    "4M",
    "1.5G",
    "120",
    "30s",
    "yes",
    "small",
    "auto",
    "info",
    "a b,c",
    "~/x",
    "none",
    "https://hub.example/",
    "3",
]
OPTIONS = [
    "rw,noexec,_netdev,x-systemd.automount,revision=main,cache-size=50G,include=*.json",
    'ro,defaults,allow_other,exclude="*.bin,*.pt",read_timeout=30s,config=/etc/a.toml,type=dataset',
    "defaults",
]


@pytest.fixture(autouse=True)
def _no_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hides the configuration of this machine."""
    monkeypatch.setattr(files, "SYSTEM", str(tmp_path / "etc"))


def usable(settings: config.Settings) -> None:
    """Asserts that each number fits a clock, a wait and a screen, and each path the system."""
    for value in asdict(settings).values():
        if isinstance(value, float):
            assert math.isfinite(value)
            assert value < threading.TIMEOUT_MAX
        if isinstance(value, str):
            assert "\0" not in value
        assert len(str(value)) < 1 << 20


def test_configuration_files(tmp_path: Path) -> None:
    folder = tmp_path / "hffs"
    folder.mkdir()
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}

    @fuzzed(broken([GENERAL]) | misfits(*config.SETTINGS), broken([OF_A_MOUNT, b""]) | misfits(*NAMES, "workers"))
    def run(general: bytes, of_mount: bytes) -> None:
        (folder / "hffs.toml").write_bytes(general)
        (folder / "tiny.toml").write_bytes(of_mount)
        for mount in (None, "tiny"):
            try:
                found = config.resolve({}, environ, mount)
            except UsageError as wrong:
                assert len(wrong.what) < 2000
                continue
            usable(found.settings)
            assert all(value and "\0" not in value for value in found.mount_keys.values())
            assert MountSpec.from_json(MountSpec("a/b", "/m", found.settings).to_json()).settings == found.settings

    run()


@fuzzed(st.sampled_from(sorted(config.SETTINGS)), broken_text(VALUES))
def test_values_of_settings(name: str, text: str) -> None:
    try:
        found = config.load({}, {"HOME": "/home/x", f"HFFS_{name.upper()}": text.replace("\0", "")})
    except UsageError as wrong:
        assert f"HFFS_{name.upper()}" in wrong.what or name == "endpoint"
        return
    usable(found)


@fuzzed(broken_text(["tiny", "../tiny", "hffs", "x" * 250]))
def test_names_of_the_files_of_mounts(name: str) -> None:
    try:
        file = files.mount_file(name, {"HOME": "/home/x"})
    except (UsageError, NotFound):
        return
    raise AssertionError(f"found {file}")


@fuzzed(broken_text(OPTIONS), st.booleans())
def test_options_of_mounts(text: str, sloppy: bool) -> None:
    try:
        options = mount_helper.parse(text, sloppy=sloppy)
        usable(config.load(options.settings, {"HOME": "/home/x", "HFFS_CONFIG": "none"}))
    except HffsError as wrong:
        assert isinstance(wrong, UsageError | NotFound) or wrong.what.startswith("cannot read")
        return
    assert set(options.names) <= {"type", "revision", "subfolder"}


@fuzzed(broken_text([MountSpec("acme/tiny", "/mnt/model", config.Settings(cache_dir="/c")).to_json()]))
def test_mount_specs(text: str) -> None:
    try:
        spec = MountSpec.from_json(text)
    except UsageError:
        return
    assert isinstance(spec.repo, str)
