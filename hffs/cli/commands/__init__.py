"""The table of commands: the only list of them that ``--help``, the parser, the completion and the man page use.

To add a command, add one row to ``COMMANDS`` and one module of the row's name to this package, with

- ``EXAMPLES``, command lines with a remark each, shown by ``--help`` and tried by a test,
- ``declare(parser)``, which adds its arguments, with the helpers of ``cli.options``, and
- ``run(args) -> int``, which prints and returns the exit code, and raises HffsError.

A module is imported only when its command is run or its help is shown, and imports ``hffs.api`` in ``run`` where that
is heavy. The completion, the man page and the README's table (checked by a test) then need nothing but the row.
"""

from __future__ import annotations

from typing import Final, NamedTuple

Examples = tuple[tuple[str, str], ...]  # command line and remark

# The headings of ``hffs --help``, in the order in which a new user needs them.
GROUPS: Final = ("mounts", "progress and usage", "download", "repos on the Hub", "this machine")


class Command(NamedTuple):
    group: str
    module: str
    help: str
    aliases: tuple[str, ...] = ()


COMMANDS: Final = {
    "mount": Command("mounts", "mount", "mount a repo as a read-only directory"),
    "unmount": Command("mounts", "unmount", "end a mount", ("umount",)),
    "restart": Command("mounts", "restart", "replace a mount's daemon under open files, for instance after an upgrade"),
    "bandwidth": Command("mounts", "bandwidth", "show or set how many bytes a second a mount may fetch"),
    "status": Command("progress and usage", "status", "show the mounts and what they are fetching"),
    "map": Command("progress and usage", "map", "draw which blocks of a mounted file are cached"),
    "du": Command("progress and usage", "du", "show the size of a mount or repo, and how much of it is cached"),
    "hydrate": Command("download", "hydrate", "fetch all files of a mount or repo and verify them"),
    "verify": Command("download", "verify", "check local files against the Hub's hashes, and repair them"),
    "ls": Command("repos on the Hub", "ls", "list the files of a repo without mounting it"),
    "info": Command("repos on the Hub", "info", "show a repo's commit, size and access without mounting it"),
    "cache": Command("this machine", "cache", "list, evict, pin, export and check cached data"),
    "config": Command("this machine", "config", "show the settings in effect and their sources"),
    "doctor": Command("this machine", "doctor", "find what keeps hffs from working well here, and how to fix it"),
    "completion": Command("this machine", "completion", "print the completion script of a shell"),
}
