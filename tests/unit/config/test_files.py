"""Files of settings: which are read, which counts, and what is refused with words to act on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hffs import config
from hffs.config import Origin, files
from hffs.errors import HffsError, NotFound, UsageError

ENV = {"HOME": "/nobody"}


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "SYSTEM", str(tmp_path / "etc"))
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


@pytest.fixture
def user(system: Path, tmp_path: Path) -> Path:
    """The user's folder; HOME for it is the test's folder."""
    folder = tmp_path / ".config" / "hffs"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own.toml"


def decide(file: Path, text: str) -> config.ResolvedSettings:
    file.write_text(text)
    return config.decide({"config": str(file)}, ENV)


def test_each_place_counts_before_the_one_before_it_and_environment_and_flags_before_all(
    system: Path, user: Path, file: Path, tmp_path: Path
) -> None:
    (system / "hffs.toml").write_text(
        'workers = 2\nbig-file = 1000\nfetch-size = 1000\nprefetch = "none"\nmin-free = 5\n'
    )
    (user / "hffs.toml").write_text("big-file = 2000\nfetch-size = 2000\nmin-free = 6\nworkers = 3\n")
    file.write_text("fetch-size = 3000\nmin-free = 7\nworkers = 4\n")
    env = {"HOME": str(tmp_path), "HFFS_CONFIG": str(file), "HFFS_MIN_FREE": "8", "HFFS_WORKERS": "5"}
    decided = config.decide({"workers": 6}, env)
    settings = decided.settings
    assert (settings.prefetch, settings.big_file, settings.fetch_size) == ("none", 2000, 3000)
    assert (settings.min_free, settings.workers) == (8, 6)
    assert {name: decided.origins[name] for name in ("prefetch", "big_file", "fetch_size", "min_free", "workers")} == {
        "prefetch": Origin("file", f"{system}/hffs.toml:4"),
        "big_file": Origin("file", f"{user}/hffs.toml:1"),
        "fetch_size": Origin("file", f"{file}:1"),
        "min_free": Origin("environment", "HFFS_MIN_FREE"),
        "workers": Origin("flag", "--workers"),
    }
    assert decided.origins["binding"] == Origin("default")
    assert [path for path, there in decided.files if there] == [f"{system}/hffs.toml", f"{user}/hffs.toml", str(file)]


def test_the_variables_of_huggingface_hub_count_before_files_too(file: Path) -> None:
    file.write_text('endpoint = "http://file"\nhf-cache = "/file"\noffline = false\n')
    env = {**ENV, "HF_ENDPOINT": "http://env", "HF_HUB_CACHE": "/env", "HF_HUB_OFFLINE": "1"}
    decided = config.decide({"config": str(file)}, env)
    found = decided.settings
    assert (found.endpoint, found.hf_cache, found.offline) == ("http://env", "/env", True)
    names = {name: decided.origins[name].where for name in ("endpoint", "hf_cache", "offline")}
    assert names == {"endpoint": "HF_ENDPOINT", "hf_cache": "HF_HUB_CACHE", "offline": "HF_HUB_OFFLINE"}
    plain = config.load({"config": str(file)}, ENV)
    assert (plain.endpoint, plain.hf_cache, plain.offline) == ("http://file", "/file", False)


def test_values_are_written_as_people_and_as_toml_do(file: Path) -> None:
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
    found = decide(file, text).settings
    assert (found.cache_size, found.min_free, found.read_timeout, found.probe_seconds) == (3 << 29, 4096, 300, 2.5)
    assert (found.offline, found.allow_other, found.hf_cache) == (True, True, "")
    assert (found.include, found.exclude) == (("*.json", "a b.txt"), ("*.bin",))


def test_paths_are_as_from_the_folder_of_their_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = decide(file, 'cache-dir = "blocks"\nlog-file = "~/log"\ntoken-file = "/t"\nruntime-dir = "../r"').settings
    assert (found.cache_dir, found.log_file) == (f"{tmp_path}/blocks", "/home/me/log")
    assert (found.token_file, found.runtime_dir) == ("/t", f"{tmp_path.parent}/r")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\nchache-size = 5", ":2: no such setting: chache-size: did you mean cache-size?"),
        ('token = "hf_secret"', ":1: no such setting: token: did you mean token-file?"),
        ("zzz = 1", ":1: no such setting: zzz: hffs config lists all settings"),
        ("[mount]\nworkers = 3", ":1: no such setting: mount: files of hffs have no sections"),
        ("[workers]\na = 3", ":1: workers: a section is no number or text"),
        ('workers = "many"', ":1: workers: 'many' is not a number of at least 1"),
        ("workers = true", ":1: workers: true is no number or text"),
        ("workers = 0", ":1: workers: '0' is not a number of at least 1"),
        ("# comment\n'cache-size' = '5 apples'", ":2: cache-size: '5 apples' is not a size: write it like"),
        ("cache-size = 0", ":1: cache-size: '0' is nothing"),
        ("min-free = -1", ":1: min-free: '-1' is not a size"),
        ("offline = 2", ":1: offline: 2 is neither true nor false"),
        ("cache-dir = 5", ":1: cache-dir: 5 is no text in quotes"),
        ("read-timeout = 2026-01-01", ":1: read-timeout: .* is no number or text"),
        ("include = [1]", r":1: include: \[1\] is not a list of patterns"),
        ('binding = "fast"', ":1: binding: 'fast' is not one of auto, kernel, libfuse"),
        ("cache_size = 5\ncache-size = 6", ":2: cache_size and cache-size are the same setting"),
        ("workers =", "is no TOML: Invalid value"),
        ('repo = "a/b"', ":1: repo is of one mount: write it into .*/NAME.toml"),
        ('endpoint = "huggingface.co"', "no http"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_key(file: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as told:
        decide(file, text)
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_named_file_must_be_there_and_none_means_no_file_at_all(user: Path, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    with pytest.raises(NotFound, match=r"there is no /nowhere\.toml"):
        config.load({}, {**env, "HFFS_CONFIG": "/nowhere.toml"})
    (user / "hffs.toml").write_text("workers = 3")
    assert config.load({}, env).workers == 3
    assert config.decide({"config": "none"}, env).files == ()
    assert config.load({"config": "none"}, env).workers is None
    assert config.load({"config": "none"}, {**env, "HFFS_CONFIG": "/nowhere.toml"}).workers is None


def test_a_file_that_cannot_be_read_is_named(user: Path, tmp_path: Path) -> None:
    (user / "hffs.toml").mkdir()
    with pytest.raises(HffsError, match=r"hffs\.toml cannot be read \(Is a directory\)"):
        config.load({}, {"HOME": str(tmp_path)})
    (user / "hffs.toml").rmdir()
    (user / "hffs.toml").write_bytes(b"workers = 3 # \xff")
    with pytest.raises(UsageError, match=r"hffs\.toml is no text in UTF-8 \(at byte 14\)"):
        config.load({}, {"HOME": str(tmp_path)})
    with open(user / "hffs.toml", "wb") as file:
        os.truncate(file.fileno(), 2**21)
    with pytest.raises(UsageError, match="too big"):
        config.load({}, {"HOME": str(tmp_path)})


def test_the_file_of_a_mount_names_it_and_counts_last(system: Path, user: Path, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    (user / "hffs.toml").write_text("workers = 3\nbig-file = 1000")
    (system / "mnt-model.toml").write_text('repo = "acme/tiny"\nmountpoint = "/mnt/model"\nworkers = 4\n')
    decided = config.decide({}, env, mount="mnt-model")
    assert decided.naming == {"repo": "acme/tiny", "mountpoint": "/mnt/model"}
    assert (decided.settings.workers, decided.settings.big_file) == (4, 1000)
    (user / "mnt-model.toml").write_text('repo = "acme/other"\n')
    assert config.decide({}, env, mount="mnt-model").naming == {"repo": "acme/other"}
    with pytest.raises(NotFound, match=r"there is neither .*/hffs/absent\.toml nor .*/etc/absent\.toml"):
        config.decide({}, env, mount="absent")
    (user / "bad.toml").write_text("repo = 5")
    with pytest.raises(UsageError, match=r"bad\.toml:1: repo: 5 is no text in quotes"):
        config.decide({}, env, mount="bad")


@pytest.mark.parametrize("name", ["", "hffs", "../x", "a/b", ".hidden", "nul\0"])
def test_a_name_that_is_no_file_of_a_mount_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="names no file of a mount"):
        config.decide({}, ENV, mount=name)


def test_root_finds_its_mounts_where_services_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_what_toml_can_say_and_nobody_means_is_refused_in_a_line(
    user: Path, tmp_path: Path, name: str, value: str
) -> None:
    (user / "tiny.toml").write_text(f"{name} = {value}")
    with pytest.raises(UsageError) as refused:
        config.decide({}, {"HOME": str(tmp_path)}, mount="tiny")
    assert len(refused.value.what) < 500


def test_a_key_of_thousands_of_letters_is_not_told_whole(user: Path, tmp_path: Path) -> None:
    (user / "hffs.toml").write_text("x" * 5000 + " = 1")
    with pytest.raises(UsageError, match=r"hffs\.toml:1: no such setting: x{100}…: hffs config"):
        config.load({}, {"HOME": str(tmp_path)})


def test_a_file_of_many_keys_is_read_in_no_time(user: Path, tmp_path: Path) -> None:
    (user / "hffs.toml").write_text("\n".join(f"key-{number} = 1" for number in range(50_000)))
    with pytest.raises(UsageError, match=r"hffs\.toml:1: no such setting: key-0"):
        config.load({}, {"HOME": str(tmp_path)})
