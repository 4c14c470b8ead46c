"""``hffs doctor`` on this machine: a trial mount that leaves nothing, and mounts that are dead."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub

from .conftest import Mount
from .mounted import Commands, eventually, mountinfo


def findings(commands: Commands, code: int = 0) -> list[dict[str, Any]]:
    done = commands.run("doctor", "--json")
    assert done.returncode == code, done.stdout + done.stderr
    found = json.loads(done.stdout)["findings"]
    assert isinstance(found, list)
    return found


def test_a_machine_that_mounts_is_told_so_and_left_as_it_was(commands: Commands, hub: Hub) -> None:
    commands.environment["TMPDIR"] = str(commands.home)  # where the trial mount is made; other tests mount elsewhere
    found = findings(commands)
    assert not any(str(commands.home) in line for line in mountinfo())
    said = [each["what"] for each in found if each["area"] == "fuse"]
    assert any(what.startswith("a trial mount works; the kernel speaks FUSE 7.") for what in said), said
    if os.geteuid() == 0 and any(what.startswith("passthrough works") for what in said):
        assert not any("no passthrough" in what for what in said)
    assert not commands.cache.exists()
    assert [entry.kind for entry in hub.journal.requests()] == ["whoami"]


@pytest.mark.allow_warnings
def test_a_dead_mount_is_found_and_its_remedy_works(commands: Commands, hub: Hub, mount: Mount, source: Path) -> None:
    hub.add_repo("acme/tiny", files=source)
    mounted = mount("acme/tiny", "--prefetch", "none")
    assert any(each["what"] == f"{mounted.path} serves acme/tiny" for each in findings(commands))
    mounted.kill()
    assert eventually(lambda: not mounted.is_alive(), 10)
    (dead,) = [each for each in findings(commands, code=1) if each["area"] == "mounts" and each["state"] == "fail"]
    assert dead["what"] == f"{mounted.path} is dead"
    commands.expect(*dead["remedy"].split()[1:])
    assert not mounted.is_mounted()


def test_the_report_can_be_pasted(commands: Commands) -> None:
    done = commands.run("doctor", "--report")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### hffs doctor\n")
    assert str(commands.home) not in done.stdout
    assert commands.environment["HF_ENDPOINT"] not in done.stdout
