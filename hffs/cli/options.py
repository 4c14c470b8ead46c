"""The options that commands share: the settings with their help, how a repo is named, JSON; and how help is set.

Used by ``parser``. Mistakes are raised as UsageError, so that they are told like every other error. No state.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final, NoReturn

from ..config import PARSERS
from ..errors import UsageError
from . import configuring

REPO: Final = "[hf://][datasets/|spaces/]ORG/NAME[@REVISION][/PATH]"
TARGET: Final = "a mountpoint, a path inside one, or a repo"

# Help of the settings, in the order it is shown; a {} takes nothing. All of them are also HFFS_… in the environment.
HELP: Final = {
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
    "log_format": ("logfmt|json", "of log lines (default logfmt)"),
    "log_file": ("FILE", "where the daemon logs (default: beside its control socket)"),
}
TYPES: Final = ("model", "dataset", "space")
HUB: Final = ("endpoint", "token_file", "offline")
ASKED: Final = ("runtime_dir",)  # to find the mount that a path lies in
PATTERNS: Final = ("include", "exclude")
WORKERS: Final = ("workers", "bandwidth", "min_worker_speed", "probe_seconds", "big_file", "fetch_size")
CACHE: Final = ("cache_dir", "cache_size", "min_free", "hf_cache")
HYDRATING: Final = (*PATTERNS, *WORKERS, *CACHE, *HUB, "runtime_dir")


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is a UsageError: one line, told where all errors are told."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "), f"see {self.prog} --help")


def debug() -> Parser:
    made = Parser(add_help=False)
    made.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="log more, show tracebacks")
    configuring.declare_file(made)
    return made


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_naming(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--type", choices=TYPES, help="the same as the prefix of REPO")
    parser.add_argument("--revision", metavar="REV", help="branch, tag, refs/pr/N or commit: the same as @REVISION")
    parser.add_argument("--subfolder", metavar="PATH", help="only this folder: the same as /PATH")


def add_settings(parser: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    for name in names:
        metavar, text = HELP[name]
        option = f"--{name.replace('_', '-')}"
        if metavar is None:
            parser.add_argument(option, action="store_const", const=True, help=text)
        elif name in PATTERNS:  # as it stands: a name may hold blanks and commas
            parser.add_argument(option, metavar=metavar, action="append", help=text)
        else:
            parser.add_argument(option, metavar=metavar, type=checked(PARSERS[name]), help=text)


def checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A setting's parser as argparse wants it: its complaint is then told with the option's name."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except UsageError as wrong:
            raise argparse.ArgumentTypeError(str(wrong)) from None

    return checked
