"""``hffs unmount``."""

from __future__ import annotations

import argparse

from .. import options

EXAMPLES = (("hffs unmount ~/whisper", ""), ("hffs unmount --lazy ~/whisper", "even while it is in use"))


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="MOUNTPOINT", help=options.TARGET)
    parser.add_argument("--lazy", action="store_true", help="even when busy: detach it, and end it after its last use")
    options.add_settings(parser, ("runtime_dir",))


def run(args: argparse.Namespace) -> int:
    from ...api import mounts

    mounts.unmount(args.target, args.lazy, options.settings(args).runtime_dir)
    return 0
