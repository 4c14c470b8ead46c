"""``hffs mount``: a repo as a directory, by a daemon in the background or, with -f, by this process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from ... import config
from ...names import shown
from .. import options

EXAMPLES = (
    ("hffs mount openai/whisper-tiny ~/whisper", ""),
    ("hffs mount datasets/squad@refs/convert/parquet ~/squad", "a revision"),
    ("hffs mount acme/big ~/big --include '*.json'", "only these files"),
    ("hffs mount acme/big ~/big --cache-size 50G --bandwidth 20M", ""),
    ("hffs mount @whisper", "see whisper.toml"),
)


def declare(parser: argparse.ArgumentParser) -> None:
    about = f"{options.REPO} or @NAME: the mount that NAME.toml in {options.CONFIG_DIRS} describes"
    parser.add_argument("repo", metavar="REPO", help=about)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?", help="an empty directory")
    parser.add_argument("-f", "--foreground", action="store_true", help="serve it in this process, until it ends")
    options.add_repo_options(parser)
    options.add_settings(parser, options.ALL)
    parser.epilog = options.SETTINGS_HINT


def run(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ...api import mount
    from ...daemon import launcher

    spec = mount.plan(args.repo, args.mountpoint, options.given(args), **options.repo_options(args))

    def announce(message: Mapping[str, Any]) -> None:
        if message.get("ready"):
            commit = str(message.get("commit", ""))[:12]
            print(shown(f"{message.get('repo', '')} is mounted at {spec.mountpoint} (commit {commit})"), flush=True)
            if message.get("warning"):
                print(shown(f"hffs: {message['warning']}"), file=sys.stderr)

    if not args.foreground:
        announce({"ready": True, **asdict(launcher.start_daemon(spec))})
        return 0
    if spec.supervised:
        launcher.exec_supervisor(spec, announce)
    from ...daemon import app
    from ...system import log_setup
    from ...system.sd_notify import SdNotify

    log_setup.start(spec.settings, to_stderr=not spec.settings.log_file, journal=config.is_journal(2))
    manager = SdNotify(config.service_manager())
    return app.run(spec, announce, manager=manager if manager.is_present else None)
