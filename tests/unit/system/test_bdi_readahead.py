"""Raising the read-ahead of a mount's device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hffs.system import bdi_readahead, mount_table


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    mounted = mount_table.Mounted("/mnt/model", mount_table.TYPE, "hffs:acme/tiny", "0:77")
    monkeypatch.setattr(mount_table, "table", lambda: {"/mnt/model": mounted})
    device = tmp_path / "0:77"
    device.mkdir()
    (device / "read_ahead_kb").write_text("128\n")
    return tmp_path


def test_read_ahead_is_raised_if_permitted(sysfs: Path) -> None:
    assert bdi_readahead.raise_to("/mnt/model", 1024, str(sysfs)) == bdi_readahead.DeviceReadahead(1024)
    assert (sysfs / "0:77" / "read_ahead_kb").read_text() == "1024\n"


def test_read_ahead_is_never_lowered(sysfs: Path) -> None:
    (sysfs / "0:77" / "read_ahead_kb").write_text("8192\n")
    assert bdi_readahead.raise_to("/mnt/model", 1024, str(sysfs)) == bdi_readahead.DeviceReadahead(8192)


def test_without_permission_the_command_is_returned(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(sysfs / "0:77" / "read_ahead_kb")
    plain_open = open

    def refusing(name: str, mode: str = "r", **options: str) -> object:
        if "w" in mode:
            raise PermissionError(13, "Permission denied", name)
        return plain_open(name, mode, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(bdi_readahead, "open", refusing, raising=False)
    found = bdi_readahead.raise_to("/mnt/model", 1024, str(sysfs))
    assert found == bdi_readahead.DeviceReadahead(128, f"echo 1024 | sudo tee {path}")


def test_an_unknown_device_has_no_read_ahead(sysfs: Path) -> None:
    os.unlink(sysfs / "0:77" / "read_ahead_kb")
    assert bdi_readahead.raise_to("/mnt/model", 1024, str(sysfs)) == bdi_readahead.DeviceReadahead(None)
    assert bdi_readahead.raise_to("/mnt/other", 1024, str(sysfs)) == bdi_readahead.DeviceReadahead(None)
