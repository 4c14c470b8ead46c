"""A mount of an unprivileged user, through fusermount3, in a mount namespace of its own.

That it mounts, and what it says where something is missing, is ``tests/fault/test_machines``; here it is used.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.test_machines import FREE_DEVICE, MOUNT, UNPRIVILEGED, UNPRIVILEGED_UID, Machine, unprivileged_python
from tests.hub import Hub

from .mounted import Commands, on_both_bindings
from .sample import FILES

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT, NOT TESTED: makes machines of mount namespaces"),
    on_both_bindings,
]

WHY = {"kernel": "passthrough needs root (CAP_SYS_ADMIN)", "libfuse": "libfuse reads through the daemon"}


@pytest.fixture
def machine(commands: Commands) -> Iterator[Machine]:
    """A machine used by an unprivileged account; its folder is outside pytest's, which that account may not enter."""
    home = Path(tempfile.mkdtemp(prefix="hffs-unprivileged-"))
    try:
        machine = Machine(commands, home, unprivileged_python())
        for path in (home, machine.place):
            os.chown(path, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
        yield machine
    finally:
        shutil.rmtree(home)


def test_what_a_user_mounts_is_read_by_that_user_alone(hub: Hub, machine: Machine, source: Path, binding: str) -> None:
    hub.add_repo("acme/tiny", files=source)
    script = f"""
    {UNPRIVILEGED} sh -euc '
        {MOUNT} --prefetch none
        mkdir "$HOME/copy"
        tar -C "$M" -cf - . | tar -C "$HOME/copy" -xf -
        cat "$M/empty.txt" # tar opens no file of no bytes
        told() {{ "$PYTHON" -m hffs status "$M" --json > "$HOME/status.json"; }}
        for turn in $(seq 60); do
            told
            if grep -q "pending.: 0" "$HOME/status.json"; then break; fi
        done
        exec 3<"$M/weights.safetensors"
        told
        cat <&3 | cmp - "$HOME/copy/weights.safetensors"
        exec 3<&-
    '
    if ls "$M" 2>/dev/null; then echo "root may look"; fi
    {UNPRIVILEGED} "$PYTHON" -m hffs unmount "$M"
    """
    done = machine.run(FREE_DEVICE, script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "root may look" not in done.stdout
    for path in FILES:
        assert (machine.home / "copy" / path).read_bytes() == (source / path).read_bytes(), path
    (status,) = json.loads((machine.home / "status.json").read_text())["mounts"]
    assert status["binding"] == binding
    (opened,) = status["open_files"]
    assert (opened["path"], opened["served"]) == ("weights.safetensors", "kernel-cache")
    assert opened["why"] == WHY[binding]
    assert os.listdir(machine.place) == []
