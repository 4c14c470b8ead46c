"""``hffs config``: the settings in effect and their sources. Passwords in URLs are not shown."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ... import config
from ...errors import UsageError
from ...names import shown
from .. import options
from ..display import units
from ..display.tables import print_json, print_table

EXAMPLES = (("hffs config", "values and their sources"), ("hffs config --cache-size 50G --json", ""))


def declare(parser: argparse.ArgumentParser) -> None:
    about = f"for the mount that NAME.toml in {options.CONFIG_DIRS} describes"
    parser.add_argument("mount", metavar="@NAME", nargs="?", help=about)
    options.add_json(parser)
    options.add_settings(parser, options.ALL)


def run(args: argparse.Namespace) -> int:
    if args.mount is not None and not args.mount.startswith("@"):
        raise UsageError(f"{args.mount!r} is not the name of a mount's file", "write @NAME")
    resolved = config.resolve(options.given(args), mount=args.mount[1:] if args.mount else None)
    rows = [(config.SETTINGS[name], getattr(resolved.settings, name), resolved.origins[name]) for name in options.ALL]
    if args.json:
        settings = [
            {
                "name": row.key,
                "value": _without_password(value) if isinstance(value, str) else value,
                "origin": origin.kind,
                "where": origin.where,
            }
            for row, value, origin in rows
        ]
        files = [{"path": path, "read": found} for path, found in resolved.files]
        mount = {"mount": dict(resolved.mount_keys)} if resolved.mount_keys else {}
        print_json({"settings": settings, "files": files, **mount})
        return 0
    for key, value in resolved.mount_keys.items():
        print(shown(f"{key}: {value}"))
    cells = [[row.key, _text(row, value), origin.where or origin.kind] for row, value, origin in rows]
    print_table(["SETTING", "VALUE", "FROM"], cells, fold=[1, 2])
    print()
    for path, found in resolved.files:
        print(shown(f"{path}: {'read' if found else 'does not exist'}"))
    if not resolved.files:
        print("no file is read")
    return 0


def _text(row: config.Setting, value: Any) -> str:
    if value is None or value in ("", ()):
        return row.unset
    match row.kind.name:
        case "rate":
            return units.rate(value)
        case "size":
            return units.size(value)
        case "time":
            return f"{value:g} s"
        case "switch":
            return "yes" if value else "no"
        case "patterns":
            return " ".join(value)
    return _without_password(str(value))


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@]*@", "://…@", text)
