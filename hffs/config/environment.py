"""What the environment contains besides settings: directories, the token, systemd, proxies, a helper's environment.

``environ`` defaults to this process's. Functions and values only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

from .values import parse_hf_cache

# Secrets that huggingface_hub reads from the environment: tokens, in its order, and the identity tokens of CI jobs,
# which it exchanges for one.
SECRETS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN")
# Addressed to the main process of a systemd service, and to no child of it.
SYSTEMD_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_HELPERS: Final = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LANG", "TMPDIR")  # what a program needs to start


def service_manager(environ: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """How to notify systemd (sd_notify(3), sd_watchdog_enabled(3)): ``address`` of its socket and ``watchdog_s``, the
    longest interval between two signs of life, or None; None when the process is no notifying service."""
    env = os.environ if environ is None else environ
    address = env.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    interval, pid = env.get("WATCHDOG_USEC", ""), str(os.getpid())
    watched = env.get("WATCHDOG_PID", pid) == pid and re.fullmatch("[0-9]{1,18}", interval) and int(interval) > 0
    return {"address": address, "watchdog_s": int(interval) / 1e6 if watched else None}


def is_journal(descriptor: int, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the descriptor is connected to the systemd journal (systemd.exec(5), JOURNAL_STREAM)."""
    named = (os.environ if environ is None else environ).get("JOURNAL_STREAM", "")
    if not named:
        return False
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def token_variable(environ: Mapping[str, str] | None = None) -> str | None:
    """The variable that huggingface_hub takes the token from, or None."""
    env = os.environ if environ is None else environ
    return next((name for name in SECRETS[:2] if env.get(name, "").strip()), None)


def split_secrets(environ: Mapping[str, str] | None = None) -> tuple[dict[str, str], dict[str, str]]:
    """The environment without its secrets, and the secrets: passed to a child on a pipe, they are not readable in its
    /proc/PID/environ."""
    env = os.environ if environ is None else environ
    return (
        {name: value for name, value in env.items() if name not in SECRETS},
        {name: value for name, value in env.items() if name in SECRETS},
    )


def keep_secrets(secrets: Mapping[str, str]) -> None:
    """Puts what ``split_secrets`` took out into ``os.environ``, where the libraries of this process look for it, but
    not into the environment that its children inherit (such as libfuse's fusermount3)."""
    for name, value in secrets.items():
        if name in SECRETS:
            os.environ[name] = value
            os.unsetenv(name)  # removes it from the process's environment; os.environ keeps its copy


def helper_environ(**more: str) -> dict[str, str]:
    """The whole environment of a short-lived helper process (fusermount3, a mountpoint check), and ``more``."""
    return {**{name: os.environ[name] for name in _HELPERS if name in os.environ}, **more}


def proxies(environ: Mapping[str, str] | None = None) -> list[str]:
    """The proxy variables that requests and huggingface_hub obey and that are set, in capitals."""
    env = os.environ if environ is None else environ
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return [name for name in names if env.get(name) or env.get(name.lower())]


def default_cache_dir(environ: Mapping[str, str]) -> str:
    if environ.get("XDG_CACHE_HOME"):
        return os.path.join(environ["XDG_CACHE_HOME"], "hffs")
    if os.geteuid() == 0:
        return "/var/cache/hffs"
    return os.path.join(_home(environ), ".cache", "hffs")


def default_hf_cache(environ: Mapping[str, str]) -> str:
    """huggingface_hub's cache when no variable names it, by the rules of its constants.py."""
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(_home(environ), ".cache")
    return parse_hf_cache(os.path.join(environ.get("HF_HOME") or os.path.join(cache, "huggingface"), "hub"))


def default_runtime_dir(environ: Mapping[str, str]) -> str:
    """The directory of control sockets, owned by the user with mode 0700 (created when the first socket is bound).

    Root uses /run/hffs in a login session too, where logind sets another one: services' mounts are found there, and
    /run/user/0 is removed when root logs out."""
    named = environ.get("XDG_RUNTIME_DIR")
    if named and not (os.geteuid() == 0 and os.path.normpath(named) == "/run/user/0"):
        return os.path.join(named, "hffs")
    if os.geteuid() == 0:
        return "/run/hffs"
    from tempfile import gettempdir  # 4 ms

    return os.path.join(environ.get("TMPDIR") or gettempdir(), f"hffs-{os.geteuid()}")


def user_dir(environ: Mapping[str, str]) -> str:
    """The user's configuration directory: ``$XDG_CONFIG_HOME/hffs``, else ``~/.config/hffs``."""
    return os.path.join(environ.get("XDG_CONFIG_HOME") or os.path.join(_home(environ), ".config"), "hffs")


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")
