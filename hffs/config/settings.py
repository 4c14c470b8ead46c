"""Settings: what they are, their defaults, and the one place the environment is read.

Order: default, then the configuration files (``configfiles``), then ``HFFS_*`` (and the ``HF_*`` variables
huggingface_hub users know) from the environment, then flags. A value is checked when it is read, and the error names
where it came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from ..errors import UsageError
from . import files
from .files import ConfigFile, RawValue

# Eighteen digits are more than any disk or clock counts to; of thousands Python makes no number at all.
_NUMBER: Final = r"^\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*"
_SIZE: Final = re.compile(_NUMBER + r"([kmgtp]?)(i?b?)\s*$", re.IGNORECASE)
_TIME: Final = re.compile(_NUMBER + r"(s|m|h|d|)\s*$", re.IGNORECASE)
_COUNT: Final = re.compile(r"\s*[0-9]{1,9}\s*")
_TRUE: Final = frozenset({"1", "on", "yes", "true"})  # as huggingface_hub reads its switches
_FALSE: Final = frozenset({"0", "off", "no", "false", ""})
_HUB: Final = "https://huggingface.co"
_OFFLINE: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # huggingface_hub heeds both
_HF_CACHE: Final = ("HFFS_HF_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")  # the first that is set counts
# What huggingface_hub takes from the environment and shows to nobody: tokens, in its order, and a CI job's proof of who
# it is, which it exchanges for one.
SECRETS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN")
# What a program needs to start. All else is nobody's business but ours.
_HELPERS: Final = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LANG", "TMPDIR")
# As far ahead as files' sizes and times go (off_t); in seconds, less than a wait may last (292 years of nanoseconds).
_MOST_BYTES: Final = 1 << 63
_MOST_SECONDS: Final = 10 * 365 * 86400
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """Bytes written as people write them: ``200M``, ``1.5G``, ``4MiB``. Units are powers of 1024, as in ``df -h``."""
    match = _SIZE.match(text)
    if not match:
        raise UsageError(f"{_shown(text)} is not a size", "write it like 4M, 200M or 1.5G")
    number, unit, _ = match.groups()
    size = int(float(number) * 1024 ** " kmgtp".index(unit.lower() or " "))
    if size >= _MOST_BYTES:
        raise UsageError(f"{_shown(text)} is more than any disk holds", "write it like 4M, 200M or 1.5G")
    return size


def parse_seconds(text: str) -> float:
    """A length of time: ``120``, ``30s``, ``5m``, ``1h``."""
    match = _TIME.match(text)
    if not match:
        raise UsageError(f"{_shown(text)} is not a length of time", "write it like 120, 30s or 5m")
    seconds = float(match[1]) * _SECONDS[match[2].lower()]
    if seconds > _MOST_SECONDS:
        raise UsageError(f"{_shown(text)} is longer than ten years", "write it like 120, 30s or 5m")
    return seconds


def above_zero(parse: Callable[[str], float]) -> Any:
    """A parser that refuses what is nothing: a size or a time of 0 would let no read succeed."""

    def parsed(text: str) -> float:
        value = parse(text)
        if not value:
            raise UsageError(f"{_shown(text)} is nothing", "it must be more than 0")
        return value

    return parsed


def parse_switch(text: str) -> bool:
    if text.strip().lower() in _TRUE:
        return True
    if text.strip().lower() in _FALSE:
        return False
    raise UsageError(f"{_shown(text)} is neither yes nor no", "write 1 or 0")


def parse_count(text: str) -> int:
    if not _COUNT.fullmatch(text) or int(text) < 1:
        raise UsageError(f"{_shown(text)} is not a number of at least 1")
    return int(text)


def parse_patterns(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[\s,]+", text) if part)


def parse_hf_cache(text: str) -> str:
    """An absolute path, as huggingface_hub expands its own; empty for ``none``."""
    if text.strip().lower() in ("", "none"):
        return ""
    _without_nul(text)
    return os.path.abspath(os.path.expanduser(os.path.expandvars(text)))


def one_of(*words: str) -> Any:
    def parse(text: str) -> str:
        if text not in words:
            raise UsageError(f"{_shown(text)} is not one of {', '.join(words)}")
        return text

    return parse


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one mount, decided. Sizes in bytes, times in seconds."""

    endpoint: str = _HUB
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
    log_format: Literal["logfmt", "json"] = "logfmt"
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
    "log_format": one_of("logfmt", "json"),
    "log_file": str,
    "debug": parse_switch,
}


# What the file of one mount says besides settings.
NAMING: Final = ("repo", "mountpoint", "type", "revision", "subfolder")
_PATHS: Final = frozenset({"cache_dir", "hf_cache", "runtime_dir", "token_file", "log_file"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting has its value from: ``where`` is FILE:LINE, a variable, an option, or "" for the default."""

    kind: Literal["default", "file", "environment", "flag"]
    where: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """The settings, where each is from, the files looked for (and whether they are there), and what the file of a
    mount, if one was named, says of its naming."""

    settings: Settings
    origins: Mapping[str, Origin]
    files: tuple[tuple[str, bool], ...] = ()
    naming: Mapping[str, str] = field(default_factory=dict)


def load(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from defaults, files, environment and ``flags`` (None values count as not given); the flag ``config``
    names one more file. Raises UsageError, and what ``files.read`` raises."""
    return decide(flags, environ).settings


def decide(
    flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, mount: str | None = None
) -> ResolvedSettings:
    """As ``load``, and where each value is from; ``mount`` names the file of a mount, which counts after the other
    files."""
    env = os.environ if environ is None else environ
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    for value in given.values():
        _without_nul(value)
    places = files.general(given.pop("config", None) or env.get("HFFS_CONFIG"), env)
    if mount is not None:
        places.append(files.of_mount(mount, env))
    unknown = set(given) - {field.name for field in fields(Settings)}
    if unknown:
        raise UsageError(f"no such setting: {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {
        "cache_dir": default_cache_dir(env),
        "hf_cache": default_hf_cache(env),
        "runtime_dir": default_runtime_dir(env),
    }
    origins = {field.name: Origin("default") for field in fields(Settings)}
    looked, naming = [], {}
    for place in places:
        said = files.read(place)
        looked.append((place.path, said is not None))
        of_mount = mount is not None and place is places[-1]
        for name, each in (said or {}).items():
            if of_mount and name in NAMING:
                naming[name] = _text(each)
            else:
                values[name] = _from_file(name, each, place)
                origins[name] = Origin("file", each.where)
    for name, value, variable in _from_environment(env):
        values[name], origins[name] = value, Origin("environment", variable)
    for name, value in given.items():
        values[name], origins[name] = value, Origin("flag", f"--{name.replace('_', '-')}")
    settings = Settings(**values)
    if settings.endpoint != _HUB and not _is_address(settings.endpoint):
        what = f"the endpoint {_shown(settings.endpoint)} is no http(s) address"
        raise UsageError(what, "set HF_ENDPOINT or --endpoint")
    return ResolvedSettings(settings, origins, tuple(looked), naming)


def _is_address(endpoint: str) -> bool:
    from urllib.parse import urlsplit  # 5 ms, where another Hub is named only

    try:
        parts = urlsplit(endpoint)
        return endpoint.startswith(("http://", "https://")) and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that does not close, a port that is none
        return False


def _from_environment(env: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    """Name, value and variable of the settings that the environment holds; a later one counts."""
    found: list[tuple[str, Any, str]] = []
    if env.get("HF_ENDPOINT"):
        found.append(("endpoint", env["HF_ENDPOINT"].rstrip("/"), "HF_ENDPOINT"))
    switched = (variable for variable in _OFFLINE if env.get(variable, "").strip().lower() in _TRUE)
    found += [("offline", True, variable) for variable in switched]
    found += [("hf_cache", parse_hf_cache(env[variable]), variable) for variable in _HF_CACHE[::-1] if variable in env]
    for name, parse in PARSERS.items():
        variable = f"HFFS_{name.upper()}"
        if env.get(variable):
            try:
                found.append((name, parse(env[variable]), variable))
            except UsageError as wrong:
                raise UsageError(f"{variable}: {wrong.what}", wrong.remedy) from None
    return found


def _from_file(name: str, said: RawValue, place: ConfigFile) -> Any:
    """The value of a setting as a file says it: text as on the command line, or a number, a switch, a list of TOML's
    own. Paths are as from the file's folder."""
    if name in NAMING:
        raise UsageError(f"{said.where}: {said.key} is of one mount", f"write it into {files.SYSTEM}/NAME.toml")
    if name not in PARSERS:
        raise UsageError(f"{said.where}: no such setting: {said.key}", _nearest(said))
    kind = str(next(field.type for field in fields(Settings) if field.name == name))
    value = said.value
    try:
        _without_nul(value)
        if kind.startswith("tuple"):
            items = value if isinstance(value, list) else [value]
            if not all(isinstance(item, str) and item for item in items):
                raise UsageError(f"{_shown(value)} is not a list of patterns", 'write it like ["*.json", "*.txt"]')
            return tuple(items)
        if isinstance(value, bool) and kind == "bool":
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool) and kind.startswith(("int", "float")):
            return PARSERS[name](_shown(value))
        if not isinstance(value, str):
            wanted = {"b": "neither true nor false", "i": "no number or text", "f": "no number or text"}
            raise UsageError(f"{_shown(value)} is {wanted.get(kind[0], 'no text in quotes')}")
        if name in _PATHS:
            value = _path(value, place.path)
        return PARSERS[name](value)
    except UsageError as wrong:
        raise UsageError(f"{said.where}: {said.key}: {wrong.what}", wrong.remedy) from None


def _path(text: str, file: str) -> str:
    """A path of a file, as from the folder that it lies in: whoever starts hffs, and where, makes no difference."""
    if not text or text.strip().lower() == "none":
        return text
    return os.path.normpath(os.path.join(os.path.dirname(file), os.path.expanduser(text)))


def _text(said: RawValue) -> str:
    if not isinstance(said.value, str) or not said.value:
        raise UsageError(f"{said.where}: {said.key}: {_shown(said.value)} is no text in quotes")
    try:
        _without_nul(said.value)
    except UsageError as wrong:
        raise UsageError(f"{said.where}: {said.key}: {wrong.what}") from None
    return said.value


def _without_nul(value: Any) -> None:
    """No name that the system takes has one. Only files and Python can say it."""
    items = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(item, str) and "\0" in item for item in items):
        raise UsageError(f"{_shown(value)} has a NUL in it")


def _shown(value: Any) -> str:
    """As a person would write it in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, which TOML writes in base 16; lists in lists
        text = "what is written"
    return text if len(text) < 200 else f"{text[:200]}…"


def _nearest(said: RawValue) -> str:
    if isinstance(said.value, dict):
        return "files of hffs have no sections: write the keys by themselves"
    from difflib import get_close_matches  # 6 ms, for a mistake only

    names = {name.replace("_", "-") for name in PARSERS}
    close = get_close_matches(said.key.lower().replace("_", "-"), names, 1, 0.5)
    return f"did you mean {close[0]}?" if close else "hffs config lists all settings"


def service_manager(environ: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """How systemd wants to hear of this process (sd_notify(3), sd_watchdog_enabled(3)): ``address`` of its socket, and
    ``watchdog_s`` in which it wants a sign of life, or None; None when nobody wants to."""
    env = os.environ if environ is None else environ
    address = env.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    every, pid = env.get("WATCHDOG_USEC", ""), str(os.getpid())
    meant = env.get("WATCHDOG_PID", pid) == pid and re.fullmatch("[0-9]{1,18}", every) and int(every) > 0
    return {"address": address, "watchdog_s": int(every) / 1e6 if meant else None}


# Meant for the service's main process, and for no child of it.
OF_THE_MANAGER: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def is_journal(descriptor: int, environ: Mapping[str, str] | None = None) -> bool:
    """Whether what is written there goes to the systemd journal (systemd.exec(5), JOURNAL_STREAM)."""
    named = (os.environ if environ is None else environ).get("JOURNAL_STREAM", "")
    if not named:
        return False
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def token_variable(environ: Mapping[str, str] | None = None) -> str | None:
    """The variable that huggingface_hub takes the token from, if it does."""
    env = os.environ if environ is None else environ
    return next((name for name in SECRETS[:2] if env.get(name, "").strip()), None)


def split_secrets(environ: Mapping[str, str] | None = None) -> tuple[dict[str, str], dict[str, str]]:
    """The environment without what it keeps secret, and that: a process is shown to nobody with it, in /proc or
    otherwise, when it hears it on a pipe instead."""
    env = os.environ if environ is None else environ
    return (
        {name: value for name, value in env.items() if name not in SECRETS},
        {name: value for name, value in env.items() if name in SECRETS},
    )


def keep_secrets(secrets: Mapping[str, str]) -> None:
    """What ``split_secrets`` took out, for the libraries of this process, which look for it in ``os.environ``; what is
    inherited by whatever anybody starts, libfuse its fusermount3 for one, stays without it."""
    for name, value in secrets.items():
        if name in SECRETS:
            os.environ[name] = value
            os.unsetenv(name)  # of the process; os.environ does not notice


def helper_environ(**more: str) -> dict[str, str]:
    """All that a short helper process (fusermount3, a look at a mountpoint) is told: how to start, and ``more``."""
    return {**{name: os.environ[name] for name in _HELPERS if name in os.environ}, **more}


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
    """Where huggingface_hub keeps what it downloads when no variable names the place itself, by its own rules (its
    constants.py)."""
    home = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    return parse_hf_cache(os.path.join(environ.get("HF_HOME") or os.path.join(home, "huggingface"), "hub"))


def default_runtime_dir(environ: Mapping[str, str]) -> str:
    """Where control sockets live; a folder of the user's own, 0700 (made by whoever listens there first).

    Of root that is /run/hffs also in a login, where logind names another: the mounts of services are found there, and
    what lies in /run/user/0 is gone when root logs out."""
    named = environ.get("XDG_RUNTIME_DIR")
    if named and not (os.geteuid() == 0 and os.path.normpath(named) == "/run/user/0"):
        return os.path.join(named, "hffs")
    if os.geteuid() == 0:
        return "/run/hffs"
    from tempfile import gettempdir  # 4 ms that `hffs status` seldom needs

    return os.path.join(environ.get("TMPDIR") or gettempdir(), f"hffs-{os.geteuid()}")
