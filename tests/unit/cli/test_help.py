"""`--help`, the man page and completion: all made from the parser."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hffs.cli import parser
from hffs.cli.commands import COMMANDS, GROUPS
from hffs.cli.options import REPO

from .conftest import CHECKOUT

BUILT = parser.build(load=True)
EXAMPLES = {name: importlib.import_module(f"hffs.cli.commands.{row.module}").EXAMPLES for name, row in COMMANDS.items()}
EXAMPLES[""] = parser.EXAMPLES


def commands(grammar: argparse.ArgumentParser = BUILT) -> dict[str, argparse.ArgumentParser]:
    for action in grammar._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {each.dest: action.choices[each.dest] for each in action._choices_actions}
    return {}


def everyone() -> Iterator[argparse.ArgumentParser]:
    yield BUILT
    for command in commands().values():
        yield command
        yield from commands(command).values()


def test_every_command_has_a_group_and_examples() -> None:
    assert set(commands()) == set(COMMANDS)
    assert {command.group for command in COMMANDS.values()} == set(GROUPS)
    assert all(EXAMPLES.values())


def test_the_readme_has_every_command() -> None:
    table = [line for line in Path(CHECKOUT, "README.md").read_text().splitlines() if line.startswith("|")]
    for name, command in commands().items():
        assert any(f"`hffs {name}" in line for line in table), name
        for action in commands(command):
            assert any(f"`hffs {name}" in line and re.search(rf"\b{action}`", line) for line in table), action


@pytest.mark.parametrize("line", [line for found in EXAMPLES.values() for line, _ in found])
def test_every_example_is_a_command_line(line: str) -> None:
    words = shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", line))
    assert words[0] == "hffs"
    BUILT.parse_args(words[1 : words.index(">") if ">" in words else None])


@pytest.mark.parametrize(("columns", "widest"), [("80", 80), ("160", 100)])
def test_help_has_at_most_100_columns(monkeypatch: pytest.MonkeyPatch, columns: str, widest: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for each in everyone():
        output = each.format_help()
        assert max(map(len, output.splitlines())) <= widest, output
        assert REPO in output or "ORG/NAME[@REVISION]" not in output, "it is one word"


def test_help_groups_commands_by_purpose_and_options_by_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    output = BUILT.format_help()
    positions = [output.index(f"\n{title}:\n") for title in GROUPS if f"\n{title}:\n" in output]
    assert positions == sorted(positions)
    assert len(positions) == len(GROUPS)
    for name in commands():
        assert len(re.findall(rf"^  {name}\b", output, re.MULTILINE)) == 1
    mount = commands()["mount"].format_help()
    assert mount.startswith("usage: hffs mount [OPTION]... REPO [MOUNTPOINT]\n\n")
    assert mount.index("\ncache:\n  --cache-dir DIR ") < mount.index("\nspeed:\n") < mount.index("\nexamples:\n")
    assert commands()["bandwidth"].format_usage().endswith("MOUNTPOINT [SIZE]\n")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    script = Path(CHECKOUT, "scripts", "shared_files.py")
    subprocess.run([sys.executable, "-W", "error", str(script), str(folder)], check=True, timeout=60)
    return folder / "share"


def checked(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr or done.stdout


def test_the_man_page_has_every_command_and_option(shared: Path) -> None:
    page = (shared / "man/man1/hffs.1").read_text().replace(r"\-", "-")
    for each in everyone():
        assert each is BUILT or f'.SS "{each.prog}' in page
        for action in each._actions:
            for name in action.option_strings:
                assert rf"\fB{name}\fR" in page
    assert page.count("\n.SH ") == 10


_AS_READ = {"LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANROFFSEQ": ""}


@pytest.mark.parametrize(
    "command",
    [
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"],
        ["mandoc", "-W", "warning,stop", "-T", "lint"],
        ["groff", "-man", "-ww", "-z"],
    ],
    ids=lambda command: command[0],
)
def test_the_man_page_is_well_formed(shared: Path, command: list[str]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"there is no {command[0]}")
    page = str(shared / "man/man1/hffs.1")
    done = subprocess.run([*command, page], capture_output=True, text=True, timeout=60, env={**os.environ, **_AS_READ})
    assert (done.returncode, done.stderr) == (0, "")


_COMPLETE = """
eval "$("$HFFS_PYTHON" -m hffs completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
complete -p hffs >/dev/null || exit 1
_shtab_hffs hffs "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("st", ["status"]),
        ("cache ev", ["evict"]),
        ("status --wa", ["--watch"]),
        ("mount acme/tiny folder/", ["folder/in"]),
        ("status fold", ["folder"]),
        ("map fi", ["file"]),
        ("mount --binding k", ["kernel"]),
        ("hydrate --type d", ["dataset"]),
        ("completion ", ["bash", "zsh"]),
    ],
)
def test_a_real_bash_completes(tmp_path: Path, words: str, offered: list[str]) -> None:
    (tmp_path / "folder" / "in").mkdir(parents=True)
    (tmp_path / "file").touch()
    environ = {**os.environ, "PYTHONPATH": CHECKOUT, "HFFS_PYTHON": sys.executable}
    command = ["bash", "--norc", "-c", _COMPLETE, "bash", "hffs", *words.split(" ")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environ)
    assert (done.stdout.split(), done.stderr) == (offered, "")


@pytest.mark.parametrize(
    ("shell", "name"), [("bash", "bash-completion/completions/hffs"), ("zsh", "zsh/site-functions/_hffs")]
)
def test_a_completion_script_is_valid_in_its_shell(shared: Path, shell: str, name: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    assert checked(shell, "-n", str(shared / name)) == ""
    if shell == "zsh":
        code = 'autoload -U compinit; compinit -u -D; eval "$(<$1)"; print $_comps[hffs]'
        assert checked("zsh", "-f", "-c", code, "zsh", str(shared / name)) == "_shtab_hffs\n"
