"""Configuration files: which are read, their precedence, and the errors for wrong ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hffs import config
from hffs.config import Origin, files
from hffs.errors import HffsError, NotFound, UsageError

ENV = {"HOME": "/nohome"}


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "SYSTEM", str(tmp_path / "etc"))
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


@pytest.fixture
def user(system: Path, tmp_path: Path) -> Path:
    """The user's configuration directory, for HOME set to tmp_path."""
    folder = tmp_path / ".config" / "hffs"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own.toml"


def resolve(file: Path, text: str) -> config.ResolvedSettings:
    file.write_text(text)
    return config.resolve({"config": str(file)}, ENV)


def test_later_files_override_earlier_ones_then_environment_then_flags(
    system: Path, user: Path, file: Path, tmp_path: Path
) -> None:
    (system / "hffs.toml").write_text(
        'workers = 2\nbig-file = 1000\nfetch-size = 1000\nprefetch = "none"\nmin-free = 5\n'
    )
    (user / "hffs.toml").write_text("big-file = 2000\nfetch-size = 2000\nmin-free = 6\nworkers = 3\n")
    file.write_text("fetch-size = 3000\nmin-free = 7\nworkers = 4\n")
    env = {"HOME": str(tmp_path), "HFFS_CONFIG": str(file), "HFFS_MIN_FREE": "8", "HFFS_WORKERS": "5"}
    resolved = config.resolve({"workers": 6}, env)
    settings = resolved.settings
    assert (settings.prefetch, settings.big_file, settings.fetch_size) == ("none", 2000, 3000)
    assert (settings.min_free, settings.workers) == (8, 6)
    assert {name: resolved.origins[name] for name in ("prefetch", "big_file", "fetch_size", "min_free", "workers")} == {
        "prefetch": Origin("file", f"{system}/hffs.toml:4"),
        "big_file": Origin("file", f"{user}/hffs.toml:1"),
        "fetch_size": Origin("file", f"{file}:1"),
        "min_free": Origin("environment", "HFFS_MIN_FREE"),
        "workers": Origin("flag", "--workers"),
    }
    assert resolved.origins["binding"] == Origin("default")
    assert [path for path, there in resolved.files if there] == [f"{system}/hffs.toml", f"{user}/hffs.toml", str(file)]


def test_variables_of_huggingface_hub_override_files(file: Path) -> None:
    file.write_text('endpoint = "http://file"\nhf-cache = "/file"\noffline = false\n')
    env = {**ENV, "HF_ENDPOINT": "http://env", "HF_HUB_CACHE": "/env", "HF_HUB_OFFLINE": "1"}
    resolved = config.resolve({"config": str(file)}, env)
    found = resolved.settings
    assert (found.endpoint, found.hf_cache, found.offline) == ("http://env", "/env", True)
    names = {name: resolved.origins[name].where for name in ("endpoint", "hf_cache", "offline")}
    assert names == {"endpoint": "HF_ENDPOINT", "hf_cache": "HF_HUB_CACHE", "offline": "HF_HUB_OFFLINE"}
    plain = config.load({"config": str(file)}, ENV)
    assert (plain.endpoint, plain.hf_cache, plain.offline) == ("http://file", "/file", False)


def test_values_are_text_as_on_the_command_line_or_toml_values(file: Path) -> None:
    text = """
    cache-size = "1.5G"        # as on the command line
    min_free = 4096            # a number is bytes; underscores are dashes
    read-timeout = "5m"
    probe-seconds = 2.5
    offline = true
    allow-other = "yes"
    include = ["*.json", "a b.txt"]
    exclude = "*.bin"
    hf-cache = "none"
    """
    found = resolve(file, text).settings
    assert (found.cache_size, found.min_free, found.read_timeout, found.probe_seconds) == (3 << 29, 4096, 300, 2.5)
    assert (found.offline, found.allow_other, found.hf_cache) == (True, True, "")
    assert (found.include, found.exclude) == (("*.json", "a b.txt"), ("*.bin",))


def test_relative_paths_start_at_the_directory_of_their_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = resolve(file, 'cache-dir = "blocks"\nlog-file = "~/log"\ntoken-file = "/t"\nruntime-dir = "../r"').settings
    assert (found.cache_dir, found.log_file) == (f"{tmp_path}/blocks", "/home/me/log")
    assert (found.token_file, found.runtime_dir) == ("/t", f"{tmp_path.parent}/r")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\nchache-size = 5", ":2: no such setting: chache-size: did you mean cache-size?"),
        ('token = "hf_secret"', ":1: no such setting: token: did you mean token-file?"),
        ("zzz = 1", ":1: no such setting: zzz: hffs config lists all settings"),
        ("[mount]\nworkers = 3", ":1: no such setting: mount: hffs has no sections"),
        ("[workers]\na = 3", ":1: workers: a section is not a number or text"),
        ('workers = "many"', ":1: workers: 'many' is not a number of at least 1"),
        ("workers = true", ":1: workers: true is not a number or text"),
        ("workers = 0", ":1: workers: '0' is not a number of at least 1"),
        ("# comment\n'cache-size' = '5 apples'", ":2: cache-size: '5 apples' is not a size: write it like"),
        ("cache-size = 0", ":1: cache-size: '0' is zero"),
        ("min-free = -1", ":1: min-free: '-1' is not a size"),
        ("offline = 2", ":1: offline: 2 is not true or false"),
        ("cache-dir = 5", ":1: cache-dir: 5 is not quoted text"),
        ("read-timeout = 2026-01-01", ":1: read-timeout: .* is not a number or text"),
        ("include = [1]", r":1: include: \[1\] is not a list of patterns"),
        ('binding = "fast"', ":1: binding: 'fast' is not one of auto, kernel, libfuse"),
        ("cache_size = 5\ncache-size = 6", ":2: cache_size and cache-size are the same setting"),
        ("workers =", "is not valid TOML: Invalid value"),
        ('repo = "a/b"', ":1: repo describes a single mount: write it into .*/NAME.toml"),
        ('endpoint = "huggingface.co"', "not an http"),
    ],
)
def test_an_error_names_file_line_and_key(file: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        resolve(file, text)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_named_file_must_exist_and_none_reads_no_file(user: Path, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    with pytest.raises(NotFound, match=r"/nowhere\.toml does not exist"):
        config.load({}, {**env, "HFFS_CONFIG": "/nowhere.toml"})
    (user / "hffs.toml").write_text("workers = 3")
    assert config.load({}, env).workers == 3
    assert config.resolve({"config": "none"}, env).files == ()
    assert config.load({"config": "none"}, env).workers is None
    assert config.load({"config": "none"}, {**env, "HFFS_CONFIG": "/nowhere.toml"}).workers is None


def test_an_unreadable_file_is_named(user: Path, tmp_path: Path) -> None:
    (user / "hffs.toml").mkdir()
    with pytest.raises(HffsError, match=r"cannot read .*hffs\.toml \(Is a directory\)"):
        config.load({}, {"HOME": str(tmp_path)})
    (user / "hffs.toml").rmdir()
    (user / "hffs.toml").write_bytes(b"workers = 3 # \xff")
    with pytest.raises(UsageError, match=r"hffs\.toml is not UTF-8 text \(at byte 14\)"):
        config.load({}, {"HOME": str(tmp_path)})
    with open(user / "hffs.toml", "wb") as file:
        os.truncate(file.fileno(), 2**21)
    with pytest.raises(UsageError, match="too large"):
        config.load({}, {"HOME": str(tmp_path)})


def test_the_file_of_a_mount_overrides_the_other_files(system: Path, user: Path, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    (user / "hffs.toml").write_text("workers = 3\nbig-file = 1000")
    (system / "mnt-model.toml").write_text('repo = "acme/tiny"\nmountpoint = "/mnt/model"\nworkers = 4\n')
    resolved = config.resolve({}, env, mount="mnt-model")
    assert resolved.mount_keys == {"repo": "acme/tiny", "mountpoint": "/mnt/model"}
    assert (resolved.settings.workers, resolved.settings.big_file) == (4, 1000)
    (user / "mnt-model.toml").write_text('repo = "acme/other"\n')
    assert config.resolve({}, env, mount="mnt-model").mount_keys == {"repo": "acme/other"}
    with pytest.raises(NotFound, match=r"there is neither .*/hffs/absent\.toml nor .*/etc/absent\.toml"):
        config.resolve({}, env, mount="absent")
    (user / "bad.toml").write_text("repo = 5")
    with pytest.raises(UsageError, match=r"bad\.toml:1: repo: 5 is not quoted text"):
        config.resolve({}, env, mount="bad")


@pytest.mark.parametrize("name", ["", "hffs", "../x", "a/b", ".hidden", "nul\0"])
def test_an_invalid_name_of_a_mount_file_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a mount's file"):
        config.resolve({}, ENV, mount=name)


def test_root_uses_run_hffs_even_in_a_login_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert config.load({}, {**ENV, "XDG_RUNTIME_DIR": "/run/user/0"}).runtime_dir == "/run/hffs"
    assert config.load({}, ENV).runtime_dir == "/run/hffs"
    assert config.load({}, {**ENV, "XDG_RUNTIME_DIR": "/run/user/1000"}).runtime_dir == "/run/user/1000/hffs"


@pytest.mark.parametrize(
    "value",
    [
        "9" * 5000,
        "0x" + "f" * 4000,
        "[" * 3000 + "]" * 3000,
        "{a=" * 200 + "1" + "}" * 200,
        '"~\\u0000"',
        '["\\u0000"]',
        "1e999",
    ],
    ids=lambda value: value[:8],
)
@pytest.mark.parametrize("name", ["cache-dir", "cache-size", "include", "offline", "read-timeout", "repo"])
def test_absurd_toml_values_are_refused_in_one_line(user: Path, tmp_path: Path, name: str, value: str) -> None:
    (user / "tiny.toml").write_text(f"{name} = {value}")
    with pytest.raises(UsageError) as refused:
        config.resolve({}, {"HOME": str(tmp_path)}, mount="tiny")
    assert len(refused.value.what) < 500


def test_a_very_long_key_is_cut_in_the_error(user: Path, tmp_path: Path) -> None:
    (user / "hffs.toml").write_text("x" * 5000 + " = 1")
    with pytest.raises(UsageError, match=r"hffs\.toml:1: no such setting: x{100}…: hffs config"):
        config.load({}, {"HOME": str(tmp_path)})


def test_a_file_of_50000_keys_is_refused_quickly(user: Path, tmp_path: Path) -> None:
    (user / "hffs.toml").write_text("\n".join(f"key-{number} = 1" for number in range(50_000)))
    with pytest.raises(UsageError, match=r"hffs\.toml:1: no such setting: key-0"):
        config.load({}, {"HOME": str(tmp_path)})
