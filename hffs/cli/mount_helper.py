"""``mount.hffs``: run by mount(8) for ``mount -t hffs ORG/NAME DIR -o OPTIONS`` and for lines of /etc/fstab.

The options are those of ``hffs mount``, with underscores or dashes, besides those of every mount. Exit codes are
mount(8)'s: 0 mounted, 1 wrong use, 4 internal error, 8 interrupted, 32 mount failed. Main thread only.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..config import SETTINGS
from ..errors import HffsError, UsageError
from ..names import shown
from .parser import Parser

__all__ = ["main"]

# Meant for mount(8), systemd and mount -a, not for the file system (mount(8), systemd.mount(5)); and options without
# effect: every mount is read-only, has no devices or set-uid files, and its times never change. mount(8) passes rw
# where ro is not given.
_IGNORED: Final = (
    "defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup",
    "_netdev", "nofail", "loud", "silent", "comment",
    "ro", "rw", "nosuid", "suid", "nodev", "dev", "exec", "async", "sync", "dirsync", "atime", "noatime", "relatime",
    "norelatime", "strictatime", "nostrictatime", "diratime", "nodiratime", "lazytime", "nolazytime", "mand", "nomand",
    "iversion", "noiversion", "default_permissions",
)  # fmt: skip
_NAMES: Final = ("type", "revision", "subfolder", "config")
_PIECE: Final = re.compile(r'((?:[^,"]|"[^"]*")+)')  # a comma between quotes separates nothing, as for mount(8)


@dataclass(frozen=True, slots=True)
class Options:
    """The value of ``-o``: settings, names of the repo, and ``noexec``, an option of the mount itself."""

    settings: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    noexec: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the helper; returns mount(8)'s exit code."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except UsageError as wrong:
        return _print_error(str(wrong), 1)
    except HffsError as wrong:
        return _print_error(str(wrong), 32)
    except KeyboardInterrupt:
        return _print_error("interrupted", 8)
    except OSError as wrong:
        return _print_error(f"{wrong.strerror or wrong} {wrong.filename or ''}".rstrip(), 32)
    except Exception as wrong:  # noqa: BLE001 - the last resort: a bug is printed in one line
        return _print_error(f"internal error ({type(wrong).__name__}: {wrong})", 4)


def _run(words: list[str]) -> int:
    grammar = Parser(prog="mount.hffs", description="Run by mount -t hffs.")
    grammar.add_argument("source", metavar="REPO")
    grammar.add_argument("directory", metavar="DIR")
    grammar.add_argument("-o", dest="options", metavar="OPTIONS", action="append", default=[])
    grammar.add_argument("-s", dest="sloppy", action="store_true", help="ignore unknown options")
    grammar.add_argument("-f", dest="fake", action="store_true", help="check everything, mount nothing")
    grammar.add_argument("-v", dest="verbose", action="store_true", help="print what was mounted")
    grammar.add_argument("-n", action="store_true", help="no effect: nothing is written to /etc/mtab")
    grammar.add_argument("-t", dest="type", metavar="TYPE", help="no effect")
    grammar.add_argument("-N", dest="namespace", metavar="NAMESPACE", help="mount in this mount namespace")
    try:
        args = grammar.parse_args(words)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    if args.namespace:
        _run_in_namespace(args.namespace, words)
    options = parse(",".join(args.options), sloppy=args.sloppy)
    from ..api import mount
    from ..daemon import launcher
    from ..system import mount_table

    spec = mount.plan(args.source, args.directory, options.settings, **options.names)
    if args.fake:
        return 0
    ready = launcher.start_daemon(replace(spec, source=args.source))
    if options.noexec and os.geteuid() == 0:
        mount_table.forbid_execution(spec.mountpoint)
    if ready.warning:
        _print_error(ready.warning, 0)
    if args.verbose:
        print(shown(f"mount.hffs: {ready.repo} is mounted at {spec.mountpoint} (commit {ready.commit[:12]})"))
    return 0


def parse(text: str, *, sloppy: bool = False) -> Options:
    """The options of one mount. Raises UsageError: unknown (unless ``sloppy``), without a value, or wrong."""
    settings: dict[str, Any] = {}
    names: dict[str, str] = {}
    noexec = False
    for piece in _PIECE.findall(text):
        word, equals, value = piece.partition("=")
        value = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        name = word.strip().replace("-", "_")
        if word in _IGNORED or word.lower().startswith("x-"):
            noexec = noexec and word != "exec"
        elif word == "noexec":
            noexec = True
        elif word == "remount":
            raise UsageError("the options of a mount cannot be changed", "unmount it, then mount it again")
        elif name in SETTINGS:
            settings[name] = _setting(name, word, value if equals else None, settings.get(name))
        elif name in _NAMES:
            names[name] = _required(word, value)
        elif not sloppy:
            raise UsageError(f"unknown option {word}", _closest(name))
    if "config" in names:
        settings["config"] = names.pop("config")
    return Options(settings, names, noexec)


def _setting(name: str, word: str, value: str | None, before: Any) -> Any:
    kind = SETTINGS[name].kind
    if value is None and kind.name == "switch":
        return True
    text = _required(word, value)
    if kind.name == "patterns":  # taken literally; patterns of a repeated option add up
        return (*(before or ()), text)
    try:
        return kind.parse(text)
    except UsageError as wrong:
        raise UsageError(f"{word}: {wrong.what}", wrong.remedy) from None


def _required(word: str, value: str | None) -> str:
    if not value:
        raise UsageError(f"{word} needs a value", f"write {word}=…")
    return value


def _closest(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, [*SETTINGS, *_NAMES, *_IGNORED, "noexec"], 1, 0.6)
    return f"did you mean {close[0]}?" if close else "hffs mount --help lists the options"


def _run_in_namespace(namespace: str, words: list[str]) -> None:
    """Replaces this process by the helper in another mount namespace: a pid, or a path as mount(8) passes it."""
    from ..daemon import launcher

    path = f"/proc/{namespace}/ns/mnt" if namespace.isdigit() else namespace
    at = words.index("-N") if "-N" in words else next(n for n, word in enumerate(words) if word.startswith("-N"))
    rest = words[:at] + words[at + (2 if words[at] == "-N" else 1) :]
    command = ["nsenter", f"--mount={path}", "--", sys.executable, "-P", "-m", "hffs.cli.mount_helper", *rest]
    os.execvpe(command[0], command, launcher.environ())  # noqa: S606 - without a shell


def _print_error(text: str, code: int) -> int:
    print(f"mount.hffs: {shown(text)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
