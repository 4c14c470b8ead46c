"""The options that ``mount.hffs`` accepts, and the exit codes that mount(8) expects."""

from __future__ import annotations

import pytest

from hffs.api import mount
from hffs.cli import mount_helper
from hffs.cli.mount_helper import parse
from hffs.daemon import launcher
from hffs.errors import MountFailed, UsageError


def test_options_are_those_of_hffs_mount_with_underscores_or_dashes() -> None:
    parsed = parse(
        'rw,revision=refs/pr/1,type=dataset,cache_size=50G,min-free=1G,allow_other,offline=0,include=*.json,include="a,b"'
    )
    assert parsed.settings == {
        "cache_size": 50 << 30,
        "min_free": 1 << 30,
        "allow_other": True,
        "offline": False,
        "include": ("*.json", "a,b"),
    }
    assert parsed.names == {"revision": "refs/pr/1", "type": "dataset"}
    assert not parsed.noexec


def test_generic_mount_options_are_accepted() -> None:
    text = (
        "defaults,ro,noauto,user,_netdev,nofail,x-systemd.automount,x-systemd.idle-timeout=60,X-mount.mkdir=755,"
        "comment=mine,nodev,nosuid,exec,noatime,relatime,,auto,users,owner,async"
    )
    assert parse(text) == mount_helper.Options()
    assert parse("noexec").noexec
    assert not parse("user,noexec,exec").noexec
    assert parse("exec,noexec").noexec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cachesize=5G", "unknown option cachesize: did you mean cache_size?"),
        ("token=hf_secret", "unknown option token: did you mean token_file?"),
        ("uid=1000", "unknown option uid"),
        ("cache_size", "cache_size needs a value"),
        ("endpoint=", "endpoint needs a value"),
        ("revision", "revision needs a value"),
        ("workers=many", "workers: 'many' is not a number"),
        ("offline=perhaps", "offline: 'perhaps' is neither yes nor no"),
        ("remount,cache_size=1G", "the options of a mount cannot be changed"),
    ],
)
def test_a_wrong_option_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse(text)
    assert "secret" not in str(caught.value)


def test_sloppy_ignores_unknown_options_only() -> None:
    assert parse("uid=1000,workers=3", sloppy=True).settings == {"workers": 3}
    with pytest.raises(UsageError, match="workers"):
        parse("workers=many", sloppy=True)


@pytest.mark.parametrize(
    ("raised", "code", "expected"),
    [
        (UsageError("a mistake", "do better"), 1, "mount.hffs: a mistake: do better\n"),
        (MountFailed("no device"), 32, "mount.hffs: no device\n"),
        (KeyboardInterrupt(), 8, "mount.hffs: interrupted\n"),
        (OSError(28, "No space left on device", "/x"), 32, "mount.hffs: No space left on device /x\n"),
        (RuntimeError("oops"), 4, "mount.hffs: internal error (RuntimeError: oops)\n"),
    ],
)
def test_exit_codes_are_those_of_mount_8(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    expected: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(mount, "plan", fail)
    assert mount_helper.main(["acme/tiny", "/mnt/x", "-o", "rw"]) == code
    assert capsys.readouterr().err == expected


def test_fake_mounts_nothing_but_checks_all(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[object] = []
    monkeypatch.setattr(mount, "plan", lambda *words, **names: parsed.append((words, names)))
    monkeypatch.setattr(launcher, "start_daemon", lambda *_: pytest.fail("it is not to be mounted"))
    assert mount_helper.main(["acme/tiny", "/mnt/x", "-s", "-f", "-n", "-v", "-t", "hffs", "-o", "rw,revision=a"]) == 0
    assert parsed == [(("acme/tiny", "/mnt/x", {}), {"revision": "a"})]
    assert mount_helper.main(["acme/tiny"]) == 1
    assert mount_helper.main(["acme/tiny", "/mnt/x", "-f", "-o", "zzz"]) == 1
