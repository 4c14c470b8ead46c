"""Configuration files: where they are, in which order they apply, and their keys with raw values.

``settings`` checks the values. tomllib is imported only when a file exists, so that ``hffs status`` costs two failed
opens where there is none. Functions and values only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import HffsError, NotFound, UsageError
from .environment import user_dir

SYSTEM: Final = "/etc/hffs"
GENERAL: Final = "hffs.toml"
NONE: Final = "none"  # as the name of the file: read neither the system's nor the user's
_LARGEST: Final = 1024 * 1024  # no hand-written file is larger
_KEY: Final = re.compile(r"""\s*(?:\[\s*)?(?:"([^"]+)"|'([^']+)'|([\w-]+))\s*[=.\]]""")
_EXAMPLE: Final = 'write lines like cache-size = "50G"'


@dataclass(frozen=True, slots=True)
class RawValue:
    """One key of a file: ``key`` as written there (cut to 100 characters), ``value`` as TOML parsed it, ``where`` as
    FILE:LINE."""

    key: str
    value: Any
    where: str


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file to look for; one that was ``named`` explicitly must exist."""

    path: str
    named: bool = False


def general(named: str | None, environ: Mapping[str, str]) -> list[ConfigFile]:
    """The files for all mounts; a later one overrides an earlier one. ``named`` is --config or HFFS_CONFIG."""
    if named is not None and named.strip().lower() == NONE:
        return []
    found = [ConfigFile(os.path.join(folder, GENERAL)) for folder in (SYSTEM, user_dir(environ))]
    if named:
        found.append(ConfigFile(os.path.abspath(os.path.expanduser(named)), named=True))
    return found


def mount_file(name: str, environ: Mapping[str, str]) -> ConfigFile:
    """The file of one mount: the user's NAME.toml, else the system's. Raises UsageError (not a valid file name),
    NotFound."""
    if not name or name.startswith(".") or "/" in name or "\0" in name or f"{name}.toml" == GENERAL:
        raise UsageError(f"@{name} is not the name of a mount's file", f"NAME must be that of {SYSTEM}/NAME.toml")
    paths = [os.path.join(folder, f"{name}.toml") for folder in (user_dir(environ), SYSTEM)]
    for path in paths:
        if os.path.lexists(path):
            return ConfigFile(path, named=True)
    raise NotFound(f"there is neither {paths[0]} nor {paths[1]}", 'write one with repo = "ORG/NAME" in it')


def read(file: ConfigFile) -> dict[str, RawValue] | None:
    """The file's values by key, dashes replaced by underscores; None when it does not exist and was not named.

    Raises NotFound, HffsError (unreadable), UsageError (not TOML, or one key in both spellings).
    """
    try:
        with open(file.path, "rb") as opened:
            content = opened.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        if not file.named:
            return None
        raise NotFound(f"{file.path} does not exist", "name an existing file, or none") from None
    except OSError as wrong:
        raise HffsError(f"cannot read {file.path} ({wrong.strerror})", "repair it, or set HFFS_CONFIG=none") from None
    if len(content) > _LARGEST:
        raise UsageError(f"{file.path} is too large for a configuration file", "at most 1 MiB")
    import tomllib  # 4 ms

    try:
        text = content.decode("utf-8")
        parsed = tomllib.loads(text)
    except UnicodeDecodeError as wrong:
        raise UsageError(f"{file.path} is not UTF-8 text (at byte {wrong.start})") from None
    except tomllib.TOMLDecodeError as wrong:
        raise UsageError(f"{file.path} is not valid TOML: {wrong}", _EXAMPLE) from None
    except (ValueError, RecursionError):  # raised by Python: a number of thousands of digits, or deep nesting
        raise UsageError(f"{file.path} contains a number that is too long, or nesting too deep", _EXAMPLE) from None
    found: dict[str, RawValue] = {}
    lines = _line_numbers(text)
    for key, value in parsed.items():
        shown = key if len(key) < 100 else f"{key[:100]}…"
        raw = RawValue(shown, value, f"{file.path}:{lines[key]}" if key in lines else file.path)
        name = key.replace("-", "_")
        if name in found:
            raise UsageError(f"{raw.where}: {found[name].key} and {shown} are the same setting", "remove one of them")
        found[name] = raw
    return found


def _line_numbers(text: str) -> dict[str, int]:
    """The first line that begins with each key, for keys in their plain spelling."""
    found: dict[str, int] = {}
    for number, content in enumerate(text.split("\n"), 1):
        match = _KEY.match(content)
        if match:
            found.setdefault(match[1] or match[2] or match[3], number)
    return found
