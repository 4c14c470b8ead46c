"""``hffs du``: the size of a mount or repo, and how much of it is cached, by folder or by type of file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from ...errors import MountNotFound
from .. import options
from ..display import units
from ..display.tables import print_json, print_table

if TYPE_CHECKING:
    from ...api.usage import LocalShare, Usage

EXAMPLES = (("hffs du ~/whisper", "a mount"), ("hffs du openai/whisper-tiny", "a repo, by type of file"))


class _Counted(NamedTuple):
    """``path`` is the folder that is counted, ``complete`` whether all files in it are known."""

    mountpoint: str | None
    path: str
    complete: bool
    files: list[LocalShare]
    bytes_disk: int


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help=options.TARGET)
    options.add_repo_options(parser)
    options.add_json(parser)
    options.add_settings(parser, (*options.LISTING, "runtime_dir"))


def run(args: argparse.Namespace) -> int:
    from ...api import usage

    found = _counted(args)
    total = usage.total(found.files)
    types, folders = usage.by_type(found.files), usage.by_folder(found.files, found.path)
    if args.json:
        print_json(
            {
                "target": args.target,
                "mountpoint": found.mountpoint,
                "complete": found.complete,
                "files": total.files,
                "bytes_total": total.bytes_total if found.complete else None,
                "bytes_local": total.bytes_local,
                "bytes_disk": found.bytes_disk,
                "by_folder": [asdict(each) for each in folders],
                "by_type": [asdict(each) for each in types],
            }
        )
        return 0
    if found.mountpoint is None:
        print_usage("TYPE", "(none)", types)
    else:
        print_usage("FOLDER", ".", folders)
    partial = "" if found.complete else ", in the folders listed so far"
    on_disk = f", {units.size(found.bytes_disk)} on disk" if found.bytes_disk else ""
    local = f"{units.share(total.bytes_local, total.bytes_total)} local"
    print(f"{local}, {units.count(total.files, 'file')}{partial}{on_disk}")
    return 0


def print_usage(header: str, nameless: str, rows: Sequence[Usage]) -> None:
    cells = [
        [each.name or nameless, str(each.files), units.size(each.bytes_total), units.size(each.bytes_local)]
        for each in rows
    ]
    print_table([header, "FILES", "SIZE", "LOCAL"], cells, right=[1, 2, 3])


def _counted(args: argparse.Namespace) -> _Counted:
    """The files of a mount, where the target names one, else of a repo."""
    from ...api import inventory, mounts, repo_info
    from ...api.usage import LocalShare
    from ...vfs import Patterns

    settings = options.settings(args)
    if not any(options.repo_options(args).values()):
        try:
            mountpoint, found = mounts.files(args.target, settings.runtime_dir)
        except MountNotFound:
            if mounts.is_path(args.target):
                raise
        else:
            match = Patterns(settings.include, settings.exclude).match
            files = [LocalShare(each["path"], each["size"], each["bytes_local"]) for each in found["files"]]
            files = [file for file in files if match(file.path)]
            local = {file.path for file in files if file.bytes_local}
            disk = inventory.bytes_of_mount(mountpoint, local, settings)
            return _Counted(mountpoint, found["path"], found["complete"], files, disk)
    listing = repo_info.listing(args.target, *options.repo_options(args).values(), **options.given(args))
    disk = inventory.bytes_of_files(listing.commit, listing.entries, settings)
    return _Counted(None, listing.path, True, repo_info.local_shares(listing, settings), disk)
