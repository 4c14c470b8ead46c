"""The log of a daemon: all calls use one format, and each record is one line without injected text or secrets."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hffs import config
from hffs.config import Settings
from hffs.errors import UsageError
from hffs.system import log_format, log_setup
from hffs.system.log_format import MESSAGE, event_fields, line

PACKAGE = Path(__file__).parents[3] / "hffs"
LEVELS = {"debug", "info", "warning", "error", "critical", "exception", "log"}
# https://brandur.org/logfmt: bare words, or a quoted string with the escapes of JSON.
LOGFMT = re.compile(r'([a-z][a-z0-9_]*)=("(?:[^"\\]|\\.)*"|[^\s"=\\]+)(?: |$)')


def parsed(text: str) -> dict[str, str]:
    """Returns the pairs of a logfmt line; fails if it is none."""
    found, at = {}, 0
    while at < len(text):
        match = LOGFMT.match(text, at)
        assert match, text[at:]
        found[match[1]] = json.loads(match[2]) if match[2].startswith('"') else match[2]
        at = match.end()
    return found


def record(message: str, *values: object, level: int = logging.INFO, error: BaseException | None = None) -> Any:
    trace = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("hffs.daemon.app", level, __file__, 1, message, values, trace)
    made.created = 1_700_000_000.1234
    return made


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Yields every logger call of the package with its location."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("log", "_log", "logger", "logging")
            ):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def test_every_log_call_of_the_package_has_the_event_format() -> None:
    found = list(calls())
    assert len(found) > 60, "the walk finds them"
    wrong = []
    for where, call in found:
        assert isinstance(call.func, ast.Attribute)
        message, *values = call.args[1:] if call.func.attr == "log" else call.args
        if not isinstance(message, ast.Constant):  # chosen from a table; its formats are checked below
            continue
        text = message.value
        whole = MESSAGE.fullmatch(text)
        if whole is None or text.count("%") != len(values):
            wrong.append(f"{where}: {ast.unparse(message)} with {len(values)} values")
        elif {"time", "level", "logger", "traceback"} & {pair.split("=")[0] for pair in text.split(" ")}:
            wrong.append(f"{where}: {text} takes a name that every line has")
    assert not wrong, "\n".join(wrong)


def test_every_log_format_in_a_table_has_the_event_format() -> None:
    formats = [
        node.value
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("event=")
    ]
    assert len(formats) > 60
    assert [text for text in formats if text != MESSAGE.pattern and not MESSAGE.fullmatch(text)] == []


def test_a_record_becomes_a_line_of_logfmt_or_json() -> None:
    message = "event=mounted mountpoint=%s repo=%s files=%d seconds=%.2f limit=%s"
    mounted = record(message, "/mnt/a b", "acme/tiny", 3, 0.126, None)
    text = log_setup.LogFormatter().format(mounted)
    assert text == (
        'time=2023-11-14T22:13:20.123Z level=info event=mounted mountpoint="/mnt/a b" repo=acme/tiny files=3 '
        "seconds=0.13 limit=null logger=hffs.daemon.app"
    )
    assert json.loads(log_setup.LogFormatter("json").format(mounted)) == {
        "time": "2023-11-14T22:13:20.123Z", "level": "info", "event": "mounted", "mountpoint": "/mnt/a b",
        "repo": "acme/tiny", "files": 3, "seconds": 0.13, "limit": None, "logger": "hffs.daemon.app",
    }  # fmt: skip


@given(st.text())
@example('a\nlevel=error event=forged "x"\\')
@example("\x1b[31m\x7f\x9b\u202e\udc80")
@example("")
def test_no_value_breaks_its_line_or_controls_the_terminal(value: str) -> None:
    text = line("info", event_fields("event=x path=%s", (value,)), form="logfmt", journal=False, now=0)
    assert text.isprintable()
    assert parsed(text)["path"] == log_format.clean(value)


def test_a_traceback_is_a_value_of_its_line() -> None:
    try:
        raise ValueError("wrong\nhere")
    except ValueError as error:
        text = log_setup.LogFormatter().format(record("event=fetch-bug path=%s", "a", level=logging.ERROR, error=error))
    found = parsed(text)
    assert "\n" not in text
    assert (found["level"], found["event"], found["error"]) == ("error", "fetch-bug", "ValueError: wrong\nhere")
    assert found["traceback"].startswith("Traceback (most recent call last):\n")


def test_log_text_of_other_libraries_becomes_a_message_event() -> None:
    assert event_fields("Retrying (%r) after %s", ("x", 2)) == {"event": "message", "message": "Retrying ('x') after 2"}
    assert event_fields("100 %", ()) == {"event": "message", "message": "100 %"}
    assert event_fields("event=x path=%s", ()) == {"event": "message", "message": "event=x path=%s"}


SECRETS = (
    "hf_" + "aB3" * 11,
    "X-Amz-Signature=0123456789abcdef",
    "bearer 0123456789abcdef",
    "user:password@",
)


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_secrets_in_messages_are_masked(form: Any) -> None:
    token, signature, bearer, login = SECRETS
    quoted = f"{token} https://cdn/x?{signature}&b=1 Authorization: {bearer} http://{login}host/x"
    try:
        raise OSError(quoted)
    except OSError as error:
        whole = record("event=x error=%s", quoted, error=error)
    text = log_setup.LogFormatter(form).format(whole)
    assert [secret for secret in (token, "0123456789abcdef", "password") if secret in text] == []
    assert "https://cdn/x" in text
    assert "hf_***" in text


@given(st.text(alphabet="abc_hf-/.?=& :@"))
def test_text_without_secrets_is_unchanged(text: str) -> None:
    if "://" not in text:
        assert log_format.clean(text) == text


def test_lines_for_the_journal_have_its_priority_and_no_time() -> None:
    formatter = log_setup.LogFormatter(journal=True)
    assert formatter.format(record("event=x", level=logging.WARNING)).startswith("<4>level=warning event=x ")
    assert formatter.format(record("event=x", level=logging.ERROR)).startswith("<3>level=error ")
    assert formatter.format(record("event=x")).startswith("<6>")
    assert formatter.format(record("event=x", level=logging.DEBUG)).startswith("<7>")


def test_the_journal_is_detected_by_its_device_and_inode(tmp_path: Path) -> None:
    with open(tmp_path / "journal", "w") as file:
        found = os.fstat(file.fileno())
        named = f"{found.st_dev}:{found.st_ino}"
        assert config.is_journal(file.fileno(), {"JOURNAL_STREAM": named})
        assert not config.is_journal(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:1"})
        assert not config.is_journal(file.fileno(), {})
    assert not config.is_journal(file_that_is_closed(), {"JOURNAL_STREAM": named})


def file_that_is_closed() -> int:
    left, right = os.pipe()
    os.close(left)
    os.close(right)
    return right


START = """
import logging, os, sys
from hffs.config import Settings
from hffs.system import log_setup
log_setup.start(Settings({settings}), to_stderr={to_stderr})
log, other = logging.getLogger("hffs.x"), logging.getLogger("urllib3")
log.debug("event=low"); log.info("event=middle"); log.warning("event=high")
other.warning("theirs"); other.error("theirs, wrong")
"""


def lines_of(settings: str, to_stderr: bool = True) -> list[dict[str, str]]:
    code = START.format(settings=settings, to_stderr=to_stderr)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [parsed(each) for each in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("settings", "events"),
    [
        ("log_level='debug'", ["low", "middle", "high", "message"]),
        ("", ["middle", "high", "message"]),
        ("log_level='warning'", ["high", "message"]),
        ("log_level='error'", ["message"]),
        ("log_level='error', debug=True", ["low", "middle", "high", "message"]),
    ],
)
def test_the_level_filters_records(settings: str, events: list[str]) -> None:
    assert [each["event"] for each in lines_of(settings)] == events


def test_a_log_file_is_appended_to_and_may_be_truncated_meanwhile(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")
    assert lines_of(f"log_file={str(file)!r}", to_stderr=False) == []
    first, *rest = file.read_text().splitlines()
    assert first == "before"
    assert [parsed(each)["event"] for each in rest] == ["middle", "high", "message"]

    handler = logging.FileHandler(file)  # opened as by log_setup.start
    handler.setFormatter(log_setup.LogFormatter())
    handler.emit(record("event=first"))
    os.truncate(file, 0)  # what logrotate's copytruncate does
    handler.emit(record("event=second"))
    handler.close()
    assert [parsed(each)["event"] for each in file.read_text().splitlines()] == ["second"], "without a hole before it"


def test_the_log_format_is_a_setting() -> None:
    assert config.load({}, {"HFFS_LOG_FORMAT": "json"}).log_format == "json"
    assert config.load({}, {}).log_format == "logfmt"
    with pytest.raises(UsageError, match="HFFS_LOG_FORMAT"):
        config.load({}, {"HFFS_LOG_FORMAT": "xml"})


def test_the_supervisor_writes_the_same_format_as_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    from hffs.daemon.supervisor import Supervisor

    for options, begin in (
        ({"log_format": "json"}, '{"time": "'),
        ({"journal": True}, "<4>level=warning event=worker-died"),
    ):
        written = io.StringIO()
        monkeypatch.setattr(sys, "stderr", written)
        Supervisor({"spec": "", **options})._log("warning", "worker-died", {"signal": 9})
        assert written.getvalue().startswith(begin)
        assert written.getvalue().endswith("\n")
    assert Settings().log_format == "logfmt"
