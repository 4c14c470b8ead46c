"""The parser of the command line: argparse with one-line errors, help laid out for reading, commands loaded on use.

An error is raised as UsageError and printed where all errors are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Final, NoReturn

from ..errors import UsageError
from .commands import COMMANDS, GROUPS, Examples
from .options import CONFIG_DIRS

EXAMPLES: Final[Examples] = (
    ("hffs mount openai/whisper-tiny ~/whisper", "its files can be read at once"),
    ("hffs status --watch", "what is being fetched, and why"),
    ("hffs hydrate ~/whisper", "fetch and verify all of it"),
    ("hffs unmount ~/whisper", "fetched data stays cached"),
)
_WIDEST: Final = 100  # columns of help: longer lines are hard to read
_USAGE: Final = 8  # options listed in a usage line at most

# argparse offers no public access to its groups and subcommands.
# ruff: noqa: SLF001


class Formatter(argparse.HelpFormatter):
    """argparse's, but texts of several lines keep them, and no line is longer than ``_WIDEST``."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)
        self._width = min(self._width, _WIDEST)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(part if "\n" in part else fill(part, width, indent) for part in text.split("\n\n"))


class Parser(argparse.ArgumentParser):
    """argparse's, but an error is a UsageError; help groups commands by purpose, has a usage of one line, and ends with
    examples. With ``module``, the arguments are declared by that module of ``commands`` when they are first needed."""

    def __init__(self, *args: Any, module: str = "", **more: Any) -> None:
        super().__init__(*args, **{"formatter_class": Formatter, "allow_abbrev": False, **more})
        self._module = module

    def load(self) -> None:
        """Declares the arguments of a command, unless that is done."""
        module, self._module = self._module, ""
        if module:
            loaded = import_module(f".commands.{module}", __package__)
            self.set_defaults(run=loaded.run)
            add_common_options(self)
            loaded.declare(self)
            self.add_examples(loaded.EXAMPLES)

    def add_examples(self, found: Examples) -> None:
        width = max((len(line) for line, about in found if about), default=0)
        lines = [f"  {line:<{width}}  {about}".rstrip() for line, about in found]
        self.epilog = "\n\n".join(filter(None, ("\n".join(["examples:", *lines]), self.epilog)))

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "), f"see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, but unknown arguments are refused by the command's own parser, which knows its options."""
        self.load()
        found, unknown = super().parse_known_args(args, namespace)
        option = next((word.partition("=")[0] for word in unknown if word.startswith("-") and len(word) > 1), None)
        if option is not None:
            raise self._no_such("option", option, self._option_string_actions)
        if unknown:
            raise UsageError(f"{unknown[0]!r} is one argument too many", f"see {self.prog} --help")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            raise self._no_such(str(action.metavar).lower(), value, action.choices)
        super()._check_value(action, value)

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        try:
            return super()._get_value(action, text)
        except UsageError as wrong:  # of a parser of values: its message gets the name of the option
            raise argparse.ArgumentError(action, str(wrong)) from None

    def _no_such(self, kind: str, word: str, known: Iterable[str]) -> UsageError:
        from difflib import get_close_matches  # 6 ms, for a mistake only

        longer = [each for each in known if each.startswith(word)]  # abbreviations would change with new options
        close = longer or get_close_matches(word, list(known), 1)
        near = f"did you mean {close[0]}? " if close else ""
        return UsageError(f"no such {kind}: {word}", f"{near}see {self.prog} --help")

    def format_usage(self) -> str:
        self.load()
        return f"usage: {self._short_usage() or super().format_usage().removeprefix('usage: ').rstrip()}\n"

    def format_help(self) -> str:
        self.load()
        formatter = self._get_formatter()
        formatter.add_usage(self._short_usage() or self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for group in self._action_groups:
            sections = {"arguments" if group.title == "positional arguments" else group.title: group._group_actions}
            if self.prog == "hffs" and group.title == "positional arguments":
                commands = {each.dest: each for each in group._group_actions[0]._choices_actions}  # type: ignore[attr-defined]
                sections = {
                    title: [commands[name] for name in commands if COMMANDS[name].group == title] for title in GROUPS
                }
            for title, actions in sections.items():
                formatter.start_section(title)
                formatter.add_text(group.description)
                formatter.add_arguments(actions)
                formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _short_usage(self) -> str | None:
        """A usage of one line where all options would take several."""
        if self.usage or sum(bool(action.option_strings) for action in self._actions) <= _USAGE:
            return None
        shapes = {"?": "[{0}]", "*": "[{0} ...]", "+": "{0} [{0} ...]"}
        words = [
            shapes.get(str(action.nargs), "{0}").format(action.metavar or action.dest)
            for action in self._actions
            if not action.option_strings
        ]
        return " ".join([self.prog, "[OPTION]...", *words])


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from .. import __version__

        print(f"hffs {__version__}")
        parser.exit()


def add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="log more, show tracebacks")
    about = f"a file of settings that overrides hffs.toml in {CONFIG_DIRS}; none: read no file"
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=about)


def build(*, load: bool = False) -> Parser:
    """The parser of ``hffs``. What it parses has ``command`` and ``run``, unless no command was given. With ``load``
    all commands are declared, for the completion and the man page."""
    about = (
        "Mount a Hugging Face model or dataset as a directory: its files are listed at once and fetched when they are"
        " read."
    )
    parser = Parser(prog="hffs", description=about, epilog="hffs COMMAND --help describes a command.")
    parser.add_examples(EXAMPLES)
    add_common_options(parser)
    version = "show the version and exit"
    parser.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        made = commands.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            aliases=command.aliases,
            module=command.module,
        )
        if load:
            made.load()
    return parser
