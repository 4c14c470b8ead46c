"""The options that commands share: settings, how a repo is named, JSON; and their values for ``hffs.api``."""

from __future__ import annotations

import argparse
from typing import Any, Final

from .. import config
from ..config import SETTINGS

REPO: Final = "[hf://][datasets/|spaces/]ORG/NAME[@REVISION][/PATH]"
TARGET: Final = "a mountpoint, a path inside one, or a repo"
CONFIG_DIRS: Final = "~/.config/hffs or /etc/hffs"
SETTINGS_HINT: Final = (
    "Each setting is also an environment variable (--cache-dir is HFFS_CACHE_DIR) and a key in hffs.toml (cache-dir);"
    " hffs config shows the values in effect and their sources."
)
TYPES: Final = ("model", "dataset", "space")


def _group(title: str) -> tuple[str, ...]:
    return tuple(name for name, row in SETTINGS.items() if row.group == title)


ALL: Final = tuple(name for name in SETTINGS if name != "debug")
PATTERNS: Final = ("include", "exclude")
HUB: Final = _group("Hub")
LISTING: Final = (*PATTERNS, "cache_dir", *HUB)  # what a command that lists a repo uses
HYDRATION: Final = (*_group("cache"), *_group("speed"), *PATTERNS, *HUB, "runtime_dir")
_MANY: Final = 6  # settings; fewer are listed among the other options


def add_json(parser: argparse.ArgumentParser, what: str = "JSON") -> None:
    parser.add_argument("--json", action="store_true", help=f"print {what}, for programs")


def add_repo_options(parser: argparse.ArgumentParser, *, subfolder: bool = True) -> None:
    parser.add_argument("--type", choices=TYPES, help="same as the prefix of REPO")
    parser.add_argument("--revision", metavar="REV", help="branch, tag, refs/pr/N or commit: same as @REVISION")
    if subfolder:
        parser.add_argument("--subfolder", metavar="PATH", help="only this folder: same as /PATH")


def repo_options(args: argparse.Namespace) -> dict[str, Any]:
    return {"type": args.type, "revision": args.revision, "subfolder": args.subfolder}


def add_settings(parser: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    """Options of these settings, below the headings of their groups where there are many."""
    headings: dict[str, Any] = {}
    for name in names:
        row = SETTINGS[name]
        place: Any = parser
        if len(names) > _MANY:
            place = headings.get(row.group) or headings.setdefault(row.group, parser.add_argument_group(row.group))
        option = f"--{row.key}"
        if row.kind.name == "switch":
            place.add_argument(option, action="store_const", const=True, help=row.help)
        elif row.kind.name == "patterns":  # taken literally: a file name may contain blanks and commas
            place.add_argument(option, metavar=row.kind.metavar, action="append", help=row.help)
        else:
            place.add_argument(option, metavar=row.kind.metavar, type=row.kind.parse, help=row.help)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings given as options, for ``config.load`` and the functions of ``hffs.api``."""
    found = {name: getattr(args, name, None) for name in (*SETTINGS, "config")}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in found.items() if value is not None
    }


def settings(args: argparse.Namespace) -> config.Settings:
    return config.load(given(args))
