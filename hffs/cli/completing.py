"""``hffs completion``: a script that makes bash or zsh complete hffs, made from the parser (shtab).

Called by ``main``; also when a wheel is built, whose scripts the system's shells find by themselves. A live mountpoint
is completed without starting hffs: the shell reads the mount table.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

import shtab

from ..system.mount_table import TYPE
from . import parser

# Mountpoints of ours; blanks in them are octal escapes in the table (proc(5)). The names of the functions tell shtab's
# script that what they offer is files and folders.
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
# What is completed, by the word that stands for it in the help. A repo is not: nobody is asked for names.
_BY_METAVAR: Final = {"MOUNTPOINT": _FOLDERS, "TARGET": _FOLDERS, "FILE": _FILES, "DIR": shtab.DIRECTORY}


def show(args: argparse.Namespace) -> int:
    print(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The script for ``shell``: bash or zsh."""
    made = parser.build()
    _name_completers(made)
    preamble: Any = {"bash": _BASH, "zsh": _ZSH}
    return shtab.complete(made, shell, preamble=preamble)


def _name_completers(grammar: argparse.ArgumentParser) -> None:
    for action in grammar._actions:  # noqa: SLF001 - as shtab itself does
        completer = _BY_METAVAR.get(str(action.metavar))
        if completer is not None:
            action.complete = completer  # type: ignore[attr-defined]
        elif "|" in str(action.metavar):
            action.choices = str(action.metavar).split("|")
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for each in action.choices.values():
                _name_completers(each)
