"""The command line's grammar: the commands, and the options of each.

Used by ``main``. Mistakes are raised as UsageError, so that they are told like every other error. No state.
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from ..config import SETTINGS, above_zero, parse_seconds, parse_size
from . import configuring
from .options import (
    ALL,
    ASKED,
    HUB,
    HYDRATING,
    PATTERNS,
    REPO,
    SHELLS,
    TARGET,
    TYPES,
    Parser,
    add_json,
    add_naming,
    add_settings,
    checked,
    debug,
)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from .. import __version__

        print(f"hffs {__version__}")
        parser.exit()


def build() -> Parser:
    """The parser of ``hffs``; what it parses has ``command``, unless none was given."""
    common = debug()
    about = (
        "Mount a Hugging Face model or dataset as a directory, and use it at once: its files are listed right away "
        "and fetched when they are read."
    )
    more = "hffs COMMAND --help tells more of each."
    parser = Parser(prog="hffs", description=about, epilog=more, example="", parents=[common], allow_abbrev=False)
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version and exit"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(name: str, about: str, **more: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            example=name,
            parents=[common],
            allow_abbrev=False,
            **more,
        )
        assert isinstance(made, Parser)
        return made

    every = (
        "Each setting is also a variable in the environment (--cache-dir is HFFS_CACHE_DIR) and a key in hffs.toml"
        " (cache-dir); hffs config shows what holds, and why."
    )
    mount = command("mount", "show a repo as a read-only directory", epilog=every)
    mount.add_argument("repo", metavar="REPO", help=f"{REPO} or @NAME: what NAME.toml says, {configuring.NAMED}")
    mount.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?", help="an empty directory")
    mount.add_argument("-f", "--foreground", action="store_true", help="stay, instead of going to the background")
    add_naming(mount)
    add_settings(mount, ALL)

    unmount = command("unmount", "end a mount", aliases=["umount"])
    unmount.add_argument("target", metavar="MOUNTPOINT", help=TARGET)
    unmount.add_argument("--lazy", action="store_true", help="even when busy: gone once nobody uses it any more")
    add_settings(unmount, ("runtime_dir",))

    restart = command("restart", "replace a mount's daemon under running readers, after an upgrade for instance")
    restart.add_argument("target", metavar="MOUNTPOINT", help=TARGET)
    add_settings(restart, ("runtime_dir",))

    bandwidth = command("bandwidth", "tell or change how many bytes a second a mount may fetch")
    bandwidth.add_argument("target", metavar="MOUNTPOINT", help=TARGET)
    bandwidth.add_argument("rate", metavar="SIZE", nargs="?", type=checked(parse_size), help="0: no limit")
    add_settings(bandwidth, ("runtime_dir",))

    status = command("status", "tell what the mounts are doing")
    status.add_argument("target", metavar="TARGET", nargs="?", help=f"{TARGET} (default: every mount of yours)")
    status.add_argument("--watch", action="store_true", help="show it anew until Ctrl-C")
    status.add_argument(
        "--interval",
        metavar="TIME",
        type=checked(above_zero(parse_seconds)),
        default=1.0,
        help="how often --watch does so (default 1 s)",
    )
    add_json(status)
    add_settings(status, ("runtime_dir",))

    hydrate = command("hydrate", "bring a mount or repo to local disk and verify it", epilog=every)
    hydrate.add_argument("target", metavar="TARGET", help=TARGET)
    hydrate.add_argument("--to", metavar="DIR", help="also lay the files in this folder, linked where that is possible")
    hydrate.add_argument(
        "--to-hf-cache",
        action="store_true",
        help="also show a repo's files in huggingface_hub's cache (--hf-cache), for from_pretrained offline",
    )
    hydrate.add_argument("--force", action="store_true", help="fetch anew what is here already")
    add_naming(hydrate)
    hydrate.add_argument("--json", action="store_true", help="print one JSON object a line as things happen")
    add_settings(hydrate, HYDRATING)

    mapped = command("map", "draw which parts of a mounted file are on this disk")
    mapped.add_argument("target", metavar="FILE", help="a file in a mount")
    mapped.set_defaults(module="mapping", call="show")
    add_json(mapped)
    add_settings(mapped, ("runtime_dir",))

    verify = command("verify", "check what is local against the Hub's hashes, and mend it", epilog=every)
    verify.add_argument("target", metavar="TARGET", nargs="?", help=f"{TARGET}, or any folder")
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
    add_naming(verify)
    verify.add_argument("--json", action="store_true", help="print one JSON object a line as things happen")
    add_settings(verify, HYDRATING)
    verify.set_defaults(module="verifying", call="verify")

    settings = command("config", "show the settings that hold, and where each is from")
    configuring.declare(settings)
    add_json(settings)
    add_settings(settings, ALL)

    _add_cache(
        command("cache", "list, drop, keep and check what is on this disk").add_subparsers(
            dest="action", metavar="ACTION", parser_class=Parser, required=True
        )
    )

    ls = command("ls", "list the files of a repo, without mounting it")
    ls.add_argument("repo", metavar="REPO[/PATH]", help=REPO)
    ls.add_argument("-r", "-R", "--recursive", action="store_true", help="also what lies in its folders")
    add_naming(ls)
    add_json(ls)
    add_settings(ls, (*PATTERNS, "cache_dir", *HUB))

    info = command("info", "tell a repo's commit, size and access, without mounting it")
    info.add_argument("repo", metavar="REPO", help=REPO)
    add_naming(info)
    add_json(info)
    add_settings(info, (*PATTERNS, "cache_dir", *HUB))

    du = command("du", "tell how big a mount or repo is, and how much of it is on this disk")
    du.add_argument("target", metavar="TARGET", help=TARGET)
    add_naming(du)
    add_json(du)
    add_settings(du, (*PATTERNS, "cache_dir", *HUB, "runtime_dir"))

    completion = command("completion", "print what makes a shell complete hffs")
    completion.add_argument("shell", choices=SHELLS, help="evaluate what is printed, as below")
    completion.set_defaults(module="completing", call="show")

    doctor = command("doctor", "tell what on this machine keeps hffs from working well, and how to mend it")
    shape = doctor.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON, for programs")
    shape.add_argument("--report", action="store_true", help="print a text for a bug report, without secrets or names")
    add_settings(doctor, ("cache_dir", "cache_size", "min_free", "allow_other", *HUB, "runtime_dir"))
    doctor.set_defaults(module="doctoring", call="doctor")
    return parser


def cache_action(
    actions: Any, name: str, about: str, *, module: str = "caching", call: str = "", settings: tuple[str, ...] = ()
) -> argparse.ArgumentParser:
    """A new ``hffs cache NAME`` among ``actions``, done by ``call`` (default: of that name) in ``hffs.cli``'s
    ``module``."""
    made: argparse.ArgumentParser = actions.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", parents=[debug()], allow_abbrev=False
    )
    made.set_defaults(module=module, call=call or name)
    add_settings(made, ("cache_dir", *settings))
    return made


def _add_cache(actions: Any) -> None:
    which = f"a repo (without @REVISION: all of it that is known), {REPO}, or a path in a mount"
    about = "tell which repos and revisions are here, and how much of each"
    add_json(cache_action(actions, "list", about, call="show"))

    evict = cache_action(actions, "evict", "drop a repo, revision, folder or file from this disk", settings=ASKED)
    evict.add_argument("targets", metavar="TARGET", nargs="+", help=which)
    evict.add_argument("--shared", action="store_true", help="also what other revisions or files have the content of")

    prune = cache_action(actions, "prune", "drop what no revision needs as it was last seen", settings=("runtime_dir",))
    older = "also what nobody has used for so long, be it complete or not: 30 (days), 12h, 90d"
    prune.add_argument("--older", metavar="TIME", type=checked(_days), help=older)

    for name, about in (("pin", "keep what is here of a TARGET, whatever goes"), ("unpin", "keep it no longer")):
        made = cache_action(actions, name, about, settings=ASKED)
        made.add_argument("targets", metavar="TARGET", nargs="+", help=which)

    about = "take over what huggingface_hub has downloaded, without fetching it again"
    adopt = cache_action(actions, "adopt", about, module="hub_cache", settings=("hf_cache", "endpoint"))
    adopt.add_argument("repos", metavar="REPO", nargs="*", help="[datasets/|spaces/]ORG/NAME (default: all there)")
    adopt.add_argument("--type", choices=TYPES, help="the same as the prefix of REPO")
    add_json(adopt)

    about = "show a repo in huggingface_hub's cache, for from_pretrained offline"
    using = ("hf_cache", *PATTERNS, "workers", "bandwidth", *HUB)
    export = cache_action(actions, "export", about, module="hub_cache", settings=using)
    export.add_argument("repo", metavar="REPO", help=REPO)
    export.add_argument("--type", choices=TYPES, help="the same as the prefix of REPO")
    export.add_argument("--revision", metavar="REV", help="branch, tag, refs/pr/N or commit: the same as @REVISION")
    export.add_argument("--no-fetch", action="store_true", help="only what is here; tell what is missing otherwise")
    add_json(export)

    check = cache_action(actions, "check", "look through all blocks and their records for damage")
    check.add_argument("--repair", action="store_true", help="drop what is damaged, to be fetched again, and leftovers")
    add_json(check)


def _days(text: str) -> float:
    return parse_seconds(f"{text}d" if text.strip().isdigit() else text)


def flags(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, for ``config.load``."""
    given = {name: getattr(args, name, None) for name in (*SETTINGS, "config")}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }
