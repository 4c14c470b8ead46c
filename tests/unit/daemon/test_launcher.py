from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffs import config
from hffs.config import Settings
from hffs.control import mount_records
from hffs.daemon import launcher
from hffs.daemon.mount_spec import MountSpec
from hffs.errors import MountFailed, UsageError

PROLOGUE = """
import json, os, sys, time
told = json.load(sys.stdin)
def say(**message): os.write(told["report_fd"], json.dumps(message).encode() + b"\\n")
"""


@pytest.fixture
def spec(settings: Settings, tmp_path: Path) -> MountSpec:
    return MountSpec("acme/tiny", f"{tmp_path}/mnt", settings, revision="main")


def start(spec: MountSpec, script: str, deadline: float = 20.0) -> launcher.Ready:
    return launcher.start_daemon(spec, [sys.executable, "-c", PROLOGUE + script], deadline)


def test_the_daemon_is_told_everything_on_its_standard_input(spec: MountSpec, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    with pytest.raises(launcher.LaunchFailure):
        start(spec, f"open({str(seen)!r}, 'w').write(told['spec']); say(error='enough')")
    assert MountSpec.from_json(seen.read_text()) == spec


def test_what_the_daemon_reports_is_raised_with_its_exit_code(spec: MountSpec) -> None:
    with pytest.raises(launcher.LaunchFailure) as caught:
        start(spec, "say(pid=os.getpid()); say(error='no such repo', remedy='check the name', exit_code=3)")
    assert (str(caught.value), caught.value.exit_code) == ("no such repo: check the name", 3)


def test_a_report_in_pieces_is_read_whole(spec: MountSpec) -> None:
    script = """
for byte in json.dumps({"error": "é in pieces"}).encode() + b"\\n":
    os.write(told["report_fd"], bytes([byte]))
"""
    with pytest.raises(launcher.LaunchFailure, match="é in pieces"):
        start(spec, script)


def test_a_daemon_that_dies_without_a_word_is_told_by_its_last_log_line(spec: MountSpec) -> None:
    Path(spec.settings.runtime_dir).mkdir()
    Path(launcher.log_path(spec)).write_text("a line of an earlier mount\n")
    with pytest.raises(MountFailed, match=r"ended without a word, its log says: ZeroDivisionError: division by zero$"):
        start(spec, "1 / 0")
    with pytest.raises(MountFailed, match=r"ended without a word$"):
        start(spec, "pass")


def test_a_daemon_that_is_not_ready_in_time_is_ended(spec: MountSpec, tmp_path: Path) -> None:
    """It is the daemon that ends, told by its pid, not the process that left it behind."""
    pid = tmp_path / "pid"
    script = f"""
if os.fork(): os._exit(0)
open({str(pid)!r}, "w").write(str(os.getpid()))
say(pid=os.getpid())
time.sleep(600)
"""
    with pytest.raises(MountFailed, match="not ready in time"):
        start(spec, script, deadline=1.0)
    assert mount_records.process_start(int(pid.read_text())) is None


def test_a_daemon_that_ignores_being_asked_to_end_is_not_asked_again(
    spec: MountSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_END_SECONDS", 0.2)
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); say(pid=os.getpid()); time.sleep(600)"
    began = time.monotonic()
    with pytest.raises(MountFailed, match="not ready in time"):
        start(spec, script, deadline=1.0)
    assert time.monotonic() - began < 15


def test_a_daemon_that_says_ready_without_a_mount_is_not_believed(
    spec: MountSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_ANSWER_SECONDS", 0.2)
    with pytest.raises(MountFailed, match="nothing is mounted"):
        start(spec, "say(ready=True, commit='0' * 40)")


def test_a_command_that_does_not_exist_is_one_of_our_errors(spec: MountSpec) -> None:
    with pytest.raises(MountFailed, match="cannot be started"):
        launcher.start_daemon(spec, ["/nonexistent/python"])


def test_the_log_is_the_users_alone_and_does_not_grow_for_ever(spec: MountSpec) -> None:
    path = launcher.log_path(spec)
    before = os.umask(0)
    try:
        with pytest.raises(launcher.LaunchFailure):
            start(spec, "say(error='x')")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    Path(path).write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(launcher.LaunchFailure):
        start(spec, "print('fresh', file=sys.stderr); say(error='x')")
    assert Path(path).read_text() == "fresh\n"


def test_a_log_file_that_cannot_be_written_is_told(spec: MountSpec, tmp_path: Path) -> None:
    spec = replace(spec, settings=replace(spec.settings, log_file=f"{tmp_path}/no/such/log"))
    with pytest.raises(MountFailed, match="set --log-file"):
        start(spec, "")


def test_the_daemon_is_in_a_session_of_its_own_with_no_descriptor_of_ours(spec: MountSpec, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"""
seen = {{"session": os.getsid(0), "pid": os.getpid(), "cwd": os.getcwd(), "argv": sys.orig_argv,
        "fds": [int(fd) for fd in os.listdir("/proc/self/fd")]}}
open({str(seen)!r}, "w").write(json.dumps(seen)); say(error='enough')
"""
    with open(tmp_path / "ours", "w"), pytest.raises(launcher.LaunchFailure):
        start(spec, script)
    found = json.loads(seen.read_text())
    assert found["session"] == found["pid"]
    assert found["cwd"] == "/"
    assert len(found["fds"]) <= 5  # 0, 1, 2, the report pipe, the listing itself
    assert "acme" not in " ".join(found["argv"]).replace(script, "")


_size = st.integers(1, 2**40)


@given(
    st.builds(
        MountSpec,
        repo=st.text(),
        mountpoint=st.text(),
        settings=st.builds(
            Settings,
            workers=_size,
            fetch_size=_size,
            include=st.lists(st.text()).map(tuple),
            read_timeout=st.floats(0, 9),
        ),
        type=st.none() | st.text(),
        revision=st.none() | st.text(),
        subfolder=st.none() | st.text(),
    )
)
def test_a_spec_crosses_the_pipe_unchanged(spec: MountSpec) -> None:
    assert MountSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"settings": {}}', '{"repo": 1, "mountpoint": "x", "settings": {}}',
             '{"repo": "a", "mountpoint": "b", "settings": {"no_such": 1}}', '{"settings": [], "repo": ""}',
             "[" * 100_000],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_anything_else_is_no_spec(text: str) -> None:
    with pytest.raises(UsageError):
        MountSpec.from_json(text)


def test_the_daemon_itself_reports_a_spec_it_cannot_read(spec: MountSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MountSpec, "to_json", lambda _: "{}")
    with pytest.raises(launcher.LaunchFailure) as caught:
        launcher.start_daemon(spec)
    assert caught.value.exit_code == 2


@pytest.mark.fuse
def test_a_mount_that_cannot_be_reports_why(in_namespace: Callable[[str], None]) -> None:
    """The real daemon: a malformed name, and a Hub that nobody is."""
    in_namespace("""
import socket
from hffs.api.mount import mount
with socket.socket() as closed:
    closed.bind(("127.0.0.1", 0))
    options = dict(endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}", runtime_dir=run, cache_dir=work + "/cache")
    for repo, code in (("a b/c", 2), ("../tiny", 2), ("acme/tiny", 5)):
        try: mount(repo, where, **options)
        except errors.HffsError as told: assert told.exit_code == code, (repo, told.exit_code, str(told))
        else: sys.exit("mounted")
assert where not in mount_table.table() and mount_records.every(run) == []
""")


def test_settings_survive_the_pipe_as_they_were_decided(tmp_path: Path) -> None:
    settings = config.load({"include": ("*.json",), "workers": 3}, {"HOME": str(tmp_path)})
    assert MountSpec.from_json(MountSpec("a/b", "/m", settings).to_json()).settings == settings
