from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hffs import cli
from hffs.cli import options, parser
from hffs.config import SETTINGS
from hffs.control.messages import FileStatus, Status

from .conftest import CHECKOUT, Daemon

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_help_names_every_command_and_status_without_mounts_succeeds(hffs: Run, runtime: str) -> None:
    shown = hffs("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(f"\n  {word} " in shown.stdout for word in ("mount", "unmount", "status", "hydrate", "ls", "info", "du"))
    calm = hffs("status")
    assert (calm.returncode, calm.stdout, calm.stderr) == (0, "no mounts\n", "")
    assert json.loads(hffs("status", "--json").stdout) == {"mounts": []}


_LIGHT = """
import runpy, sys
sys.argv = ["hffs", *sys.argv[1:]]
try: runpy.run_module("hffs", run_name="__main__")
except SystemExit as done: assert not done.code, done.code
heavy = {"requests", "huggingface_hub", "mfusepy", "diskcache", "rich", "ssl", "asyncio", "email", "http", "logging"}
heavy |= {"tomllib", "difflib"}  # no file of settings is there
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["mount", "--help"],
        ["hydrate", "--help"],
        ["status"],
        ["status", "--json"],
        ["status", "acme/tiny"],
        ["config", "--json"],
    ],
)
def test_help_and_status_import_nothing_heavy(daemon: Daemon, words: list[str]) -> None:
    daemon()
    environ = {**os.environ, "PYTHONPATH": CHECKOUT}
    done = subprocess.run([sys.executable, "-c", _LIGHT, *words], capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_only_the_module_of_the_command_is_imported(runtime: str) -> None:
    code = "import sys; from hffs.cli import main; main(['status']); start = 'hffs.cli.commands.'"
    code += "; print(*[name.removeprefix(start) for name in sys.modules if name.startswith(start)])"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("no mounts\nstatus\n", "")


def test_importing_hffs_imports_nothing_heavy() -> None:
    code = "import sys, hffs; assert not [name for name in sys.modules if name.startswith('hffs.')]; hffs.mount"
    more = "assert not {'requests', 'huggingface_hub', 'mfusepy', 'diskcache'} & set(sys.modules)"
    names = "[getattr(hffs, name) for name in hffs.__all__]; assert set(hffs.__all__) <= set(dir(hffs))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {more}; {names}"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_stub_exports_the_names_of_the_module() -> None:
    import hffs

    stub = Path(hffs.__file__).with_suffix(".pyi").read_text()
    scope: dict[str, list[str]] = {}
    exec(stub[stub.index("__all__") : stub.index("]") + 1], scope)
    assert scope["__all__"] == hffs.__all__
    with pytest.raises(AttributeError, match="no_such_name"):
        hffs.no_such_name  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        (["bogus"], 2, "see hffs --help"),
        (["mount", "acme/tiny"], 2, "see hffs mount --help"),
        (["mount", "acme/tiny", "m", "--workers", "0"], 2, "--workers: '0' is not a number of at least 1"),
        (["mount", "acme/tiny", "m", "--fetch-size", "lots"], 2, "--fetch-size: 'lots' is not a size"),
        (["mount", "acme/tiny", "m", "--endpoint", "ftp://x"], 2, "not an http(s) URL"),
        (["mount", "acme/tiny", "m", "--cach", "x"], 2, "no such option: --cach: did you mean --cache-dir? see"),
        (["mount", "--cachedir=x", "acme/tiny", "m"], 2, "--cachedir: did you mean --cache-dir? see hffs mount --help"),
        (["unmount", "--lasy", "m"], 2, "no such option: --lasy: did you mean --lazy? see hffs unmount --help"),
        (["unmount", "m", "n"], 2, "'n' is one argument too many: see hffs unmount --help"),
        (["mont", "acme/tiny", "m"], 2, "no such command: mont: did you mean mount? see hffs --help"),
        (["--verson"], 2, "no such option: --verson: did you mean --version? see hffs --help"),
        (["cache", "evicct", "acme/tiny"], 2, "no such action: evicct: did you mean evict? see hffs cache --help"),
        (["status", "--type"], 2, "no such option: --type: see hffs status --help"),
        (["mount", "acme/tiny", "missing"], 3, "mkdir -p"),
        (["unmount", "missing"], 3, "hffs status lists the mounts"),
        (["status", "acme/tiny"], 3, "acme/tiny is not mounted"),
        (["du", "./nowhere"], 3, "./nowhere is not mounted"),
        (["status", "a\nb\x1b[31m"], 3, "a\\nb\\x1b[31m is not mounted"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    hffs: Run, runtime: str, words: list[str], code: int, output: str
) -> None:
    done = hffs(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("hffs: ")
    assert done.stderr.count("\n") == 1
    assert output in done.stderr


def test_without_a_command_help_is_printed_and_exit_code_is_2(hffs: Run) -> None:
    done = hffs()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: hffs")


def test_an_error_names_the_wrong_environment_variable(hffs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFFS_WORKERS", "many")
    done = hffs("status")
    assert (done.returncode, done.stderr) == (2, "hffs: HFFS_WORKERS: 'many' is not a number of at least 1\n")


@pytest.mark.parametrize("where", [["--debug", "status", "x"], ["status", "--debug", "x"]])
def test_a_traceback_is_shown_with_debug_only(hffs: Run, runtime: str, where: list[str]) -> None:
    done = hffs(*where)
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert "Traceback" not in hffs("status", "x").stderr


def test_status_json_is_the_daemons_answers(hffs: Run, daemon: Daemon) -> None:
    first, second = daemon("/mnt/a"), daemon("/mnt/b", repo="acme/other")
    output = json.loads(hffs("status", "--json").stdout)
    assert output == {"mounts": [first, second]}
    assert json.loads(hffs("status", "/mnt/b/", "--json").stdout) == {"mounts": [second]}
    assert Status.__required_keys__ <= set(output["mounts"][0])


def test_status_json_of_no_such_mount_is_empty_and_exit_3(hffs: Run, daemon: Daemon) -> None:
    daemon()
    done = hffs("status", "acme/none", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (3, {"mounts": []})


def test_status_is_an_aligned_table_without_a_control_character(hffs: Run, daemon: Daemon) -> None:
    daemon("/mnt/model")
    daemon("/mnt/\x1b[2Jdata", repo="acme/[red]x", type="dataset", state="degraded", bytes_total=None, files=None,
           waiting_reads=[{"path": "a\tb", "offset": 7, "size": 1, "seconds": 3.2, "on": "https://hub.example"}],
           problems=[{"path": "a.bin", "what": "has 9 bytes, which is too few for weights"}],
           last_errors=[{"at": 0.0, "what": "cannot reach hub.example", "path": "a"}])  # fmt: skip
    done = hffs("status")
    assert done.stdout.splitlines() == [
        "MOUNT             REPO                       STATE     LOCAL                   SPEED  FETCHED",
        "/mnt/\\x1b[2Jdata  datasets/acme/[red]x@main  degraded  1.0M of ?              2.9M/s     1.0M",
        "/mnt/model        acme/tiny@main             serving   1.0M of 522.7M (<1 %)  2.9M/s     1.0M",
        "cache /var/cache/hffs: 1.0M, 20.0G free on disk",
        "/mnt/\\x1b[2Jdata: degraded: its cache takes no blocks, reads continue without it",
        "/mnt/\\x1b[2Jdata: a read waits: a\\tb at 7B for 3 s, on https://hub.example",
        "/mnt/\\x1b[2Jdata: a.bin has 9 bytes, which is too few for weights: see hffs verify",
        "/mnt/\\x1b[2Jdata: 1970-01-01 00:00:00Z  a: cannot reach hub.example",
    ]


def test_status_of_one_mount_shows_its_details(hffs: Run, daemon: Daemon) -> None:
    at: dict[str, object] = {"worker": 3, "path": "a\tb", "for": "ahead", "offset": 4 << 20, "size": 1 << 20}
    working = [{**at, "bytes_per_s": 1 << 20, "seconds": 0.2}]
    hydration = {"state": "running", "bytes_done": 100, "bytes_total": 1024, "bytes_per_s": 50, "eta_s": 18.5}
    daemon(
        open_files=[{"path": "model.safetensors", "handles": 2, "served": "kernel-cache", "why": ""}],
        workers={"active": 1, "limit": 8, "bytes_per_s": 3e6, "why": "the limit set by --workers", "list": working},
        hydration={**hydration, "files_done": 1, "files_total": 3},
        bandwidth={"limit": 4 << 20},
    )
    done = hffs("status", "acme/tiny")
    assert done.stdout.splitlines() == [
        "/mnt/model  acme/tiny@main",
        "  state     serving",
        "  commit    0123456789abcdef0123456789abcdef01234567",
        f"  pid       {os.getpid()}",
        "  since     12 s, libfuse binding, from https://hub.example",
        "  local     1.0M of 522.7M (<1 %), 12 files",
        "  fetched   1.0M in 3 requests",
        "  now       2.9M/s  ETA 18 s",
        "  workers   1 of 8 (the limit set by --workers; at most 4.0M/s in all)",
        "               1.0M/s  a\\tb at 4.0M for read-ahead",
        "  hydrate   100B of 1.0K (9 %), 1 of 3 files, running",
        "  verified  0 of 12 files",
        "  cache     1.0M, 20.0G free on disk, in /var/cache/hffs",
        "  open      model.safetensors (2 handles, read through hffs)",
    ]


def test_bandwidth_is_shown_and_set(hffs: Run, daemon: Daemon) -> None:
    output = daemon()
    assert hffs("bandwidth", "/mnt/model").stdout == "no limit\n"
    assert hffs("bandwidth", "/mnt/model", "50M").returncode == 0
    assert output["bandwidth"] == {"limit": 50 << 20}
    assert hffs("bandwidth", "/mnt/model").stdout == "50.0M/s\n"
    assert hffs("bandwidth", "/mnt/model", "0").returncode == 0
    assert output["bandwidth"] == {"limit": None}
    refused = hffs("bandwidth", "/mnt/model", "fast")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is not a size" in refused.stderr


def on_a_terminal(*words: str, **environ: str) -> str:
    """The output of the command on a terminal of 80 columns."""
    controller, terminal = pty.openpty()
    with open(controller, "rb", buffering=0) as screen:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "-m", "hffs", *words]
        more = {"PYTHONPATH": CHECKOUT, "TERM": "xterm", **environ}
        with subprocess.Popen(command, stdout=terminal, env={**os.environ, **more}):
            os.close(terminal)
            written = b""
            with suppress(OSError):  # EIO: no process has the terminal open any more
                while piece := screen.read(65536):
                    written += piece
    return written.decode().replace("\r\n", "\n")


def test_states_are_coloured_and_names_are_not_read_as_markup(daemon: Daemon) -> None:
    daemon("/mnt/\x1b[2J[red]")
    shown = on_a_terminal("status")
    assert "\x1b[32mserving" in shown
    assert "/mnt/\\x1b[2J[red]" in shown
    assert "\x1b[2J" not in shown


def test_no_color_turns_colours_off(daemon: Daemon) -> None:
    daemon()
    assert "\x1b[3" not in on_a_terminal("status", NO_COLOR="1")


FILES: tuple[FileStatus, ...] = (
    {"path": "config.json", "size": 100, "bytes_local": 100, "state": "local"},
    {"path": "unet/model.safetensors", "size": 2**20, "bytes_local": 2**19, "state": "partial"},
    {"path": "unet/config.json", "size": None, "bytes_local": 0, "state": "remote"},
)


def test_du_of_a_mount_counts_its_top_level_folders(hffs: Run, daemon: Daemon) -> None:
    daemon(files=FILES)
    done = hffs("du", "/mnt/model")
    assert done.stdout.splitlines() == [
        "FOLDER  FILES  SIZE   LOCAL",
        "unet        2  1.0M  512.0K",
        ".           1  100B    100B",
        "512.1K of 1.0M (50 %) local, 3 files",
    ]


def test_du_as_json_obeys_include(hffs: Run, daemon: Daemon) -> None:
    daemon(files=FILES)
    output = json.loads(hffs("du", "acme/tiny", "--json", "--include", "*.json").stdout)
    assert (output["mountpoint"], output["files"], output["bytes_total"], output["bytes_local"]) == (
        "/mnt/model",
        2,
        100,
        100,
    )
    assert output["by_type"] == [{"name": ".json", "files": 2, "bytes_total": 100, "bytes_local": 100}]


def test_a_closed_output_pipe_prints_no_traceback(daemon: Daemon, tmp_path: Path) -> None:
    daemon()
    command = f"{sys.executable} -W error -m hffs status --json | true; exit ${{PIPESTATUS[0]}}"
    environ = {**os.environ, "PYTHONPATH": CHECKOUT, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert done.returncode in (0, 1)  # 0: it had written before the reader left
    assert done.stderr == ""


def test_a_full_disk_under_stdout_is_reported(daemon: Daemon, tmp_path: Path) -> None:
    daemon()
    environ = {**os.environ, "PYTHONPATH": CHECKOUT}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "hffs", "status", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environ)
    assert (done.returncode, done.stderr) == (1, "hffs: No space left on device\n")


def test_an_interrupted_command_exits_with_130(daemon: Daemon, runtime: str, tmp_path: Path) -> None:
    output = daemon()
    os.unlink(output["socket"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(output["socket"])
        silent.listen()
        silent.settimeout(30)
        command = [sys.executable, "-m", "hffs", "status"]
        environ = {**os.environ, "PYTHONPATH": CHECKOUT}
        with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()  # it has asked and waits for an answer
            with connection:
                process.send_signal(signal.SIGINT)
                _, stderr = process.communicate(timeout=30)
        assert (process.returncode, stderr) == (130, "hffs: interrupted\n")


def test_every_setting_is_an_option_of_mount() -> None:
    args = parser.build().parse_args(["mount", "acme/tiny", "/m"])
    assert set(SETTINGS) - {"debug"} <= set(vars(args))
    own = {"command", "run", "repo", "mountpoint", "foreground", "type", "revision", "subfolder"}
    assert set(vars(args)) - own == set(SETTINGS) - {"debug"}


def test_option_values_are_parsed_for_the_settings() -> None:
    words = (
        "mount acme/tiny /m --workers 3 --fetch-size 1M --include *.json --include a,b --allow-other --read-timeout 1m"
    )
    given = options.given(parser.build().parse_args(words.split()))
    assert given == {
        "workers": 3,
        "fetch_size": 2**20,
        "include": ("*.json", "a,b"),
        "allow_other": True,
        "read_timeout": 60,
    }


def test_an_internal_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> parser.Parser:
        raise RuntimeError("oops")

    monkeypatch.setattr(parser, "build", broken)
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().err.startswith("hffs: internal error (RuntimeError: oops): run it again with --debug")
