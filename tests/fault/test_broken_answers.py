"""Answers that break while a file is read: the reader gets the right bytes, or an errno in time; never other bytes."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hub import Hub, Match, Synthetic, faults
from tests.hub.script import Fault
from tests.mount.conftest import Mount
from tests.mount.mounted import Mounted, eventually

LFS = Synthetic(5 * (1 << 20) + 77, seed=31)
GIT = Synthetic(300_000, seed=32).read(0, 300_000)
IN_TIME = 30.0  # seconds a read may take that was given 4: the kernel asks for read-ahead first, the machine is busy
OTHER = "f" * 64

# Faults of one answer of the CDN, or of the Hub for a small file. A single one is invisible to readers.
BREAKS: dict[str, Fault] = {
    "reset": faults.reset(after=100_000),
    "short": faults.short_body(1000),
    "long": faults.long_body(b"more"),
    "range": faults.wrong_content_range(),
    "total": faults.wrong_content_range(shift=0, total=5),
    "whole": faults.ignore_range(),
    "gzip": faults.gzipped(),
    "503": faults.unavailable(),
    "429": faults.rate_limited(t=1),
    "expired": faults.expired(),
    "html": faults.status(200, "<html>log in to this hotel's network</html>"),
    "nothing": faults.raw(b""),
    "no http": faults.raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
}
# What never gets better, and what a reader is told; None: it is mended all the same.
LASTING: dict[str, tuple[Match, Fault, set[int] | None]] = {
    **{
        name: (Match(kind="cdn"), fault, {errno.EIO, errno.ETIMEDOUT})
        for name, fault in BREAKS.items()
        if name not in ("reset", "whole")
    },
    "whole": (Match(kind="cdn"), BREAKS["whole"], None),  # a server that knows no ranges will do for a file of 5 MiB
    "reset": (Match(kind="cdn"), faults.reset(after=0), {errno.EIO, errno.ETIMEDOUT}),
    "etag": (Match(kind="resolve"), faults.header("X-Linked-Etag", f'"{OTHER}"'), {errno.ESTALE}),
    "size": (Match(kind="resolve"), faults.header("X-Linked-Size", "5"), {errno.ESTALE}),
    "commit": (Match(kind="resolve"), faults.header("X-Repo-Commit", "f" * 40), {errno.ESTALE}),
    "no commit": (Match(kind="resolve"), faults.without("X-Repo-Commit"), {errno.EIO, errno.ETIMEDOUT}),
    "gone": (
        Match(kind="resolve"),
        faults.api_error(404, "Entry not found", "EntryNotFound"),
        {errno.ENOENT, errno.EIO},
    ),
    "forbidden": (Match(kind="resolve"), faults.status(403), {errno.EACCES}),
    "circle": (Match(kind="resolve"), faults.redirect_loop(), {errno.EIO, errno.ETIMEDOUT}),
    "nowhere": (Match(kind="resolve"), faults.redirect("file:///etc/passwd"), {errno.EIO, errno.ETIMEDOUT}),
}


def each(names: list[str], act: Callable[[str], object]) -> list[object]:
    """``act`` of every name at the same time."""
    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(act, names))


def outcome(path: Path) -> bytes | int:
    """What a program sees: the bytes, or an errno."""
    try:
        return path.read_bytes()
    except OSError as error:
        return error.errno or 0


def test_an_answer_that_breaks_once_is_not_noticed_by_the_reader(hub: Hub, mount: Mount) -> None:
    """A file for each way to break, LFS and git, all on one mount."""
    contents: dict[str, bytes | Synthetic] = {}
    for number, (name, fault) in enumerate(BREAKS.items()):
        contents[f"{name}.safetensors"] = Synthetic(LFS.size, seed=100 + number)
        hub.faults.add(Match(kind="cdn", file=f"{name}.safetensors", count=1), fault)
        if name != "expired":  # from the Hub itself a 403 is a refusal, at once
            contents[f"{name}.txt"] = Synthetic(len(GIT), seed=200 + number).read(0, len(GIT))
            hub.faults.add(Match(kind="resolve-cache", file=f"{name}.txt", count=1), fault)
    hub.add_repo("acme/broken", files=contents)
    mounted = mount("acme/broken", "--prefetch", "none")

    def check(name: str) -> str | None:
        made = contents[name]
        expected = made if isinstance(made, bytes) else made.read(0, made.size)
        found = outcome(mounted / name)
        return None if found == expected else f"{name}: {found if isinstance(found, int) else 'other bytes'}"

    assert [wrong for wrong in each(list(contents), check) if wrong] == []


@pytest.mark.allow_warnings
def test_an_answer_that_stays_broken_is_an_errno_in_time_and_mends_when_it_does(hub: Hub, mount: Mount) -> None:
    files = {f"{name}.safetensors": Synthetic(LFS.size, seed=300 + number) for number, name in enumerate(LASTING)}
    hub.add_repo("acme/broken", files=files)
    scripted = {
        name: hub.faults.add(replace(match, file=f"{name}.safetensors"), fault)
        for name, (match, fault, _) in LASTING.items()
    }
    mounted = mount("acme/broken", "--prefetch", "none", "--read-timeout", "4")

    def check(name: str) -> str | None:
        begun = time.monotonic()
        found = outcome(mounted / f"{name}.safetensors")
        took = time.monotonic() - begun
        made, allowed = files[f"{name}.safetensors"], LASTING[name][2]
        right = found == made.read(0, made.size) if allowed is None else found in allowed
        shown = f"errno {errno.errorcode.get(found, found)}" if isinstance(found, int) else "bytes"
        return None if right and took < IN_TIME else f"{name}: {shown} after {took:.1f} s"

    assert [wrong for wrong in each(list(LASTING), check) if wrong] == []
    assert all(each_one.hits for each_one in scripted.values()), [
        name for name, one in scripted.items() if not one.hits
    ]
    errors = mounted.status()["last_errors"]
    assert errors
    for failure in errors:
        print(failure["path"], "-", failure["what"])
        for secret in ("Signature=", "Policy=", "http://", "Traceback", "Error("):
            assert secret not in failure["what"]
    hub.faults.clear()

    def mended(name: str) -> bool:
        made = files[f"{name}.safetensors"]
        return eventually(lambda: outcome(mounted / f"{name}.safetensors") == made.read(0, made.size), 40)

    assert all(each(list(LASTING), mended)), "the mount works again as soon as the Hub does"


def test_a_signed_url_that_expires_in_the_middle_is_replaced_by_one_new_one(hub: Hub, mount: Mount) -> None:
    made = Synthetic(32 << 20, seed=33)
    hub.add_repo("acme/big", files={"model.safetensors": made})
    hub.faults.add(Match(kind="cdn", nth=3, count=1), faults.first(hub.expire_urls))
    mounted = mount("acme/big", "--prefetch", "none")
    assert (mounted / "model.safetensors").read_bytes() == made.read(0, made.size)
    assert len(hub.journal.requests("resolve", file="model.safetensors")) == 2


@pytest.mark.allow_warnings
def test_a_big_file_without_ranges_fails_at_once_and_other_files_are_readable(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/big", files={"model.safetensors": Synthetic(64 << 20, seed=34), "config.json": GIT})
    hub.faults.add(Match(kind="cdn"), faults.ignore_range())
    hub.faults.add(Match(kind="cdn"), faults.stall(0))  # no byte of it comes before the client leaves
    mounted = mount("acme/big", "--prefetch", "none")
    assert outcome(mounted / "model.safetensors") == errno.EIO
    assert (mounted / "config.json").read_bytes() == GIT
    hub.faults.wait_none_held()
    assert hub.journal.bytes_sent("cdn") == 0
    assert len(hub.journal.requests("resolve", file="model.safetensors")) == 1
    asked = [record.range for record in hub.journal.requests("cdn")]
    assert len(asked) == len(set(asked)), "no range is asked for twice"
    assert any("ignores Range" in failure["what"] for failure in mounted.status()["last_errors"])
    hub.faults.clear()


@pytest.mark.allow_warnings
def test_while_the_cdn_is_down_a_read_fails_in_time_and_works_when_it_is_back(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/big", files={"model.safetensors": LFS, "config.json": GIT})
    mounted = mount("acme/big", "--prefetch", "none", "--read-timeout", "3")
    hub.down("cdn")
    begun = time.monotonic()
    assert outcome(mounted / "model.safetensors") in (errno.EIO, errno.ETIMEDOUT)
    assert time.monotonic() - begun < IN_TIME
    assert (mounted / "config.json").read_bytes() == GIT, "what comes from the Hub itself is there"
    hub.up("cdn")
    assert eventually(lambda: outcome(mounted / "model.safetensors") == LFS.read(0, LFS.size), 30)
    assert mounted.status()["state"] == "serving"


def test_with_the_hub_gone_every_local_byte_is_served_and_looked_at(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/big", files={"model.safetensors": LFS, "sub/config.json": GIT})
    mounted = mount("acme/big", "--prefetch", "none")
    for name, data in (("model.safetensors", LFS.read(0, LFS.size)), ("sub/config.json", GIT)):
        assert (mounted / name).read_bytes() == data
    hub.down()
    drop_caches(mounted)
    assert sorted(os.listdir(mounted.path)) == ["model.safetensors", "sub"]
    assert (mounted / "model.safetensors").read_bytes() == LFS.read(0, LFS.size)
    assert (mounted / "sub/config.json").read_bytes() == GIT
    status = mounted.status()
    assert status["bytes_local"] == status["bytes_total"] == LFS.size + len(GIT)


def drop_caches(mounted: Mounted) -> None:
    """The kernel forgets the pages of every file, as far as it may."""
    for path in mounted.path.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)
