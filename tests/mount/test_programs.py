"""Ordinary programs reading a cold mount; what they find is compared with the source byte for byte."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.hub import Hub

from .mounted import Mounted, forget_pages, on_both_bindings, program, read
from .sample import BIG, BLOCK, FILES, content

pytestmark = on_both_bindings

WEIGHTS = "weights.safetensors"


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder; None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


# Whole repos.


def test_cp_copies_every_file(mounted: Mounted, source: Path, tmp_path: Path) -> None:
    program("cp", "-r", mounted.path, tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)


@pytest.mark.parametrize("options", ["-cf", "-cSf"])
def test_tar_archives_every_byte_of_files_that_are_not_local(
    mounted: Mounted, source: Path, tmp_path: Path, options: str
) -> None:
    program("tar", options, tmp_path / "all.tar", "-C", mounted.path, ".")
    (tmp_path / "out").mkdir()
    program("tar", "-xf", tmp_path / "all.tar", "-C", tmp_path / "out")
    assert tree(tmp_path / "out") == tree(source)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_rsync_copies_every_file_and_then_finds_nothing_to_do(mounted: Mounted, source: Path, tmp_path: Path) -> None:
    sync = ("rsync", "-a", "--itemize-changes", f"{mounted.path}/", f"{tmp_path}/copy/")
    program(*sync)
    assert tree(tmp_path / "copy") == tree(source)
    assert program(*sync).stdout == ""


def test_sha256sum_agrees_with_the_source(mounted: Mounted, source: Path) -> None:
    checks = "".join(f"{hashlib.sha256(content(path)).hexdigest()}  {path}\n" for path in FILES)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet"],
        input=checks, cwd=mounted.path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_find_and_ls_see_the_same_names_and_sizes(mounted: Mounted, source: Path) -> None:
    for command in (
        ("find", ".", "-type", "f", "-printf", "%s %p\n", "-o", "-printf", "%y %p\n"),
        ("ls", "-1RA"),
    ):
        here, there = (sorted(program(*command, cwd=folder).stdout.splitlines()) for folder in (mounted.path, source))
        assert here == there
    program("find", mounted.path, "-ls")
    assert program("ls", "-lAR", mounted.path).stdout.count("-r--r--r--") == len(FILES)


# One file.


def test_dd_reads_any_stretch(mounted: Mounted, tmp_path: Path) -> None:
    for at, length in ((0, 1), (BLOCK - 1, 2), (3 * BLOCK + 7, 2 * BLOCK), (BIG.size - 3, 10), (BIG.size, 1)):
        out = tmp_path / "stretch"
        stretch = ("iflag=skip_bytes,count_bytes", f"skip={at}", f"count={length}", "bs=64K", "status=none")
        program("dd", f"if={mounted / WEIGHTS}", f"of={out}", *stretch)
        assert out.read_bytes() == BIG.read(at, length), (at, length)


def test_direct_reads_are_right_or_refused_at_open(mounted: Mounted, tmp_path: Path) -> None:
    try:
        os.close(os.open(mounted / WEIGHTS, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return
        raise
    program("dd", f"if={mounted / WEIGHTS}", f"of={tmp_path / 'direct'}", "iflag=direct", "bs=1M", "status=none")
    assert (tmp_path / "direct").read_bytes() == content(WEIGHTS)


@pytest.mark.parametrize("way", ["private", "writable", "shared", "backwards"])
def test_a_cold_file_can_be_mapped(mounted: Mounted, source: Path, way: str) -> None:
    read(way, mounted / WEIGHTS, source / WEIGHTS)


def test_a_shared_writable_mapping_is_refused(mounted: Mounted) -> None:
    with pytest.raises(OSError, match="Read-only"):
        os.open(mounted / WEIGHTS, os.O_RDWR)


def test_sixteen_threads_read_one_descriptor(mounted: Mounted, source: Path) -> None:
    read("threads", mounted / WEIGHTS, source / WEIGHTS, 16)


def test_sendfile_hands_a_cold_file_to_a_socket(mounted: Mounted) -> None:
    ours, theirs = socket.socketpair()
    received = bytearray()

    def receive() -> None:
        while piece := theirs.recv(1 << 20):
            received.extend(piece)

    receiver = threading.Thread(target=receive)
    with ours, theirs:
        receiver.start()
        with (mounted / WEIGHTS).open("rb") as file:
            sent = ours.sendfile(file)
        ours.shutdown(socket.SHUT_WR)
        receiver.join(30)
    assert sent == BIG.size
    assert bytes(received) == content(WEIGHTS)


def test_a_second_read_comes_from_the_cache_also_when_the_kernel_has_forgotten_it(hub: Hub, mounted: Mounted) -> None:
    assert (mounted / WEIGHTS).read_bytes() == content(WEIGHTS)
    before = len(hub.journal.requests())
    assert (mounted / WEIGHTS).read_bytes() == content(WEIGHTS)
    forget_pages(mounted / WEIGHTS)
    assert (mounted / WEIGHTS).read_bytes() == content(WEIGHTS)
    assert len(hub.journal.requests()) == before


def test_files_end_where_they_end_whatever_a_block_holds(mounted: Mounted) -> None:
    for path in [path for path in FILES if path.startswith("blocks/") or path == "empty.txt"]:
        expected = content(path)
        with (mounted / path).open("rb") as file:
            file.seek(-min(3, len(expected)), os.SEEK_END)
            assert file.read(100) == expected[-3:], path
            assert os.pread(file.fileno(), 100, len(expected)) == b"", path
            assert os.pread(file.fileno(), 100, len(expected) + BLOCK) == b"", path
            assert os.pread(file.fileno(), len(expected) + 100, 0) == expected, path
