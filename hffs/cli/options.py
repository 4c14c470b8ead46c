"""The options that commands share: the settings with their help, how a repo is named, JSON; and how help is set.

Used by ``parser``. Mistakes are raised as UsageError, so that they are told like every other error. No state.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

from ..config import SETTINGS
from ..errors import UsageError
from . import configuring
from .examples import GROUPS, examples

REPO: Final = "[hf://][datasets/|spaces/]ORG/NAME[@REVISION][/PATH]"
TARGET: Final = "a mountpoint, a path inside one, or a repo"

ALL: Final = tuple(name for name in SETTINGS if name != "debug")
TYPES: Final = ("model", "dataset", "space")
SHELLS: Final = ("bash", "zsh")
HUB: Final = ("endpoint", "token_file", "offline")
ASKED: Final = ("runtime_dir",)  # to find the mount that a path lies in
PATTERNS: Final = ("include", "exclude")
WORKERS: Final = ("workers", "bandwidth", "min_worker_speed", "probe_seconds", "big_file", "fetch_size")
CACHE: Final = ("cache_dir", "cache_size", "min_free", "hf_cache")
HYDRATING: Final = (*PATTERNS, *WORKERS, *CACHE, *HUB, "runtime_dir")


# Under which heading a setting is shown by a command that has many.
_HEADINGS: Final = {
    "what is shown and fetched": (*PATTERNS, "prefetch"),
    "cache": CACHE,
    "speed": WORKERS,
    "Hub": HUB,
}
_REST: Final = "mount"
_MANY: Final = 6  # settings; fewer stand among the other options
_WIDEST: Final = 100  # columns of help: longer lines are hard to read
_USAGE: Final = 8  # options named in a usage line; more say less


class Formatter(argparse.HelpFormatter):
    """argparse's, but what has lines of its own keeps them, and no line is too long to read."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)
        self._width = min(self._width, _WIDEST)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.split("\n\n")
        return "\n\n".join(part if "\n" in part else self._filled(part, width, indent) for part in parts)

    def _filled(self, text: str, width: int, indent: str) -> str:
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is a UsageError: one line, told where all errors are told. Its help is laid out for
    reading: commands by purpose, a usage of one line, examples last."""

    def __init__(self, *args: Any, example: str | None = None, **more: Any) -> None:
        """``example`` names the examples that are shown (``examples.EXAMPLES``)."""
        more.setdefault("formatter_class", Formatter)
        super().__init__(*args, **more)
        shown = "" if example is None else examples(example)
        self.epilog = "\n\n".join(filter(None, (shown, self.epilog))) or None

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "), f"see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, but what this parser does not know is refused here, and not above, where only the names are
        left: here it is known which options there are."""
        found, unknown = super().parse_known_args(args, namespace)
        option = next((word.partition("=")[0] for word in unknown if word.startswith("-") and len(word) > 1), None)
        if option is not None:
            raise self._no_such("option", option, self._option_string_actions)
        if unknown:
            raise UsageError(f"{unknown[0]!r} is one argument too many", f"see {self.prog} --help")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:  # noqa: SLF001
            raise self._no_such(str(action.metavar).lower(), value, action.choices)
        super()._check_value(action, value)

    def _no_such(self, kind: str, word: str, known: Iterable[str]) -> UsageError:
        from difflib import get_close_matches  # 6 ms, for a mistake only

        longer = [each for each in known if each.startswith(word)]  # abbreviations would change with new options
        close = longer or get_close_matches(word, list(known), 1)
        near = f"did you mean {close[0]}? " if close else ""
        return UsageError(f"no such {kind}: {word}", f"{near}see {self.prog} --help")

    def format_usage(self) -> str:
        return f"usage: {self._short() or super().format_usage().removeprefix('usage: ').rstrip()}\n"

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self._short() or self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for group in self._action_groups:
            actions = group._group_actions  # noqa: SLF001 - as argparse's own format_help does
            commands = [action for action in actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
            if commands and len(commands[0]._choices_actions) > _USAGE:  # noqa: SLF001
                self._add_commands(formatter, commands[0]._choices_actions)  # noqa: SLF001
                continue
            formatter.start_section("arguments" if group.title == "positional arguments" else group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _add_commands(self, formatter: argparse.HelpFormatter, commands: list[argparse.Action]) -> None:
        named = {name for names in GROUPS.values() for name in names}
        groups = {**GROUPS, "more": tuple(each.dest for each in commands if each.dest not in named)}
        for title, names in groups.items():
            chosen = [each for name in names for each in commands if each.dest == name]
            if chosen:
                formatter.start_section(title)
                formatter.add_arguments(chosen)
                formatter.end_section()

    def _short(self) -> str | None:
        """A usage of one line where all options would take several."""
        options = [action for action in self._actions if action.option_strings]
        if self.usage or len(options) <= _USAGE:
            return None
        shapes = {"?": "[{0}]", "*": "[{0} ...]", "+": "{0} [{0} ...]"}
        words = [
            shapes.get(str(action.nargs), "{0}").format(action.metavar or action.dest)
            for action in self._actions
            if not action.option_strings
        ]
        return " ".join([self.prog, "[OPTION]...", *words])


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
    headings = {name: title for title, each in _HEADINGS.items() for name in each} if len(names) > _MANY else {}
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name in names:
        place: Any = parser
        if headings:
            title = headings.get(name, _REST)
            place = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        row = SETTINGS[name]
        option = f"--{row.key}"
        if row.kind.name == "switch":
            place.add_argument(option, action="store_const", const=True, help=row.help)
        elif row.kind.name == "patterns":  # taken literally: a name may contain blanks and commas
            place.add_argument(option, metavar=row.kind.metavar, action="append", help=row.help)
        else:
            place.add_argument(option, metavar=row.kind.metavar, type=checked(row.kind.parse), help=row.help)


def checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A setting's parser as argparse wants it: its complaint is then told with the option's name."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except UsageError as wrong:
            raise argparse.ArgumentTypeError(str(wrong)) from None

    return checked
