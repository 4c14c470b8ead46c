"""A Hub that is away, hangs, is overloaded or talks nonsense when a command asks it: bounded, told, nothing left."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hub import Hub, Match, faults
from tests.mount.mounted import CHECKOUT, Commands

from .refusing import Refusals, error_line

FILES = {"config.json": b"{}", "sub/a.txt": b"a"}
INFO, TREE = Match(kind="info"), Match(kind="tree")


@pytest.fixture(autouse=True)
def tiny(hub: Hub) -> None:
    hub.add_repo("acme/tiny", files=FILES)


def host(hub: Hub) -> str:
    return hub.endpoint.removeprefix("http://")


@pytest.mark.usefixtures("nothing_left")
def test_a_hub_that_is_away_is_told_by_name(hub: Hub, refusals: Refusals, place: Path) -> None:
    hub.down()
    for words in (("mount", "acme/tiny", place), ("ls", "acme/tiny"), ("info", "acme/tiny"), ("du", "acme/tiny")):
        line = refusals.of(5, *words)
        assert line.startswith(f"cannot reach {host(hub)}: connection refused: check the network")


@pytest.mark.usefixtures("nothing_left")
def test_a_hub_that_accepts_and_never_answers_is_given_up(hub: Hub, commands: Commands, place: Path) -> None:
    hub.faults.add(INFO, faults.hold())
    # Every Python of it, the daemon's too, waits two seconds for an answer instead of half a minute, and asks for as
    # long as that.
    (place.parent / "site").mkdir()
    patient = "from hffs.sources.hub import hub_api\nhub_api.READ_SECONDS = hub_api.PATIENCE = 2.0\n"
    (place.parent / "site/sitecustomize.py").write_text(patient)
    commands.environment["PYTHONPATH"] = f"{place.parent / 'site'}:{CHECKOUT}"
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen([sys.executable, "-m", "hffs", *words], cwd=CHECKOUT, env=commands.environment, **pipes)  # type: ignore[call-overload]
        for words in (("mount", "acme/tiny", str(place)), ("ls", "acme/tiny"))
    ]
    try:
        for process in running:
            output, line = process.communicate(timeout=80)
            assert process.returncode == 5, line
            assert output == ""
            assert error_line(line).startswith(f"{host(hub)} did not answer in time: ")
    finally:
        for process in running:
            process.kill()
            process.communicate(timeout=10)
    assert len(hub.journal.requests()) == 2, "each asked once, and gave up in the time that it waits for an answer"


@pytest.mark.usefixtures("nothing_left")
def test_a_hub_that_stays_overloaded_is_told_with_its_answer(hub: Hub, refusals: Refusals, place: Path) -> None:
    hub.faults.add(INFO, faults.unavailable())
    line = refusals.of(5, "mount", "acme/tiny", place)
    assert line == f"{host(hub)} answered 503 when asked for model acme/tiny: try again later"


@pytest.mark.usefixtures("nothing_left")
def test_a_hub_that_asks_for_a_long_wait_is_quoted_and_not_waited_for(
    hub: Hub, refusals: Refusals, place: Path
) -> None:
    hub.faults.add(INFO, faults.rate_limited(t=280))
    begun = time.monotonic()
    line = refusals.of(5, "mount", "acme/tiny", place)
    assert "wait for 280 s" in line
    assert "too many requests" in line
    assert "hf auth login" in line, "an account has a higher rate limit"
    assert time.monotonic() - begun < 60


def test_a_short_failure_of_the_hub_is_not_noticed(hub: Hub, commands: Commands, place: Path) -> None:
    hub.faults.add(INFO, faults.unavailable(), count=1)
    hub.faults.add(TREE, faults.rate_limited(t=1), count=1)
    commands.expect("mount", "acme/tiny", str(place))
    try:
        assert (place / "config.json").read_bytes() == b"{}"
    finally:
        commands.expect("unmount", str(place))


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("asked", [INFO, TREE], ids=["info", "tree"])
def test_an_answer_that_is_nonsense_is_told_as_the_fault_of_the_host(
    hub: Hub, refusals: Refusals, place: Path, asked: Match
) -> None:
    for nonsense in (faults.bad_json(), faults.body(b"<html>Welcome to the hotel</html>"), faults.body(b"[1]")):
        scripted = hub.faults.add(asked, nonsense)
        line = refusals.of(5, "mount", "acme/tiny", place)
        assert line.startswith(f"{host(hub)} sent ")
        assert "acme/tiny" in line
        hub.faults.remove(scripted)
    assert "config.json" in refusals.commands.expect("ls", "acme/tiny"), "nothing of it was kept"


@pytest.mark.usefixtures("nothing_left")
def test_a_redirect_without_end_ends(hub: Hub, refusals: Refusals, place: Path) -> None:
    hub.faults.add(INFO, faults.redirect_loop())
    assert "redirects in a circle" in refusals.of(5, "mount", "acme/tiny", place)


@pytest.mark.usefixtures("nothing_left")
def test_what_switches_huggingface_hub_offline_is_named(hub: Hub, refusals: Refusals, place: Path) -> None:
    line = refusals.of(5, "mount", "acme/tiny", place, HF_HUB_OFFLINE="1")
    assert line.endswith("unset HF_HUB_OFFLINE")
    assert hub.journal.requests() == []
