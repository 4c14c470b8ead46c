"""``hffs completion``: a script of bash or zsh, made from the parser by shtab.

Also called when a wheel is built, so that the shells of a system find the scripts. Live mountpoints are completed
without starting hffs: the shell reads the mount table.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from ...system.mount_table import TYPE

EXAMPLES = (
    ('eval "$(hffs completion bash)"', "in ~/.bashrc"),
    ('eval "$(hffs completion zsh)"', "in ~/.zshrc, after compinit"),
)
# Mountpoints of hffs; blanks in the table are octal escapes (proc(5)). shtab's script recognises functions that offer
# files or folders by these names.
_BASH: Final = rf"""
_hffs_target_dirs() {{
  local device mountpoint kind rest
  while read -r device mountpoint kind rest; do
    printf -v mountpoint '%b' "$mountpoint"
    [[ $kind == {TYPE} && $mountpoint == "$1"* ]] && printf '%s\n' "$mountpoint"
  done < /proc/self/mounts
  compgen -d -- "$1"
}}
_hffs_target_files() {{
  _hffs_target_dirs "$1"
  compgen -f -- "$1"
}}
"""
_ZSH: Final = rf"""
_hffs_target_dirs() {{
  local -a mounts
  local device mountpoint kind rest
  while read -r device mountpoint kind rest; do
    [[ $kind == {TYPE} ]] && mounts+=("${{(g::)mountpoint}}")
  done < /proc/self/mounts
  (( $#mounts )) && compadd -a mounts
  _files -/
}}
_hffs_target_files() {{
  _hffs_target_dirs
  _files
}}
"""
_FOLDERS: Final = {"bash": "_hffs_target_dirs", "zsh": "_hffs_target_dirs"}
_FILES: Final = {"bash": "_hffs_target_files", "zsh": "_hffs_target_files"}


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"), help="evaluate its output, as below")


def run(args: argparse.Namespace) -> int:
    print(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The script for ``shell``: bash or zsh."""
    import shtab

    from .. import parser

    # By metavar. A repo is not completed: that would need requests to the Hub.
    completers: dict[str, Any] = {"MOUNTPOINT": _FOLDERS, "TARGET": _FOLDERS, "FILE": _FILES, "DIR": shtab.DIRECTORY}
    built = parser.build(load=True)
    _set_completers(built, completers)
    preamble: Any = {"bash": _BASH, "zsh": _ZSH}
    return shtab.complete(built, shell, preamble=preamble)


def _set_completers(parser: argparse.ArgumentParser, completers: dict[str, Any]) -> None:
    for action in parser._actions:  # noqa: SLF001 - as shtab itself does
        metavar = str(action.metavar)
        if metavar in completers:
            action.complete = completers[metavar]  # type: ignore[attr-defined]
        elif "|" in metavar:
            action.choices = metavar.split("|")
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for each in action.choices.values():
                _set_completers(each, completers)
