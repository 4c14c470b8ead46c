"""The output of the commands for a real mount: plain text in a pipe whatever the environment says, drawings on a
terminal, and a watch that survives a restart of the daemon."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hffs.cli import parser
from tests.hub import Hub, Synthetic
from tests.unit.cli.terminal import CONTROL, on_a_terminal

from .conftest import Mount
from .mounted import Commands, Mounted

MIB = 2**20
# Variables that make other programs colour their output to a pipe.
FORCED_COLOURS = {
    "FORCE_COLOR": "1",
    "CLICOLOR_FORCE": "1",
    "CLICOLOR": "1",
    "TERM": "xterm-256color",
    "COLORTERM": "truecolor",
}
# Arguments by metavar; by command where that is not enough.
WORDS = {
    "TARGET": "{mount}",
    "MOUNTPOINT": "{mount}",
    "FILE": "{mount}/a.bin",
    "REPO": "acme/one",
    "REPO[/PATH]": "acme/one",
}
TOGETHER = {"completion": "bash", "mount": "acme/one {empty}", "bandwidth": "{mount} 100M", "verify": "{mount}"}
LAST = ("unmount", "restart")  # the other commands need the mount


def commands(grammar: argparse.ArgumentParser, *before: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in grammar._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action._choices_actions:
                yield from commands(action.choices[each.dest], *before, each.dest)
            return
    yield " ".join(before), grammar


def words_of(name: str, grammar: argparse.ArgumentParser) -> str:
    needed = [each for each in grammar._actions if not each.option_strings and each.nargs not in ("?", "*")]
    return TOGETHER.get(name, " ".join(WORDS.get(str(each.metavar), "") for each in needed))


def test_no_command_prints_a_control_character_into_a_pipe(hub: Hub, mount: Mount, tmp_path: Path) -> None:
    hub.add_repo("acme/one", files={"a.bin": Synthetic(3 * MIB, seed=1), "模型/\x1b[31mred.json": b"{}"})
    mounted = mount("acme/one", "--prefetch", "none")
    (tmp_path / "empty").mkdir()
    environ = {**mounted.commands.environment, **FORCED_COLOURS}
    every = sorted(commands(parser.build(load=True)), key=lambda each: each[0] in LAST)
    for name, grammar in every:
        words = words_of(name, grammar).format(mount=mounted.path, empty=tmp_path / "empty").split()
        for more in ([], ["--json"]):
            if more and not any("--json" in action.option_strings for action in grammar._actions):
                continue
            command = [sys.executable, "-m", "hffs", *name.split(), *words, *more]
            done = subprocess.run(
                command, env=environ, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
            )
            printed = done.stdout + done.stderr
            wrong = [line for line in printed.splitlines() if not line.replace("\t", "").isprintable()]
            assert not wrong, (command, wrong)
            assert "Traceback" not in printed, (command, printed)
            assert done.returncode != 2, (command, printed)
        if name == "mount":
            mounted.commands.expect("unmount", str(tmp_path / "empty"))


def test_a_map_shows_the_blocks_that_were_read(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/one", files={"a.bin": Synthetic(8 * MIB, seed=1), "sub/b": b"b"})
    mounted = mount("acme/one", "--prefetch", "none", "--fetch-size", "256K")
    file = mounted / "a.bin"
    assert "· absent 8.0M" in mounted.commands.expect("map", str(file))
    with open(file, "rb", buffering=0) as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead by the kernel
        opened.seek(4 * MIB)
        opened.read(4096)
    output = json.loads(mounted.commands.expect("map", str(file), "--json"))
    assert (output["path"], output["size"], output["mountpoint"]) == ("a.bin", 8 * MIB, str(mounted.path))
    local = [(run["start"], run["count"]) for run in output["runs"] if run["state"] == "local"]
    assert (4 * MIB // output["block_size"]) in {
        number for start, count in local for number in range(start, start + count)
    }
    mounted.commands.expect("hydrate", str(mounted.path))
    picture = mounted.commands.expect("map", str(file))
    assert f"      0B  {'█' * 32}\n█ local 8.0M (100 %)\n" in picture
    missing = mounted.commands.run("map", str(mounted / "none"))
    assert (missing.returncode, missing.stdout) == (3, "")
    folder = mounted.commands.run("map", str(mounted / "sub"))
    assert (folder.returncode, folder.stdout) == (2, "")
    assert folder.stderr.startswith(f"hffs: {mounted / 'sub'} is a folder, not a file: ")


def test_a_watch_survives_a_restart_of_the_daemon(mounted: Mounted, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for name, value in mounted.commands.environment.items():
        monkeypatch.setenv(name, value)
    with on_a_terminal("status", "--watch", "--interval", "0.1", width=160) as terminal:
        terminal.wait_for(r"1 mount, .*serving")
        mounted.commands.expect("restart", str(mounted.path))
        terminal.wait_for(r"1 mount, .*serving")
        mounted.unmount()
        terminal.wait_for("no mounts")
        terminal.press(b"\x03")
        assert terminal.end() == 0
    assert "Traceback" not in CONTROL.sub("", terminal.written)


def test_bash_completes_a_live_mountpoint(mounted: Mounted, commands: Commands) -> None:
    script = commands.expect("completion", "bash")
    start = str(mounted.path)[:-1]
    words = f'COMP_WORDS=(hffs status "{start}"); COMP_CWORD=2; _shtab_hffs hffs "{start}" status'
    ask = f'{script}\n{words}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, timeout=60)
    assert str(mounted.path) in done.stdout.splitlines()


def test_hydrating_on_a_terminal_ends_with_a_summary(mounted: Mounted, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for name, value in mounted.commands.environment.items():
        monkeypatch.setenv(name, value)
    with on_a_terminal("hydrate", str(mounted.path)) as terminal:
        assert terminal.end() == 0
    assert re.search(r"files, .*, verified; ", terminal.written.splitlines()[-1])
