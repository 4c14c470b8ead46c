"""``hffs config``: the settings that hold, and where each is from; and ``--config``, which every command takes.

``declare`` and ``declare_file`` are used by the grammar, ``show`` by ``main``. Imports nothing heavy. Secrets are no
settings, and what a URL may hold of one is not shown.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, Final

from .. import config
from . import output

NAMED: Final = "of ~/.config/hffs or /etc/hffs"


def declare_file(parser: argparse.ArgumentParser) -> None:
    """``--config FILE``."""
    about = "a file of settings that counts after hffs.toml of /etc/hffs and of ~/.config/hffs; none: read no file"
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=about)


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mount", metavar="@NAME", nargs="?", help=f"as for the mount of NAME.toml, {NAMED}")
    parser.set_defaults(module="configuring", call="show")


def show(args: argparse.Namespace) -> int:
    from ..errors import UsageError
    from .parser import flags

    if args.mount is not None and not args.mount.startswith("@"):
        raise UsageError(f"{args.mount!r} names no file of a mount", "write @NAME")
    decided = config.resolve(flags(args), mount=args.mount[1:] if args.mount else None)
    names = [name for name in config.SETTINGS if name != "debug"]
    if args.json:
        output.as_json(_for_programs(decided, names))
        return 0
    for word, value in decided.mount_keys.items():
        print(output.shown(f"{word}: {value}"))
    rows = [[_spelt(name), _value(name, getattr(decided.settings, name)), _origin(decided, name)] for name in names]
    output.table(["SETTING", "VALUE", "FROM"], rows, fold=[1, 2])
    print()
    for path, there in decided.files:
        print(output.shown(f"{path}: {'read' if there else 'not there'}"))
    if not decided.files:
        print("no file is read")
    return 0


def _for_programs(decided: config.ResolvedSettings, names: list[str]) -> dict[str, Any]:
    def one(name: str) -> dict[str, Any]:
        value, origin = getattr(decided.settings, name), decided.origins[name]
        told = _without_password(value) if isinstance(value, str) else value
        return {"name": _spelt(name), "value": told, "origin": origin.kind, "where": origin.where}

    return {
        "settings": [one(name) for name in names],
        "files": [{"path": path, "read": there} for path, there in decided.files],
        **({"mount": dict(decided.mount_keys)} if decided.mount_keys else {}),
    }


def _origin(decided: config.ResolvedSettings, name: str) -> str:
    origin = decided.origins[name]
    return origin.where or origin.kind


def _value(name: str, value: Any) -> str:
    kind = config.SETTINGS[name].kind.name
    if value is None or value in ("", ()):
        return config.SETTINGS[name].unset
    if kind == "rate":
        return output.rate(value)
    if kind == "size":
        return output.size(value)
    if kind == "time":
        return f"{value:g} s"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(value) if isinstance(value, tuple) else _without_password(str(value))


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@]*@", "://…@", text)


def _spelt(name: str) -> str:
    return name.replace("_", "-")
