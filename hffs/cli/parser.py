"""The command line's grammar: commands, options, and what of them are settings.

Used by ``main``. Mistakes are raised as UsageError, so that they are told like every other error. No state.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final, NoReturn

from ..config import PARSERS, parse_seconds, parse_size
from ..errors import UsageError

_REPO: Final = "[hf://][datasets/|spaces/]ORG/NAME[@REVISION][/PATH]"
_TARGET: Final = "a mountpoint, a path inside one, or a repo"

# Help of the settings, in the order it is shown; a {} takes nothing. All of them are also HFFS_… in the environment.
_HELP: Final = {
    "cache_dir": (
        "DIR",
        "where fetched blocks are kept (default: $XDG_CACHE_HOME/hffs, ~/.cache/hffs; root: /var/cache/hffs)",
    ),
    "cache_size": ("SIZE", "of the cache at most; the least recently used blocks go (default: what --min-free leaves)"),
    "min_free": ("SIZE", "of the cache's disk that stays free (default 2G, on a small disk a tenth of it)"),
    "hf_cache": (
        "DIR",
        "huggingface_hub's cache, whose files are used as they are (default: $HF_HUB_CACHE; none: not at all)",
    ),
    "workers": (
        "N",
        "connections at once at most, 2 for waiting readers only (default: as many as pay, 16 a core but one)",
    ),
    "bandwidth": ("SIZE", "bytes a second that may be fetched in all; waiting readers go first (default: no limit)"),
    "min_worker_speed": ("SIZE", "bytes a second that each worker on big files must bring for more (default 3M)"),
    "probe_seconds": ("TIME", "for the first stretch of big files, measured with one worker, at most (default 5 s)"),
    "big_file": ("SIZE", "from which hydrating uses as many workers as measuring shows to pay (default 200M)"),
    "fetch_size": ("SIZE", "bytes asked for in one request, at most (default 4M)"),
    "prefetch": (
        "none|small|all",
        "what is fetched before it is read: nothing, a model's small files, or also the rest of what is read (small)",
    ),
    "include": ("PATTERN", "only files that match; may be given several times"),
    "exclude": ("PATTERN", "leave out files that match; may be given several times"),
    "offline": (None, "ask no server: what was last seen of the repo is shown, what is here can be read"),
    "allow_other": (None, "let other users read the mount"),
    "read_timeout": ("TIME", "after which a read that got no bytes fails (default 120 s)"),
    "binding": ("auto|kernel|libfuse", "what talks to the kernel (default auto)"),
    "endpoint": ("URL", "the Hub (default $HF_ENDPOINT, https://huggingface.co)"),
    "token_file": ("FILE", "file that holds the access token (default: where hf auth login puts it)"),
    "runtime_dir": ("DIR", "where control sockets lie (default: $XDG_RUNTIME_DIR/hffs; root: /run/hffs)"),
    "log_level": ("LEVEL", "debug, info, warning or error (default info)"),
    "log_file": ("FILE", "where the daemon logs (default: beside its control socket)"),
}
_TYPES: Final = ("model", "dataset", "space")
_HUB: Final = ("endpoint", "token_file", "offline")
_ASKED: Final = ("runtime_dir",)  # to find the mount that a path lies in
_PATTERNS: Final = ("include", "exclude")
_WORKERS: Final = ("workers", "bandwidth", "min_worker_speed", "probe_seconds", "big_file", "fetch_size")
_CACHE: Final = ("cache_dir", "cache_size", "min_free", "hf_cache")
_HYDRATING: Final = (*_PATTERNS, *_WORKERS, *_CACHE, *_HUB, "runtime_dir")


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is a UsageError: one line, told where all errors are told."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "), f"see {self.prog} --help")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from .. import __version__

        print(f"hffs {__version__}")
        parser.exit()


def _debug() -> Parser:
    made = Parser(add_help=False)
    made.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="log more, show tracebacks")
    return made


def build() -> Parser:
    """The parser of ``hffs``; what it parses has ``command``, unless none was given."""
    debug = _debug()
    about = "Mount a Hugging Face model or dataset as a directory."
    parser = Parser(prog="hffs", description=about, parents=[debug], allow_abbrev=False)
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version and exit"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(name: str, about: str, **more: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", parents=[debug], allow_abbrev=False, **more
        )
        assert isinstance(made, Parser)
        return made

    every = "Each option is also a variable in the environment: --cache-dir is HFFS_CACHE_DIR."
    mount = command("mount", "show a repo as a read-only directory", epilog=every)
    mount.add_argument("repo", metavar="REPO", help=_REPO)
    mount.add_argument("mountpoint", metavar="MOUNTPOINT", help="an empty directory")
    mount.add_argument("-f", "--foreground", action="store_true", help="stay, instead of going to the background")
    _add_naming(mount)
    _add_settings(mount, tuple(_HELP))

    unmount = command("unmount", "end a mount", aliases=["umount"])
    unmount.add_argument("target", metavar="MOUNTPOINT", help=_TARGET)
    unmount.add_argument("--lazy", action="store_true", help="even when busy: gone once nobody uses it any more")
    _add_settings(unmount, ("runtime_dir",))

    restart = command("restart", "replace a mount's daemon under running readers, after an upgrade for instance")
    restart.add_argument("target", metavar="MOUNTPOINT", help=_TARGET)
    _add_settings(restart, ("runtime_dir",))

    bandwidth = command("bandwidth", "tell or change how many bytes a second a mount may fetch")
    bandwidth.add_argument("target", metavar="MOUNTPOINT", help=_TARGET)
    bandwidth.add_argument("rate", metavar="SIZE", nargs="?", type=_checked(parse_size), help="0: no limit")
    _add_settings(bandwidth, ("runtime_dir",))

    status = command("status", "tell what the mounts are doing")
    status.add_argument("target", metavar="TARGET", nargs="?", help=f"{_TARGET} (default: every mount of yours)")
    _add_json(status)
    _add_settings(status, ("runtime_dir",))

    hydrate = command("hydrate", "bring a mount or repo to local disk and verify it", epilog=every)
    hydrate.add_argument("target", metavar="TARGET", help=_TARGET)
    hydrate.add_argument("--to", metavar="DIR", help="also lay the files in this folder, linked where that is possible")
    hydrate.add_argument(
        "--to-hf-cache",
        action="store_true",
        help="also show a repo's files in huggingface_hub's cache (--hf-cache), for from_pretrained offline",
    )
    hydrate.add_argument("--force", action="store_true", help="fetch anew what is here already")
    _add_naming(hydrate)
    hydrate.add_argument("--json", action="store_true", help="print one JSON object a line as things happen")
    _add_settings(hydrate, _HYDRATING)

    verify = command("verify", "check what is local against the Hub's hashes, and mend it", epilog=every)
    verify.add_argument("target", metavar="TARGET", nargs="?", help=f"{_TARGET}, or any folder")
    verify.add_argument("--all", action="store_true", help="every repo of which the cache has something")
    verify.add_argument("--fix", action="store_true", help="drop what is bad, and fetch it again")
    verify.add_argument(
        "--require",
        metavar="PATTERN",
        action="append",
        default=[],
        help="files that must be there, whole and right; may be given several times",
    )
    verify.add_argument("--repo", metavar="REPO", help="what a folder is of, where that does not show")
    _add_naming(verify)
    verify.add_argument("--json", action="store_true", help="print one JSON object a line as things happen")
    _add_settings(verify, _HYDRATING)

    _add_cache(
        command("cache", "list, drop, keep and check what is on this disk").add_subparsers(
            dest="action", metavar="ACTION", parser_class=Parser, required=True
        )
    )

    ls = command("ls", "list the files of a repo, without mounting it")
    ls.add_argument("repo", metavar="REPO[/PATH]", help=_REPO)
    ls.add_argument("-r", "-R", "--recursive", action="store_true", help="also what lies in its folders")
    _add_naming(ls)
    _add_json(ls)
    _add_settings(ls, (*_PATTERNS, "cache_dir", *_HUB))

    info = command("info", "tell a repo's commit, size and access, without mounting it")
    info.add_argument("repo", metavar="REPO", help=_REPO)
    _add_naming(info)
    _add_json(info)
    _add_settings(info, (*_PATTERNS, "cache_dir", *_HUB))

    du = command("du", "tell how big a mount or repo is, and how much of it is on this disk")
    du.add_argument("target", metavar="TARGET", help=_TARGET)
    _add_naming(du)
    _add_json(du)
    _add_settings(du, (*_PATTERNS, "cache_dir", *_HUB, "runtime_dir"))
    return parser


def cache_action(
    actions: Any, name: str, about: str, *, module: str = "caching", call: str = "", settings: tuple[str, ...] = ()
) -> argparse.ArgumentParser:
    """A new ``hffs cache NAME`` among ``actions``, done by ``call`` (default: of that name) in ``hffs.cli``'s
    ``module``."""
    made: argparse.ArgumentParser = actions.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", parents=[_debug()], allow_abbrev=False
    )
    made.set_defaults(module=module, call=call or name)
    _add_settings(made, ("cache_dir", *settings))
    return made


def _add_cache(actions: Any) -> None:
    which = f"a repo (without @REVISION: all of it that is known), {_REPO}, or a path in a mount"
    about = "tell which repos and revisions are here, and how much of each"
    _add_json(cache_action(actions, "list", about, call="show"))

    evict = cache_action(actions, "evict", "drop a repo, revision, folder or file from this disk", settings=_ASKED)
    evict.add_argument("targets", metavar="TARGET", nargs="+", help=which)
    evict.add_argument("--shared", action="store_true", help="also what other revisions or files have the content of")

    prune = cache_action(actions, "prune", "drop what no revision needs as it was last seen", settings=("runtime_dir",))
    older = "also what nobody has used for so long, be it complete or not: 30 (days), 12h, 90d"
    prune.add_argument("--older", metavar="TIME", type=_checked(_days), help=older)

    for name, about in (("pin", "keep what is here of a TARGET, whatever goes"), ("unpin", "keep it no longer")):
        made = cache_action(actions, name, about, settings=_ASKED)
        made.add_argument("targets", metavar="TARGET", nargs="+", help=which)

    about = "take over what huggingface_hub has downloaded, without fetching it again"
    adopt = cache_action(actions, "adopt", about, module="hub_cache", settings=("hf_cache", "endpoint"))
    adopt.add_argument("repos", metavar="REPO", nargs="*", help="[datasets/|spaces/]ORG/NAME (default: all there)")
    adopt.add_argument("--type", choices=_TYPES, help="the same as the prefix of REPO")
    _add_json(adopt)

    about = "show a repo in huggingface_hub's cache, for from_pretrained offline"
    using = ("hf_cache", *_PATTERNS, "workers", "bandwidth", *_HUB)
    export = cache_action(actions, "export", about, module="hub_cache", settings=using)
    export.add_argument("repo", metavar="REPO", help=_REPO)
    export.add_argument("--type", choices=_TYPES, help="the same as the prefix of REPO")
    export.add_argument("--revision", metavar="REV", help="branch, tag, refs/pr/N or commit: the same as @REVISION")
    export.add_argument("--no-fetch", action="store_true", help="only what is here; tell what is missing otherwise")
    _add_json(export)

    check = cache_action(actions, "check", "look through all blocks and their records for damage")
    check.add_argument("--repair", action="store_true", help="drop what is damaged, to be fetched again, and leftovers")
    _add_json(check)


def _days(text: str) -> float:
    return parse_seconds(f"{text}d" if text.strip().isdigit() else text)


def flags(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, for ``config.load``."""
    given = {name: getattr(args, name, None) for name in PARSERS}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _add_naming(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--type", choices=_TYPES, help="the same as the prefix of REPO")
    parser.add_argument("--revision", metavar="REV", help="branch, tag, refs/pr/N or commit: the same as @REVISION")
    parser.add_argument("--subfolder", metavar="PATH", help="only this folder: the same as /PATH")


def _add_settings(parser: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    for name in names:
        metavar, text = _HELP[name]
        option = f"--{name.replace('_', '-')}"
        if metavar is None:
            parser.add_argument(option, action="store_const", const=True, help=text)
        elif name in _PATTERNS:  # as it stands: a name may hold blanks and commas
            parser.add_argument(option, metavar=metavar, action="append", help=text)
        else:
            parser.add_argument(option, metavar=metavar, type=_checked(PARSERS[name]), help=text)


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A setting's parser as argparse wants it: its complaint is then told with the option's name."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except UsageError as wrong:
            raise argparse.ArgumentTypeError(str(wrong)) from None

    return checked
