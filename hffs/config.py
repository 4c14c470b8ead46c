"""Settings: what they are, their defaults, and the one place the environment is read.

Order: default, then ``HFFS_*`` (and the ``HF_*`` variables huggingface_hub users know) from the environment, then
flags. A value is checked when it is read, and the error names where it came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from .errors import UsageError

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b?)\s*$", re.IGNORECASE)
_TIME = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(s|m|h|d|)\s*$", re.IGNORECASE)
_TRUE: Final = frozenset({"1", "on", "yes", "true"})  # as huggingface_hub reads its switches
_FALSE: Final = frozenset({"0", "off", "no", "false", ""})
_OFFLINE: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # huggingface_hub heeds both
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """Bytes written as people write them: ``200M``, ``1.5G``, ``4MiB``. Units are powers of 1024, as in ``df -h``."""
    match = _SIZE.match(text)
    if not match:
        raise UsageError(f"{text!r} is not a size", "write it like 4M, 200M or 1.5G")
    number, unit, _ = match.groups()
    return int(float(number) * 1024 ** " kmgtp".index(unit.lower() or " "))


def parse_seconds(text: str) -> float:
    """A length of time: ``120``, ``30s``, ``5m``, ``1h``."""
    match = _TIME.match(text)
    if not match:
        raise UsageError(f"{text!r} is not a length of time", "write it like 120, 30s or 5m")
    return float(match[1]) * _SECONDS[match[2].lower()]


def above_zero(parse: Callable[[str], float]) -> Any:
    """A parser that refuses what is nothing: a size or a time of 0 would let no read succeed."""

    def parsed(text: str) -> float:
        value = parse(text)
        if not value:
            raise UsageError(f"{text!r} is nothing", "it must be more than 0")
        return value

    return parsed


def parse_switch(text: str) -> bool:
    if text.strip().lower() in _TRUE:
        return True
    if text.strip().lower() in _FALSE:
        return False
    raise UsageError(f"{text!r} is neither yes nor no", "write 1 or 0")


def parse_count(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise UsageError(f"{text!r} is not a number of at least 1")
    return int(text)


def parse_patterns(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[\s,]+", text) if part)


def parse_hf_cache(text: str) -> str:
    """An absolute path, as huggingface_hub expands its own; empty for ``none``."""
    if text.strip().lower() in ("", "none"):
        return ""
    return os.path.abspath(os.path.expanduser(os.path.expandvars(text)))


def one_of(*words: str) -> Any:
    def parse(text: str) -> str:
        if text not in words:
            raise UsageError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return parse


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one mount, decided. Sizes in bytes, times in seconds."""

    endpoint: str = "https://huggingface.co"
    token_file: str | None = None
    cache_dir: str = ""
    cache_size: int | None = None  # bytes of disk the cache directory may take; None: as much as min_free leaves
    min_free: int | None = None  # bytes of its disk that stay free; None: 2 GiB, but a tenth of a small disk
    hf_cache: str = ""  # huggingface_hub's cache, from which blobs are used; empty: none
    runtime_dir: str = ""
    workers: int | None = None  # at most; None: decided while running (policy.limiter), up to 16 for each core but one
    bandwidth: int | None = None  # bytes a second of all reads and background work together; None: no limit
    min_worker_speed: int = 3 * 1024 * 1024  # more workers for big files are no gain where each brings less
    probe_seconds: float = 5.0  # with one worker at first, at most, to see what it brings
    big_file: int = 200 * 1024 * 1024  # from here on a file is hydrated by a number of workers that follows measurement
    fetch_size: int = 4 * 1024 * 1024
    prefetch: str = "small"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    offline: bool = False  # ask no server
    allow_other: bool = False
    read_timeout: float = 120.0
    binding: str = "auto"
    log_level: str = "info"
    log_file: str | None = None
    debug: bool = False


PARSERS: Final[Mapping[str, Any]] = {
    "endpoint": lambda text: text.rstrip("/"),
    "token_file": str,
    "cache_dir": str,
    "cache_size": above_zero(parse_size),
    "min_free": parse_size,
    "hf_cache": parse_hf_cache,
    "runtime_dir": str,
    "workers": parse_count,
    "bandwidth": above_zero(parse_size),
    "min_worker_speed": above_zero(parse_size),
    "probe_seconds": parse_seconds,
    "big_file": parse_size,
    "fetch_size": above_zero(parse_size),
    "prefetch": one_of("none", "small", "all"),
    "include": parse_patterns,
    "exclude": parse_patterns,
    "offline": parse_switch,
    "allow_other": parse_switch,
    "read_timeout": above_zero(parse_seconds),
    "binding": one_of("auto", "kernel", "libfuse"),
    "log_level": one_of("debug", "info", "warning", "error"),
    "log_file": str,
    "debug": parse_switch,
}


def load(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from defaults, environment and ``flags`` (None values count as not given). Raises UsageError."""
    env = os.environ if environ is None else environ
    values: dict[str, Any] = {
        "cache_dir": default_cache_dir(env),
        "hf_cache": default_hf_cache(env),
        "runtime_dir": default_runtime_dir(env),
    }
    if env.get("HF_ENDPOINT"):
        values["endpoint"] = env["HF_ENDPOINT"].rstrip("/")
    if any(env.get(name, "").strip().lower() in _TRUE for name in _OFFLINE):
        values["offline"] = True
    for name, parse in PARSERS.items():
        variable = f"HFFS_{name.upper()}"
        if env.get(variable):
            try:
                values[name] = parse(env[variable])
            except UsageError as wrong:
                raise UsageError(f"{variable}: {wrong.what}", wrong.remedy) from None
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    unknown = set(given) - {field.name for field in fields(Settings)}
    if unknown:
        raise UsageError(f"no such setting: {', '.join(sorted(unknown))}")
    values.update(given)
    settings = Settings(**values)
    if not settings.endpoint.startswith(("http://", "https://")):
        raise UsageError(f"the endpoint {settings.endpoint!r} is no http(s) address", "set HF_ENDPOINT or --endpoint")
    return settings


def proxies(environ: Mapping[str, str] | None = None) -> list[str]:
    """The variables by which requests and huggingface_hub send what they ask through a proxy, in capitals."""
    env = os.environ if environ is None else environ
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return [name for name in names if env.get(name) or env.get(name.lower())]


def default_cache_dir(environ: Mapping[str, str]) -> str:
    if environ.get("XDG_CACHE_HOME"):
        return os.path.join(environ["XDG_CACHE_HOME"], "hffs")
    if os.geteuid() == 0:
        return "/var/cache/hffs"
    return os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache", "hffs")


def default_hf_cache(environ: Mapping[str, str]) -> str:
    """Where huggingface_hub keeps what it downloads, by its own rules (its constants.py); an empty variable of ours or
    of its own switches it off."""
    for name in ("HFFS_HF_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if name in environ:
            return parse_hf_cache(environ[name])
    home = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    return parse_hf_cache(os.path.join(environ.get("HF_HOME") or os.path.join(home, "huggingface"), "hub"))


def default_runtime_dir(environ: Mapping[str, str]) -> str:
    """Where control sockets live; a folder of the user's own, 0700 (made by whoever listens there first)."""
    if environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(environ["XDG_RUNTIME_DIR"], "hffs")
    if os.geteuid() == 0:
        return "/run/hffs"
    from tempfile import gettempdir  # 4 ms that `hffs status` seldom needs

    return os.path.join(environ.get("TMPDIR") or gettempdir(), f"hffs-{os.geteuid()}")
