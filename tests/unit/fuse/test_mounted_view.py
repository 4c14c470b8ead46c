"""A real mount of a view with every kind of content: programs find there exactly what the view has."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from hffs.fuse import libfuse
from hffs.fuse.kernel import KernelBinding
from hffs.fuse.kernel.device import Device
from hffs.fuse.kernel.mount_syscall import mount
from hffs.vfs import Filesystem
from tests.model.views import Sample, sample

pytestmark = pytest.mark.fuse
MNT_DETACH = 2  # sys/mount.h
# In another process: a process that serves a mount must not wait for it.
LOOK = """
import hashlib, json, os, stat, sys
os.chdir(sys.argv[1])
found = {}
for folder, directories, files in os.walk("."):
    for name in [*directories, *files]:
        path = os.path.relpath(os.path.join(folder, name))
        about = os.lstat(path)
        kind = stat.filemode(about.st_mode)
        row = found[path] = {"mode": kind, "size": about.st_size, "ino": about.st_ino}
        if kind[0] == "l":
            row["target"] = os.readlink(path)
        if kind[0] != "d":
            row["sha256"] = hashlib.sha256(open(path, "rb").read()).hexdigest()
refused = []
for attempt in (lambda: open("new", "w"), lambda: os.unlink("link"), lambda: os.mkdir("x"), lambda: open("ref", "r+")):
    try:
        attempt()
    except OSError as error:
        refused.append(error.errno)
json.dump({"found": found, "refused": refused, "mapped": len(__import__("mmap").mmap(
    os.open("left/onnx/model.onnx", os.O_RDONLY), 0, access=1)[:])}, sys.stdout)
"""


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Sample]:
    with sample("side by side", tmp_path) as made:
        yield made


@pytest.fixture
def mounted(given: Sample, tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "mnt"
    where.mkdir()
    binding = KernelBinding(Filesystem(given.make()), str(where), device="hffs:test")
    device = Device(mount(str(where), device_name="hffs:test", allow_other=False))
    server = threading.Thread(target=binding.serve_on, args=(device, lambda: None))
    server.start()
    try:
        yield where
    finally:
        if os.geteuid():
            subprocess.run(["fusermount3", "-uz", where], check=True)
        else:
            assert ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(where), MNT_DETACH) == 0
        server.join(15)
        assert not server.is_alive()


def look(where: Path) -> Any:
    done = subprocess.run([sys.executable, "-c", LOOK, where], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_mounted_view_shows_each_kind_of_content(given: Sample, mounted: Path) -> None:
    answer = look(mounted)
    found, view = answer["found"], given.make()
    directories = {path for path, row in found.items() if row["mode"] == "dr-xr-xr-x"}
    assert {path: row["sha256"] for path, row in found.items() if row["mode"] == "-r--r--r--"} == {
        path: sha256(data).hexdigest() for path, data in given.files.items()
    }
    links = {path: row["target"] for path, row in found.items() if row["mode"].startswith("l")}
    assert links == given.links
    assert found["link"]["sha256"] == found["left/README.md"]["sha256"]
    assert directories == set(found) - set(given.files) - set(links)
    assert {path: row["ino"] for path, row in found.items()} == {path: view.find(path).id for path in found}
    assert answer["mapped"] == len(given.files["left/onnx/model.onnx"])


def test_a_mounted_view_is_read_only(mounted: Path) -> None:
    assert set(look(mounted)["refused"]) == {errno.EROFS}


def test_libfuse_serves_the_same_view(given: Sample) -> None:
    library = libfuse.load_library()
    filesystem = Filesystem(given.make())
    operations = libfuse._operations(library, filesystem, lambda: None)
    assert operations.readlink("/link") == given.links["link"]
    assert {name for name, _, _ in operations.readdir("/", 0)} == {
        ".",
        "..",
        "left",
        "right",
        "disk",
        "link",
        "member",
        "ref",
    }
    for path, data in given.files.items():
        info = library.fuse_file_info()
        operations.open(f"/{path}", info)
        assert operations.read(None, len(data) + 1, 0, info) == data
        assert bool(info.keep_cache) == (path not in ("ref", "disk"))
        assert bool(info.direct_io) == (path == "ref")
        operations.release(None, info)
    with pytest.raises(OSError, match="Invalid argument"):
        operations.readlink("/ref")
