#!/usr/bin/env python3
"""The man page and the shell completions of hffs, made from its parser, so that they are never out of date.

    python3 scripts/shared_files.py DIR    writes DIR/share/man/man1/hffs.1 and the completions beside it

A wheel contains them: hatchling calls ``BuildHook`` (pyproject.toml), and pip installs them below the environment's
``share``. Of the dependencies of hffs it needs shtab only.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script

    class BuildHookInterface:  # type: ignore[no-redef]
        pass


ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "share/man/man1/hffs.1": "manual",
    "share/bash-completion/completions/hffs": "bash",
    "share/zsh/site-functions/_hffs": "zsh",
}
# From errors.py; 130 is how shells report an interruption.
EXIT = (
    (0, "done"),
    (1, "failed"),
    (2, "wrong use"),
    (3, "no such repo, revision, file or mount"),
    (4, "access denied"),
    (5, "the Hub is unreachable, or limits the rate of requests for too long"),
    (6, "damage was found and not repaired"),
    (7, "no space"),
    (130, "interrupted; fetched data is kept"),
)
ENVIRONMENT = (
    ("HFFS_...", "every setting, in capital letters: --cache-dir is HFFS_CACHE_DIR; an option overrides it"),
    ("HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE", "as huggingface_hub uses them"),
    ("NO_COLOR", "set to anything: no colours on a terminal"),
)
PATHS = (
    ("/etc/hffs/hffs.toml, ~/.config/hffs/hffs.toml", "settings; the environment and options override them"),
    ("/etc/hffs/NAME.toml, ~/.config/hffs/NAME.toml", "the mount @NAME"),
    ("~/.cache/hffs, of root /var/cache/hffs", "the cache"),
)


class BuildHook(BuildHookInterface):  # type: ignore[misc]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        write(Path(self._folder.name))
        build_data["shared_data"].update({f"{self._folder.name}/{name}": name for name in FILES})

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if version != "editable":
            self._folder.cleanup()


def write(folder: Path) -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from hffs.cli.commands import completion

        made = {"manual": manual(), "bash": completion.script("bash"), "zsh": completion.script("zsh")}
    finally:
        sys.path.remove(str(ROOT))
    for name, kind in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(made[kind] + "\n")


def manual() -> str:
    """The man page, as man(7) macros."""
    from importlib import import_module

    from hffs import __version__
    from hffs.cli import parser
    from hffs.cli.commands import COMMANDS, GROUPS

    grammar = parser.build(load=True)
    commands = _commands(grammar)
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))
    lines = [f'.TH HFFS 1 {date} "hffs {__version__}" "User Commands"']
    lines += [".SH NAME", r"hffs \- mount Hugging Face models and datasets as directories"]
    lines += [".SH SYNOPSIS", r"\fBhffs\fR \fICOMMAND\fR [\fIOPTION\fR]... [\fIARGUMENT\fR]..."]
    lines += [".SH DESCRIPTION", _prose(str(grammar.description))]
    lines += [".SH EXAMPLES", *_examples(parser.EXAMPLES), ".SH COMMANDS"]
    for name in sorted(COMMANDS, key=lambda name: GROUPS.index(COMMANDS[name].group)):
        lines += _command(commands[name], import_module(f"hffs.cli.commands.{COMMANDS[name].module}").EXAMPLES)
    lines += [".SH OPTIONS OF ALL COMMANDS"]
    for action in grammar._actions:
        if action.option_strings:
            lines += _entry(_option(action), action.help)
    lines += [".SH EXIT STATUS", *(line for code, means in EXIT for line in _entry(_bold(str(code)), means))]
    lines += [".SH ENVIRONMENT", *(line for name, means in ENVIRONMENT for line in _entry(_bold(name), means))]
    lines += [".SH FILES", *(line for name, means in PATHS for line in _entry(_bold(name), means))]
    lines += [".SH SEE ALSO", r"\fBmount\fR(8), \fBfusermount3\fR(1)"]
    return "\n".join(lines)


def _commands(grammar: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Commands by name, aliases left out."""
    for action in grammar._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {each.dest: action.choices[each.dest] for each in action._choices_actions}
    return {}


def _command(command: argparse.ArgumentParser, examples: Any) -> list[str]:
    words = command.format_usage().removeprefix("usage: ").split()
    lines = [f".SS {_quoted(' '.join(words))}", _prose(str(command.description))]
    for group in command._action_groups:
        actions = [each for each in group._group_actions if each.dest not in ("help", "debug")]
        entries = [each for each in actions if not isinstance(each, argparse._SubParsersAction)]
        if entries and group.title not in ("positional arguments", "options"):
            lines += [".PP", rf"\fI{_text(str(group.title))}\fR"]
        for action in entries:
            name = _option(action) if action.option_strings else _value(action)
            lines += _entry(name, action.help)
    if examples:
        lines += [".PP", *_examples(examples)]
    for each in _commands(command).values():
        lines += _command(each, ())
    return lines


def _option(action: argparse.Action) -> str:
    names = ", ".join(_bold(name) for name in action.option_strings)
    return names if action.nargs == 0 else f"{names} {_value(action)}"


def _value(action: argparse.Action) -> str:
    """The word for an argument, or for the value of an option."""
    named = "|".join(map(str, action.choices)) if action.choices else action.dest
    return rf"\fI{_text(str(action.metavar or named))}\fR"


def _entry(name: str, about: str | None) -> list[str]:
    return [".TP", name, _prose(about or "")]


def _examples(found: Any) -> list[str]:
    width = max((len(line) for line, about in found if about), default=0)
    lines = [_text(f"{line:<{width}}  # {about}" if about else line) for line, about in found]
    return [".EX", *lines, ".EE"]


def _prose(text: str) -> str:
    """Sentences in short lines, as in other man pages; roff fills them again."""
    return "\n".join(_text(line) for line in textwrap.wrap(text, 70, break_long_words=False, break_on_hyphens=False))


def _bold(text: str) -> str:
    return rf"\fB{_text(text)}\fR"


def _quoted(text: str) -> str:
    return '"' + _text(text).replace('"', r"\(dq") + '"'


def _text(text: str) -> str:
    """Text escaped for roff."""
    text = (
        text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("^", r"\(ha").replace("~", r"\(ti")
    )
    return rf"\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: {sys.argv[0]} DIR")
    sys.path.insert(0, str(ROOT))
    write(Path(sys.argv[1]))
