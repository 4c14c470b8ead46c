"""Configuration files: where they lie, in which order they count, and what they say as it stands.

Used by ``config``, which alone knows the settings and checks what was said. tomllib is imported when a file is there,
so that ``hffs status`` costs no more than two looks where there is none. Functions and values only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import HffsError, NotFound, UsageError

SYSTEM: Final = "/etc/hffs"
GENERAL: Final = "hffs.toml"
NONE: Final = "none"  # said instead of a file: read none at all, neither the system's nor the user's
# More than this is not something that a person wrote; it is somebody's data under the wrong name.
_LARGEST: Final = 1024 * 1024
_KEY: Final = re.compile(r"""\s*(?:\[\s*)?(?:"([^"]+)"|'([^']+)'|([\w-]+))\s*[=.\]]""")


@dataclass(frozen=True, slots=True)
class RawValue:
    """One key of a file: ``key`` as it is written there, of a long one the beginning, its ``value`` as TOML has it,
    ``where`` as FILE:LINE."""

    key: str
    value: Any
    where: str


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that may say something; one that was ``named`` must be there."""

    path: str
    named: bool = False


def user_dir(environ: Mapping[str, str]) -> str:
    """The user's own folder: ``$XDG_CONFIG_HOME/hffs``, else ``~/.config/hffs``."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(home, "hffs")


def general(named: str | None, environ: Mapping[str, str]) -> list[ConfigFile]:
    """The files that hold for every mount; what a later one says counts. ``named`` is --config or HFFS_CONFIG."""
    if named is not None and named.strip().lower() == NONE:
        return []
    found = [ConfigFile(os.path.join(folder, GENERAL)) for folder in (SYSTEM, user_dir(environ))]
    if named:
        found.append(ConfigFile(os.path.abspath(os.path.expanduser(named)), named=True))
    return found


def of_mount(name: str, environ: Mapping[str, str]) -> ConfigFile:
    """The file of one mount: NAME.toml among the user's files, else among the system's. Raises UsageError (no name of
    a file), NotFound."""
    if not name or name.startswith(".") or "/" in name or "\0" in name or f"{name}.toml" == GENERAL:
        raise UsageError(f"@{name} names no file of a mount", f"name NAME of {SYSTEM}/NAME.toml")
    places = [os.path.join(folder, f"{name}.toml") for folder in (user_dir(environ), SYSTEM)]
    for path in places:
        if os.path.lexists(path):
            return ConfigFile(path, named=True)
    raise NotFound(f"there is neither {places[0]} nor {places[1]}", 'write one with repo = "ORG/NAME" in it')


def read(place: ConfigFile) -> dict[str, RawValue] | None:
    """What a file says, by key with dashes as underscores; None when there is no such file and none was named.

    Raises NotFound, HffsError (it cannot be read), UsageError (no TOML, or one key in both spellings).
    """
    try:
        with open(place.path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        if not place.named:
            return None
        raise NotFound(f"there is no {place.path}", "name a file that exists, or none") from None
    except OSError as wrong:
        raise HffsError(f"{place.path} cannot be read ({wrong.strerror})", "mend it, or set HFFS_CONFIG=none") from None
    if len(content) > _LARGEST:
        raise UsageError(f"{place.path} is too big for a configuration file", "at most 1 MiB")
    import tomllib  # 4 ms

    try:
        text = content.decode("utf-8")
        told = tomllib.loads(text)
    except UnicodeDecodeError as wrong:
        raise UsageError(f"{place.path} is no text in UTF-8 (at byte {wrong.start})") from None
    except tomllib.TOMLDecodeError as wrong:
        raise UsageError(f"{place.path} is no TOML: {wrong}", 'write lines like cache-size = "50G"') from None
    except (ValueError, RecursionError):  # of Python: a number of thousands of digits, or so many brackets
        remedy = 'write lines like cache-size = "50G"'
        raise UsageError(f"{place.path} has a number too long, or lists too deep", remedy) from None
    found: dict[str, RawValue] = {}
    lines = _lines(text)
    for key, value in told.items():
        shown = key if len(key) < 100 else f"{key[:100]}…"
        said = RawValue(shown, value, f"{place.path}:{lines[key]}" if key in lines else place.path)
        name = key.replace("-", "_")
        if name in found:
            raise UsageError(
                f"{said.where}: {found[name].key} and {shown} are the same setting", "leave one of them out"
            )
        found[name] = said
    return found


def _lines(text: str) -> dict[str, int]:
    """The line of each key, as far as keys are written plainly: the first that begins with it."""
    found: dict[str, int] = {}
    for number, content in enumerate(text.split("\n"), 1):
        match = _KEY.match(content)
        if match:
            found.setdefault(match[1] or match[2] or match[3], number)
    return found
