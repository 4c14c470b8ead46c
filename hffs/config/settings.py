"""The settings: one table of them, and how their values are resolved.

Order, a later one overriding an earlier one: default, configuration files (``files``), variables of huggingface_hub,
``HFFS_*`` variables, options. A value is checked when it is read, and an error names where it was read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, NamedTuple

from ..errors import UsageError
from . import files, values
from .environment import default_cache_dir, default_hf_cache, default_runtime_dir
from .files import ConfigFile, RawValue
from .values import above_zero, literal, one_of

HUB_URL: Final = "https://huggingface.co"
_NUMBERS: Final = ("size", "rate", "time", "count")  # kinds that TOML may write as numbers
# Keys that only the file of one mount may have besides settings.
MOUNT_KEYS: Final = ("repo", "mountpoint", "type", "revision", "subfolder")


class Kind(NamedTuple):
    """How values of a setting are written: ``metavar`` stands for one in help texts."""

    name: Literal["text", "path", "size", "rate", "time", "count", "switch", "choice", "patterns"]
    parse: Callable[[str], Any]
    metavar: str


def choice(*words: str) -> Kind:
    return Kind("choice", one_of(*words), "|".join(words))


URL: Final = Kind("text", lambda text: text.rstrip("/"), "URL")
DIR: Final = Kind("path", str, "DIR")
FILE: Final = Kind("path", str, "FILE")
HF_CACHE: Final = Kind("path", values.parse_hf_cache, "DIR")
SIZE: Final = Kind("size", values.parse_size, "SIZE")
POSITIVE_SIZE: Final = Kind("size", above_zero(values.parse_size), "SIZE")
RATE: Final = Kind("rate", above_zero(values.parse_size), "SIZE")
TIME: Final = Kind("time", values.parse_seconds, "TIME")
POSITIVE_TIME: Final = Kind("time", above_zero(values.parse_seconds), "TIME")
COUNT: Final = Kind("count", values.parse_count, "N")
SWITCH: Final = Kind("switch", values.parse_switch, "")
PATTERNS: Final = Kind("patterns", values.parse_patterns, "PATTERN")


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. ``unset`` describes a value of None, "" or () in ``hffs config``; ``variables`` are read
    before HFFS_NAME, which overrides them; ``computed`` is the default where it depends on the environment."""

    kind: Kind
    group: str
    help: str
    unset: str = "not set"
    variables: tuple[str, ...] = ()
    computed: Callable[[Mapping[str, str]], Any] | None = None
    name: str = ""

    @property
    def key(self) -> str:
        """The name in a file, and with two dashes before it on the command line."""
        return self.name.replace("_", "-")


def _row(default: Any, kind: Kind, group: str, **more: Any) -> Any:
    return field(default=default, metadata={"row": Setting(kind, group, **more)})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one mount, resolved; sizes in bytes, times in seconds. The fields are the table of settings.

    To add a setting, add one row: its name and type, the default, the kind of value, its group in help texts, its help,
    and what ``hffs config`` shows where it is unset. The option, the variable, the key in files, ``hffs config``, the
    option of mount(8), the completion and the man page are made from it.
    """

    # fmt: off
    cache_dir: str = _row("", DIR, "cache", computed=default_cache_dir, help=
        "directory of fetched blocks (default: $XDG_CACHE_HOME/hffs, ~/.cache/hffs; root: /var/cache/hffs)")
    cache_size: int | None = _row(None, POSITIVE_SIZE, "cache", unset="what min-free leaves", help=
        "upper limit of the cache's disk usage; least recently used data is evicted (default: what --min-free leaves)")
    min_free: int | None = _row(None, SIZE, "cache", unset="2G, on a small disk a tenth", help=
        "space to keep free on the cache's disk (default 2G; a tenth of a small disk)")
    hf_cache: str = _row("", HF_CACHE, "cache", unset="none", variables=("HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"),
        computed=default_hf_cache, help=
        "huggingface_hub's cache, whose files are used in place (default: $HF_HUB_CACHE; none: do not use it)")
    workers: int | None = _row(None, COUNT, "speed", unset="as many as add speed", help=
        "maximum of concurrent connections, 2 of them reserved for waiting reads (default: as many as add speed; at"
        " most 16 for each core but one)")  # None: policy.concurrency_controller decides while running
    bandwidth: int | None = _row(None, RATE, "speed", unset="no limit", help=
        "maximum of bytes fetched a second; waiting reads go first (default: no limit)")
    min_worker_speed: int = _row(3 * 1024 * 1024, RATE, "speed", help=
        "another worker on big files is added only while each brings this many bytes a second (default 3M)")
    probe_seconds: float = _row(5.0, TIME, "speed", help=
        "how long the speed of the first worker on big files is measured, at most (default 5 s)")
    big_file: int = _row(200 * 1024 * 1024, SIZE, "speed", help=
        "files of this size or more are hydrated by a measured number of workers (default 200M)")
    fetch_size: int = _row(4 * 1024 * 1024, POSITIVE_SIZE, "speed", help=
        "maximum size of a request that a read waits for (default 4M; other requests grow to 16M)")
    prefetch: str = _row("small", choice("none", "small", "all"), "files", help=
        "what is fetched before it is read: nothing, a model's small files, or also the rest of files that are read"
        " (default small)")
    include: tuple[str, ...] = _row((), PATTERNS, "files", unset="everything", help=
        "only files that match; can be repeated")
    exclude: tuple[str, ...] = _row((), PATTERNS, "files", unset="nothing", help=
        "no files that match; can be repeated")
    endpoint: str = _row(HUB_URL, URL, "Hub", variables=("HF_ENDPOINT",), help=
        f"the Hub (default $HF_ENDPOINT, {HUB_URL})")
    token_file: str | None = _row(None, FILE, "Hub", unset="that of hf auth login", help=
        "file with the access token (default: that of hf auth login)")
    offline: bool = _row(False, SWITCH, "Hub", variables=("TRANSFORMERS_OFFLINE", "HF_HUB_OFFLINE"), help=
        "contact no server: show the repo as last seen, read what is cached")
    allow_other: bool = _row(False, SWITCH, "mount", help="let other users read the mount")
    read_timeout: float = _row(120.0, POSITIVE_TIME, "mount", help=
        "how long a read waits for bytes before it fails (default 120 s)")
    binding: str = _row("auto", choice("auto", "kernel", "libfuse"), "mount", help=
        "FUSE implementation (default auto)")
    runtime_dir: str = _row("", DIR, "mount", computed=default_runtime_dir, help=
        "directory of control sockets (default: $XDG_RUNTIME_DIR/hffs; root: /run/hffs)")
    log_level: str = _row("info", choice("debug", "info", "warning", "error"), "mount", help=
        "least severity that is logged (default info)")
    log_format: Literal["logfmt", "json"] = _row("logfmt", choice("logfmt", "json"), "mount", help=
        "format of log lines (default logfmt)")
    log_file: str | None = _row(None, FILE, "mount", unset="beside the control socket", help=
        "log file of the daemon (default: beside its control socket)")
    debug: bool = _row(False, SWITCH, "", help="log more, show tracebacks")
    # fmt: on


SETTINGS: Final[Mapping[str, Setting]] = {
    each.name: replace(each.metadata["row"], name=each.name) for each in fields(Settings)
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was read: ``where`` is FILE:LINE, a variable, an option, or "" for the default."""

    kind: Literal["default", "file", "environment", "flag"]
    where: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """The settings, the origin of each, the files looked for (and whether they exist), and the mount's keys from the
    file of a mount, if one was named."""

    settings: Settings
    origins: Mapping[str, Origin]
    files: tuple[tuple[str, bool], ...] = ()
    mount_keys: Mapping[str, str] = field(default_factory=dict)


def load(given: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from defaults, files, environment and ``given`` values (None counts as not given); the key ``config``
    names one more file. Raises UsageError, and the errors of ``files.read``."""
    return resolve(given, environ).settings


def resolve(
    given: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, mount: str | None = None
) -> ResolvedSettings:
    """As ``load``, with the origin of each value; ``mount`` names the file of a mount, read after the other files."""
    env = os.environ if environ is None else environ
    options = {name: value for name, value in (given or {}).items() if value is not None}
    for value in options.values():
        values.refuse_nul(value)
    wanted = files.general(options.pop("config", None) or env.get("HFFS_CONFIG"), env)
    if mount is not None:
        wanted.append(files.mount_file(mount, env))
    unknown = set(options) - set(SETTINGS)
    if unknown:
        raise UsageError(f"no such setting: {', '.join(sorted(unknown))}")
    found = {name: row.computed(env) for name, row in SETTINGS.items() if row.computed}
    origins = dict.fromkeys(SETTINGS, Origin("default"))
    searched, mount_keys = [], {}
    for file in wanted:
        raw = files.read(file)
        searched.append((file.path, raw is not None))
        for name, each in (raw or {}).items():
            if mount is not None and file is wanted[-1] and name in MOUNT_KEYS:
                mount_keys[name] = _mount_key(each)
            else:
                found[name], origins[name] = _from_file(name, each, file), Origin("file", each.where)
    for name, row in SETTINGS.items():
        for variable in (*row.variables, f"HFFS_{name.upper()}"):
            value = _from_variable(row, variable, env)
            if value is not None:
                found[name], origins[name] = value, Origin("environment", variable)
    for name, value in options.items():
        found[name], origins[name] = value, Origin("flag", f"--{SETTINGS[name].key}")
    settings = Settings(**found)
    if settings.endpoint != HUB_URL and not _is_url(settings.endpoint):
        raise UsageError(
            f"the endpoint {literal(settings.endpoint)} is not an http(s) URL", "see HF_ENDPOINT, --endpoint"
        )
    return ResolvedSettings(settings, origins, tuple(searched), mount_keys)


def _is_url(endpoint: str) -> bool:
    from urllib.parse import urlsplit  # 5 ms, for another Hub only

    try:
        parts = urlsplit(endpoint)
        return endpoint.startswith(("http://", "https://")) and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an unclosed bracket, an invalid port
        return False


def _from_variable(row: Setting, variable: str, env: Mapping[str, str]) -> Any:
    """The value of a setting in one variable, or None: unset, empty (which names no cache of huggingface_hub, though),
    or a switch of huggingface_hub that is off."""
    text = env.get(variable)
    if text is None or (not text and row.kind is not HF_CACHE):
        return None
    if row.kind is SWITCH and variable in row.variables:
        return text.strip().lower() in values.TRUE or None
    try:
        return row.kind.parse(text)
    except UsageError as wrong:
        raise UsageError(f"{variable}: {wrong.what}", wrong.remedy) from None


def _from_file(name: str, raw: RawValue, file: ConfigFile) -> Any:
    """The value of a setting in a file: text as on the command line, or a number, boolean or list of TOML. A relative
    path starts at the file's directory."""
    if name in MOUNT_KEYS:
        raise UsageError(f"{raw.where}: {raw.key} describes a single mount", f"write it into {files.SYSTEM}/NAME.toml")
    if name not in SETTINGS:
        raise UsageError(f"{raw.where}: no such setting: {raw.key}", _closest(raw))
    kind, value = SETTINGS[name].kind, raw.value
    try:
        values.refuse_nul(value)
        if kind is PATTERNS:
            items = value if isinstance(value, list) else [value]
            if not all(isinstance(item, str) and item for item in items):
                raise UsageError(f"{literal(value)} is not a list of patterns", 'write it like ["*.json", "*.txt"]')
            return tuple(items)
        if isinstance(value, bool):
            if kind is SWITCH:
                return value
        elif isinstance(value, int | float) and kind.name in _NUMBERS:
            value = literal(value)
        if not isinstance(value, str):
            wanted = (
                "true or false" if kind is SWITCH else "a number or text" if kind.name in _NUMBERS else "quoted text"
            )
            raise UsageError(f"{literal(value)} is not {wanted}")
        if kind.name == "path" and value and value.strip().lower() != "none":
            value = os.path.normpath(os.path.join(os.path.dirname(file.path), os.path.expanduser(value)))
        return kind.parse(value)
    except UsageError as wrong:
        raise UsageError(f"{raw.where}: {raw.key}: {wrong.what}", wrong.remedy) from None


def _mount_key(raw: RawValue) -> str:
    try:
        values.refuse_nul(raw.value)
        if isinstance(raw.value, str) and raw.value:
            return raw.value
        raise UsageError(f"{literal(raw.value)} is not quoted text")
    except UsageError as wrong:
        raise UsageError(f"{raw.where}: {raw.key}: {wrong.what}") from None


def _closest(raw: RawValue) -> str:
    if isinstance(raw.value, dict):
        return "hffs has no sections: write the keys at the top level"
    from difflib import get_close_matches  # 6 ms, for a mistake only

    keys = [row.key for row in SETTINGS.values()]
    close = get_close_matches(raw.key.lower().replace("_", "-"), keys, 1, 0.5)
    return f"did you mean {close[0]}?" if close else "hffs config lists all settings"
