"""Settings: precedence of their sources, parsing of values, and the errors for wrong ones."""

from __future__ import annotations

import pytest

from hffs import config
from hffs.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4M", 4 << 20), ("4MiB", 4 << 20), ("1.5G", 3 << 29), ("200 m", 200 << 20), ("7b", 7), ("2T", 2 << 40)],
)
def test_sizes_have_units_of_1024(text: str, size: int) -> None:
    assert config.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-4M", "4X", "4 apples", "1e9"])
def test_an_invalid_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size: write it like"):
        config.parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("120", 120), ("30s", 30), ("5m", 300), ("1.5h", 5400), ("2d", 172800)])
def test_lengths_of_time_have_units(text: str, seconds: float) -> None:
    assert config.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "5 weeks", ""])
def test_an_invalid_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a length of time"):
        config.parse_seconds(text)


def test_flags_override_the_environment_which_overrides_defaults() -> None:
    env = {"HFFS_WORKERS": "3", "HFFS_PREFETCH": "none", "HOME": "/home/x"}
    assert config.load({}, {"HOME": "/home/x"}).workers is None
    assert config.load({}, env).workers == 3
    assert config.load({"workers": 5, "prefetch": None}, env).workers == 5
    assert config.load({"prefetch": None}, env).prefetch == "none"


def test_hffs_endpoint_overrides_hf_endpoint() -> None:
    assert config.load({}, {"HF_ENDPOINT": "http://mirror/"}).endpoint == "http://mirror"
    both = {"HF_ENDPOINT": "http://mirror", "HFFS_ENDPOINT": "http://nearer"}
    assert config.load({}, both).endpoint == "http://nearer"


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_variables_of_huggingface_hub_are_obeyed(name: str) -> None:
    assert not config.load({}, {}).offline
    assert config.load({}, {name: "1"}).offline
    assert config.load({}, {name: "YES"}).offline
    assert not config.load({}, {name: "0"}).offline
    assert not config.load({}, {name: "1", "HFFS_OFFLINE": "0"}).offline


def test_an_invalid_value_in_the_environment_names_its_variable() -> None:
    with pytest.raises(UsageError, match="HFFS_WORKERS: 'many' is not a number"):
        config.load({}, {"HFFS_WORKERS": "many"})


def test_an_endpoint_without_a_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="not an http"):
        config.load({"endpoint": "huggingface.co"}, {})


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(UsageError, match="no such setting: cache_sze"):
        config.load({"cache_sze": 1}, {})


def test_directories_follow_the_xdg_variables() -> None:
    env = {"XDG_CACHE_HOME": "/c", "XDG_RUNTIME_DIR": "/r"}
    settings = config.load({}, env)
    assert (settings.cache_dir, settings.runtime_dir) == ("/c/hffs", "/r/hffs")


def test_cache_size_must_be_positive_but_min_free_may_be_zero() -> None:
    read = config.load(environ={"HFFS_CACHE_SIZE": "512M", "HFFS_MIN_FREE": "0"})
    assert (read.cache_size, read.min_free) == (512 << 20, 0)
    plain = config.load(environ={})
    assert (plain.cache_size, plain.min_free) == (None, None)
    with pytest.raises(UsageError, match="HFFS_CACHE_SIZE: '0' is zero"):
        config.load(environ={"HFFS_CACHE_SIZE": "0"})


@pytest.mark.parametrize(
    ("env", "where"),
    [
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "HF_HOME": "/y"}, "/y/hub"),
        ({"HF_HOME": "/y", "HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HOME": "/y", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"}, "/new"),
        ({"HF_HUB_CACHE": "/new", "HFFS_HF_CACHE": "/ours"}, "/ours"),
        ({"HF_HUB_CACHE": "/new", "HFFS_HF_CACHE": "none"}, ""),
        ({"HF_HUB_CACHE": "/new", "HFFS_HF_CACHE": ""}, ""),
        ({"HF_HUB_CACHE": ""}, ""),
    ],
)
def test_hf_cache_defaults_to_the_directory_of_huggingface_hub(env: dict[str, str], where: str) -> None:
    assert config.load({}, env).hf_cache == where


def test_hf_cache_expands_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG", "/big")
    assert config.load({}, {"HF_HUB_CACHE": "$BIG/hub"}).hf_cache == "/big/hub"
    assert config.load({"hf_cache": ""}, {"HF_HUB_CACHE": "/new"}).hf_cache == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cache_size", "9" * 400), ("cache_size", "9" * 18 + "P"), ("cache_size", "\u0663M"),
        ("read_timeout", "9" * 400), ("read_timeout", "9" * 12), ("workers", "9" * 5000), ("workers", "\u00b2"),
        ("endpoint", "http://["), ("endpoint", "http://hub:port"), ("endpoint", "http://hub:99999"),
        ("endpoint", "https://:80"),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_values_out_of_range_are_refused(name: str, text: str) -> None:
    with pytest.raises(UsageError):
        config.load({}, {f"HFFS_{name.upper()}": text})


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(UsageError, match="contains a NUL character"):
        config.load({"cache_dir": "/a\0b"}, {})
    with pytest.raises(UsageError, match="contains a NUL character"):
        config.load({"config": "/a\0b"}, {})
    with pytest.raises(UsageError, match="contains a NUL character"):
        config.parse_hf_cache("~\0")
