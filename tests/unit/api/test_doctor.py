"""Each check of the doctor finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from hffs.api import doctor
from hffs.api.doctor import DoctorFinding, disk, hub, kernel, loaders, mounted
from hffs.config import Settings
from hffs.system import mount_table
from hffs.system.mount_table import Mounted
from tests.hub import Answer, Hub, Match, faults
from tests.unit.cache.content import blob_of, some_bytes

MIB = 1 << 20


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        endpoint="http://127.0.0.1:1", cache_dir=str(tmp_path / "cache"), runtime_dir=str(tmp_path / "run"), min_free=0
    )


@pytest.fixture
def local_hub() -> Iterator[Hub]:
    with Hub() as made:
        yield made


def states(found: list[DoctorFinding]) -> list[str]:
    return [each.state for each in found]


def only(found: list[DoctorFinding], state: str) -> DoctorFinding:
    (one,) = [each for each in found if each.state == state]
    return one


# the cache


def test_a_missing_cache_is_not_created(settings: Settings) -> None:
    found = list(disk.check(settings))
    assert states(found) == ["ok", "ok"]
    assert "will be created" in found[0].what
    assert not os.path.exists(settings.cache_dir)


def test_a_cache_that_cannot_be_created_is_a_failure(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bad = only(list(disk.check(replace(settings, cache_dir=str(tmp_path / "file")))), "fail")
    assert "cannot be written to" in bad.what
    assert "--cache-dir" in bad.remedy


def test_a_full_disk_is_a_warning(settings: Settings) -> None:
    bad = only(list(disk.check(replace(settings, min_free=1 << 60))), "warn")
    assert bad.what.startswith("the disk is full")


def test_damage_in_the_cache_is_a_warning(settings: Settings) -> None:
    from hffs.cache import BlobStore, Layout
    from tests.unit.cache.content import fill

    layout = Layout(settings.cache_dir)
    layout.prepare()
    store = BlobStore(layout)
    content = some_bytes(MIB)
    fill(store, content)
    store.close()
    assert "1 blob, 1.0M on disk" in list(disk.check(settings))[-1].what
    blob = blob_of(content)
    Path(layout.paths(blob.etag, blob.origin).state).write_bytes(b"nonsense")
    bad = only(list(disk.check(settings)), "warn")
    assert bad.what == "1 of 1 blobs are damaged or unfinished"
    assert bad.remedy == "hffs cache check --repair"


def test_a_low_limit_of_open_files_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert "1024 files" in only(list(disk.check(settings)), "warn").what


# the Hub


def test_a_hub_that_answers_reports_the_user(settings: Settings, local_hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_good\n")
    asked = replace(settings, endpoint=local_hub.endpoint, token_file=str(tmp_path / "token"))
    found = list(hub.check(asked))
    assert set(states(found)) == {"ok"}
    assert found[-1].what == "logged in as alice, with a read token"
    assert "hf_good" not in repr(found)


def test_a_token_that_is_refused_is_a_failure(settings: Settings, local_hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_old")
    asked = replace(settings, endpoint=local_hub.endpoint, token_file=str(tmp_path / "token"))
    assert "refuses the token" in only(list(hub.check(asked)), "fail").what


def test_a_token_that_cannot_be_read_is_a_failure(settings: Settings, tmp_path: Path) -> None:
    asked = replace(settings, token_file=str(tmp_path / "none"))
    assert "cannot be read" in only(list(hub.check(asked)), "fail").what


def test_a_clock_that_is_wrong_is_a_warning(settings: Settings, local_hub: Hub) -> None:
    def later(_: object, answer: Answer) -> None:
        answer.put("Date", formatdate(time.time() + 3600, usegmt=True))

    local_hub.faults.add(Match(kind="whoami"), faults.afterwards(later))
    bad = only(list(hub.check(replace(settings, endpoint=local_hub.endpoint))), "warn")
    assert bad.what.startswith("this machine's clock is 3")
    assert bad.what.endswith("behind")


def test_an_endpoint_without_a_server_is_a_failure(settings: Settings) -> None:
    assert "refused" in only(list(hub.check(settings)), "fail").what


def test_offline_no_server_is_asked(settings: Settings, local_hub: Hub) -> None:
    found = list(hub.check(replace(settings, endpoint=local_hub.endpoint, offline=True)))
    assert "HF_HUB_OFFLINE" in only(found, "warn").remedy
    assert local_hub.journal.requests() == []


def test_proxies_are_reported_by_variable_without_their_secrets(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.example:3128")
    found = list(hub.check(replace(settings, offline=True)))
    assert "HTTPS_PROXY" in found[0].what
    assert "secret" not in repr(found)


# mounts, kernel, loaders


def test_no_mounts_is_ok(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount_table, "mounts", list)
    assert list(mounted.check(settings)) == [DoctorFinding("mounts", "ok", "you have none")]


def test_a_dead_mount_without_a_record_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    monkeypatch.setattr(mount_table, "mounts", lambda: [Mounted("/mnt/lost", "fuse.hffs", "hffs:acme/tiny")])
    monkeypatch.setattr(mount_table, "probe", lambda _path: errno.ENOTCONN)
    bad = only(list(mounted.check(settings)), "fail")
    assert bad.remedy == "hffs unmount /mnt/lost"


def test_user_allow_other_is_read_as_fusermount_does(tmp_path: Path) -> None:
    conf = tmp_path / "fuse.conf"
    assert not kernel.allows_other(str(conf))
    conf.write_text("# user_allow_other\nmount_max = 100\n")
    assert not kernel.allows_other(str(conf))
    conf.write_text("mount_max = 100\n  user_allow_other  # for all users\n")
    assert kernel.allows_other(str(conf))


def test_a_missing_device_is_a_failure_and_no_trial_mount_is_made(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hffs.errors import MountFailed
    from hffs.system import mountpoint

    def refuse() -> None:
        raise MountFailed("there is no /dev/fuse", "modprobe fuse")

    monkeypatch.setattr(mountpoint, "check_fuse", refuse)
    monkeypatch.setattr(kernel, "probe", lambda *_: pytest.fail("mounted without a device"))
    found = list(kernel.check(settings))
    assert (found[-1].state, found[-1].remedy) == ("fail", "modprobe fuse")


def test_hints_are_given_for_installed_loaders_only(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name == "vllm":
            return "0.33.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    (hint,) = loaders.check(settings)
    assert hint.what.startswith("vllm 0.33.0: --safetensors-load-strategy=prefetch")


# the whole


def test_a_check_that_raises_is_a_finding_and_the_others_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Settings) -> Iterator[DoctorFinding]:
        raise PermissionError(13, "Permission denied", "/proc/self/mountinfo")

    monkeypatch.setattr(doctor, "_CHECKS", (("mounts", broken), ("loaders", loaders.check)))
    found = list(doctor.examine(settings))
    assert found[0].state == "fail"
    assert found[-1].area == "loaders"


def test_the_report_contains_no_names(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user-x")
    private = replace(
        settings,
        endpoint="https://models.company.example",
        cache_dir="/home/user-x/cache",
        token_file="/secret/token",
        include=("secret-project/*",),
    )
    text = doctor.report(
        [
            DoctorFinding("hub", "ok", "models.company.example answers in 20 ms"),
            DoctorFinding("hub", "ok", "logged in as alice, with a read token"),
            DoctorFinding("mounts", "ok", "/mnt/secret serves acme/secret"),
            DoctorFinding("mounts", "fail", "/mnt/secret is dead", "hffs unmount /mnt/secret"),
        ],
        private,
    )
    for name in ("user-x/", "company", "secret", "alice", "acme"):
        assert name not in text, name
    assert "(own endpoint) answers in 20 ms" in text
    assert "logged in as (a user), with a read token" in text
    assert "a mount: serves" in text
    assert "a mount: dead" in text
    assert "- cache_dir: ~/cache" in text
