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
parameters = json.load(sys.stdin)
def report(**message): os.write(parameters["report_fd"], json.dumps(message).encode() + b"\\n")
"""


@pytest.fixture
def spec(settings: Settings, tmp_path: Path) -> MountSpec:
    return MountSpec("acme/tiny", f"{tmp_path}/mnt", settings, revision="main")


def start(spec: MountSpec, script: str, deadline: float = 20.0) -> launcher.Ready:
    return launcher.start_daemon(spec, [sys.executable, "-c", PROLOGUE + script], deadline)


def test_the_daemon_gets_its_specification_on_standard_input(spec: MountSpec, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    with pytest.raises(launcher.LaunchFailure):
        start(spec, f"open({str(seen)!r}, 'w').write(parameters['spec']); report(error='enough')")
    assert MountSpec.from_json(seen.read_text()) == spec


def test_an_error_that_the_daemon_reports_is_raised_with_its_exit_code(spec: MountSpec) -> None:
    with pytest.raises(launcher.LaunchFailure) as caught:
        start(spec, "report(pid=os.getpid()); report(error='no such repo', remedy='check the name', exit_code=3)")
    assert (str(caught.value), caught.value.exit_code) == ("no such repo: check the name", 3)


def test_a_report_in_pieces_is_read_whole(spec: MountSpec) -> None:
    script = """
for byte in json.dumps({"error": "é in pieces"}).encode() + b"\\n":
    os.write(parameters["report_fd"], bytes([byte]))
"""
    with pytest.raises(launcher.LaunchFailure, match="é in pieces"):
        start(spec, script)


def test_a_daemon_that_ends_without_a_report_is_explained_by_its_last_log_line(spec: MountSpec) -> None:
    Path(spec.settings.runtime_dir).mkdir()
    Path(launcher.log_path(spec)).write_text("a line of an earlier mount\n")
    with pytest.raises(MountFailed, match=r"ended unexpectedly: ZeroDivisionError: division by zero$"):
        start(spec, "1 / 0")
    with pytest.raises(MountFailed, match=r"ended unexpectedly$"):
        start(spec, "pass")


def test_a_daemon_that_is_not_ready_in_time_is_ended(spec: MountSpec, tmp_path: Path) -> None:
    """The daemon is ended by the pid that it reported, not the process that detached from it."""
    pid = tmp_path / "pid"
    script = f"""
if os.fork(): os._exit(0)
open({str(pid)!r}, "w").write(str(os.getpid()))
report(pid=os.getpid())
time.sleep(600)
"""
    with pytest.raises(MountFailed, match="not ready in time"):
        start(spec, script, deadline=1.0)
    assert mount_records.process_start(int(pid.read_text())) is None


def test_a_daemon_that_ignores_sigterm_is_killed(spec: MountSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_END_SECONDS", 0.2)
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); report(pid=os.getpid()); time.sleep(600)"
    began = time.monotonic()
    with pytest.raises(MountFailed, match="not ready in time"):
        start(spec, script, deadline=1.0)
    assert time.monotonic() - began < 15


def test_a_daemon_that_reports_ready_without_a_mount_is_an_error(
    spec: MountSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_ANSWER_SECONDS", 0.2)
    with pytest.raises(MountFailed, match="nothing is mounted"):
        start(spec, "report(ready=True, commit='0' * 40)")


def test_a_missing_command_raises_mount_failed(spec: MountSpec) -> None:
    with pytest.raises(MountFailed, match="cannot be started"):
        launcher.start_daemon(spec, ["/nonexistent/python"])


def test_the_log_is_private_and_bounded(spec: MountSpec) -> None:
    path = launcher.log_path(spec)
    before = os.umask(0)
    try:
        with pytest.raises(launcher.LaunchFailure):
            start(spec, "report(error='x')")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    Path(path).write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(launcher.LaunchFailure):
        start(spec, "print('fresh', file=sys.stderr); report(error='x')")
    assert Path(path).read_text() == "fresh\n"


def test_a_log_file_that_cannot_be_written_is_an_error(spec: MountSpec, tmp_path: Path) -> None:
    spec = replace(spec, settings=replace(spec.settings, log_file=f"{tmp_path}/no/such/log"))
    with pytest.raises(MountFailed, match="set --log-file"):
        start(spec, "")


def test_the_daemon_has_its_own_session_and_none_of_our_descriptors(spec: MountSpec, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"""
seen = {{"session": os.getsid(0), "pid": os.getpid(), "cwd": os.getcwd(), "argv": sys.orig_argv,
        "fds": [int(fd) for fd in os.listdir("/proc/self/fd")]}}
open({str(seen)!r}, "w").write(json.dumps(seen)); report(error='enough')
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
def test_any_other_text_is_refused_as_a_spec(text: str) -> None:
    with pytest.raises(UsageError):
        MountSpec.from_json(text)


def test_the_daemon_reports_a_spec_it_cannot_parse(spec: MountSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MountSpec, "to_json", lambda _: "{}")
    with pytest.raises(launcher.LaunchFailure) as caught:
        launcher.start_daemon(spec)
    assert caught.value.exit_code == 2


@pytest.mark.fuse
def test_a_failed_mount_raises_the_reported_error(in_namespace: Callable[[str], None]) -> None:
    """The real daemon: malformed names, and a Hub that does not listen."""
    in_namespace("""
import socket
from hffs.api.mount import mount
with socket.socket() as closed:
    closed.bind(("127.0.0.1", 0))
    options = dict(endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}", runtime_dir=run, cache_dir=work + "/cache")
    for repo, code in (("a b/c", 2), ("../tiny", 2), ("acme/tiny", 5)):
        try: mount(repo, where, **options)
        except errors.HffsError as error: assert error.exit_code == code, (repo, error.exit_code, str(error))
        else: sys.exit("mounted")
assert where not in mount_table.table() and mount_records.every(run) == []
""")


def test_settings_cross_the_pipe_unchanged(tmp_path: Path) -> None:
    settings = config.load({"include": ("*.json",), "workers": 3}, {"HOME": str(tmp_path)})
    assert MountSpec.from_json(MountSpec("a/b", "/m", settings).to_json()).settings == settings
