"""Settings, the files they are read from, and the one place where the environment is read."""

from . import files
from .environment import (
    SECRETS,
    SYSTEMD_VARIABLES,
    helper_environ,
    is_journal,
    keep_secrets,
    proxies,
    service_manager,
    split_secrets,
    token_variable,
)
from .settings import SETTINGS, Origin, ResolvedSettings, Setting, Settings, load, resolve
from .values import above_zero, parse_hf_cache, parse_seconds, parse_size

__all__ = [
    "SECRETS",
    "SETTINGS",
    "SYSTEMD_VARIABLES",
    "Origin",
    "ResolvedSettings",
    "Setting",
    "Settings",
    "above_zero",
    "files",
    "helper_environ",
    "is_journal",
    "keep_secrets",
    "load",
    "parse_hf_cache",
    "parse_seconds",
    "parse_size",
    "proxies",
    "resolve",
    "service_manager",
    "split_secrets",
    "token_variable",
]
